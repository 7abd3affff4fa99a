"""Black holes and flapping links: packets vanish at the entrance of a link, and nobody is told."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

from harness.faults.fault import (
    ActiveFault,
    FaultError,
    NetworkFault,
    Receipt,
    known_link,
    known_role,
    one_of,
    registered,
)
from harness.network.fabric import Fabric, split_flow_name
from harness.network.flow import TCP, UDP, Connection
from harness.network.link import Direction
from harness.network.packet import Packet
from harness.network.topology import Topology
from harness.units import HOUR, format_duration

Which = Literal["both", "up", "down"]
Proto = Literal["any", "tcp", "udp"]
_NUMBERS = {"any": 0, "tcp": TCP, "udp": UDP}


class _Filter:
    """A rule that drops what matches, within its windows if it has any, and counts."""

    __slots__ = ("_connection", "_edges", "_port", "_proto", "_reason", "bytes", "dropped", "first", "last")

    def __init__(
        self,
        reason: str,
        *,
        proto: int = 0,
        port: int | None = None,
        connection: Connection | None = None,
        edges: Sequence[int] | None = None,
    ) -> None:
        self._reason = reason
        self._proto = proto
        self._port = port
        self._connection = connection
        self._edges = edges
        """Instants at which it goes on, off, on, …"""
        self.dropped = 0
        self.bytes = 0

    def judge(self, packet: Packet, now: int) -> str | None:
        """The rule's reason for what matches."""
        flow = packet.flow
        if self._edges is not None and not bisect_right(self._edges, now) % 2:
            return None
        if self._proto and flow.proto != self._proto:
            return None
        if self._port is not None and self._port not in (flow.dport, flow.sport):
            return None
        if self._connection is not None and flow.connection is not self._connection:
            return None
        self.dropped += 1
        self.bytes += packet.length
        return self._reason


class _Filtering(ActiveFault):
    """A rule of its own on each direction concerned."""

    def __init__(self, rules: list[tuple[Direction, _Filter]], detail: dict[str, Any]) -> None:
        super().__init__()
        self._rules = rules
        self._detail = detail
        for direction, rule in rules:
            direction.rules.append(rule)

    def heal(self, fabric: Fabric, now: int) -> None:
        """Take exactly the own rules away."""
        for direction, rule in self._rules:
            direction.rules.remove(rule)

    def receipt(self) -> Receipt:
        """Packets and bytes dropped, per direction."""
        dropped = {direction.name: rule.dropped for direction, rule in self._rules}
        size = sum(rule.bytes for _, rule in self._rules)
        return Receipt(sum(dropped.values()), {"dropped": dropped, "dropped_bytes": size, **self._detail})


@registered
@dataclass(frozen=True, kw_only=True)
class BlackHole(NetworkFault):
    """Packets that enter the link are lost without a word; carrier, addresses and routes stay as they are.

    With ``flow``, only the one connection that is the flow's at the moment of entering (both its directions, on
    either side of every NAT): new connections pass. Packets already on the link still arrive.
    """

    kind: ClassVar[str] = "black_hole"

    link: str = ""
    """Where; may be left out with ``flow``: the first link of the flow's node then."""
    direction: Which = "both"
    """``up`` is from the edge towards the core (a phone's uplink)."""
    proto: Proto = "any"
    port: int | None = None
    """TCP or UDP port, on either end."""
    flow: str | None = None
    """``publisher.rtmp`` or ``phone:1935``."""

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("both", "up", "down"))
        one_of("proto", self.proto, tuple(_NUMBERS))
        if not self.link and self.flow is None:
            raise FaultError("a black hole needs a link or a flow")
        if self.port is not None and not 0 < self.port < 65536:
            raise FaultError(f"port is {self.port}; a port lies between 1 and 65535")
        if self.flow is not None:
            check_flow(self.flow)

    @property
    def target(self) -> str:
        """The link; with a flow and no link, the flow."""
        return self.link or str(self.flow)

    def describe(self) -> str:
        """``"black hole on backhaul, up only, tcp only"``."""
        words = [f"black hole on {self.link}" if self.link else "black hole"]
        words += [f"{self.direction} only"] if self.direction != "both" else []
        words += [f"{self.proto} only"] if self.proto != "any" else []
        words += [f"port {self.port} only"] if self.port is not None else []
        words += [f"only the connection that is {self.flow} now"] if self.flow is not None else []
        return ", ".join(words)

    def validate(self, topology: Topology) -> None:
        """The link and the flow's role must exist."""
        if self.link:
            known_link(topology, self.link)
        if self.flow is not None:
            known_role(topology, split_flow_name(self.flow)[0])

    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """With a flow that has no connection nothing is broken, and the receipt says so."""
        self.validate(fabric.topology)
        detail: dict[str, Any] = {}
        connection = None
        if self.flow is not None:
            connection = fabric.resolve(self.flow)
            detail["flow"] = described_connection(fabric, connection)
            if connection is None:
                return _Filtering([], detail)
        link = fabric.links[self.link or self._flows_link(fabric)]
        proto = _NUMBERS[self.proto]
        return _Filtering(
            [
                (direction, _Filter("black_hole", proto=proto, port=self.port, connection=connection))
                for direction in link.directions(self.direction)
            ],
            detail,
        )

    def _flows_link(self, fabric: Fabric) -> str:
        """The link that the flow's own node sends it over."""
        assert self.flow is not None
        node = fabric.topology.node_of(split_flow_name(self.flow)[0])
        connection = fabric.resolve(self.flow)
        for flow in fabric.hosts_flows(connection) if connection is not None else []:
            port = fabric.port_of(flow.src)
            if port is not None and port.node == node:
                return port.link
        return fabric.topology.interfaces(node)[0].link


@registered
@dataclass(frozen=True, kw_only=True)
class LinkFlap(NetworkFault):
    """A link that dies and comes back, again and again: black hole for ``off``, good for ``on``, and so on.

    It begins dead. With ``random`` both times are drawn from exponential distributions with these means (as
    Mahimahi's mm-onoff does) from ``seed``, or from the run's seed. All windows are known on entering.
    """

    kind: ClassVar[str] = "link_flap"

    link: str
    off_ns: int
    on_ns: int
    direction: Which = "both"
    random: bool = False
    seed: int | None = None
    times: int | None = None
    """How often it dies; None = until left."""

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("both", "up", "down"))
        for name in ("off_ns", "on_ns"):
            if getattr(self, name) <= 0:
                raise FaultError(f"{name.removesuffix('_ns')} is {getattr(self, name)} ns; it must be longer than 0")
        if self.times is not None and self.times < 1:
            raise FaultError(f"times is {self.times}; a flap dies at least once")

    @property
    def target(self) -> str:
        """The link."""
        return self.link

    def describe(self) -> str:
        """``"backhaul flaps: 3.00 s off, 3.00 s on"``."""
        kind = "exponential with means " if self.random else ""
        words = [f"{self.link} flaps: {kind}{format_duration(self.off_ns)} off, {format_duration(self.on_ns)} on"]
        words += [f"{self.direction} only"] if self.direction != "both" else []
        words += [f"{self.times} times"] if self.times is not None else []
        return ", ".join(words)

    def validate(self, topology: Topology) -> None:
        """The link must exist."""
        known_link(topology, self.link)

    def windows(self, start: int, end: int, *, seed: int) -> list[tuple[int, int]]:
        """(dead from, until) of every outage that begins in ``start``..``end``, ns; ``seed`` is the run's."""
        draw = Random(f"{self.seed if self.seed is not None else seed}/{self.link}/{self.direction}/flap")
        found: list[tuple[int, int]] = []
        at = start
        while at < end and (self.times is None or len(found) < self.times):
            off, on = self._pair(draw)
            found.append((at, at + off))
            at += off + on
        return found

    def _pair(self, draw: Random) -> tuple[int, int]:
        if not self.random:
            return self.off_ns, self.on_ns
        return max(1, round(draw.expovariate(1 / self.off_ns))), max(1, round(draw.expovariate(1 / self.on_ns)))

    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """Windows for a day ahead, or for 100,000 outages, whichever is less: longer than any run."""
        self.validate(fabric.topology)
        horizon = now + min(24 * HOUR, 100_000 * (self.off_ns + self.on_ns))
        windows = self.windows(now, horizon, seed=fabric.seed)
        edges = [edge for window in windows for edge in window]
        directions = fabric.links[self.link].directions(self.direction)
        rules = [(direction, _Filter("link_flap", edges=edges)) for direction in directions]
        return _Flapping(rules, windows, now)


class _Flapping(_Filtering):
    """A flap in force, which also tells the windows that have begun."""

    def __init__(self, rules: list[tuple[Direction, _Filter]], windows: list[tuple[int, int]], now: int) -> None:
        super().__init__(rules, {})
        self._windows = windows
        self._entered = now

    def heal(self, fabric: Fabric, now: int) -> None:
        """Take the rules away and note which outages there were."""
        super().heal(fabric, now)
        begun = [(start - self._entered, min(end, now) - self._entered) for start, end in self._windows if start < now]
        self._detail = {"outages": len(begun), "windows_ns": [list(window) for window in begun[:1000]]}


def check_flow(name: str) -> None:
    """Raise :class:`FaultError` unless this is the form of a flow's name."""
    try:
        split_flow_name(name)
    except ValueError as error:
        raise FaultError(str(error)) from None


def described_connection(fabric: Fabric, connection: Connection | None) -> list[str]:
    """The connection as each of its hosts addresses it, latest traffic first; empty where there is none."""
    return [fabric.name_of(flow) for flow in fabric.hosts_flows(connection)] if connection is not None else []
