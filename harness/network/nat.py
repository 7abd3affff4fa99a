"""Network address and port translation of one router (RFC 4787, 5382, 5508), IPv4 only.

A :class:`Mapping` lends one outside port to one inside port, for all remote ends or for one address or end,
depending on the settings. The translation itself is an exchange of interned flows: :meth:`Nat.outbound` and
:meth:`Nat.inbound` are asked once per flow, the router remembers the answer, and per packet only
:meth:`Mapping.use` runs. When mappings are lost or moved the router forgets its answers.

Outside ports are given out in ascending order from a seeded start and not given again until the range is used up:
an address that comes back after its mapping was lost gets a *new* port, as from the consumer NATs that cut streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from harness.network.flow import ICMP, TCP, UDP, Flow, FlowTable
from harness.network.nat_settings import Dependence, NatSettings
from harness.network.packet import ACK, FIN, RST, SYN

_PROTOCOLS = (TCP, UDP, ICMP)


class Mapping:
    """One inside end lent one outside port. ``last`` is when a packet last used it, ns."""

    __slots__ = (
        "_settings",
        "closing",
        "inside",
        "inside_port",
        "last",
        "outside_port",
        "permitted",
        "proto",
        "settled",
        "timeout",
    )

    def __init__(self, proto: int, inside: bytes, inside_port: int, outside_port: int, settings: NatSettings) -> None:
        self.proto = proto
        self.inside = inside
        self.inside_port = inside_port
        self.outside_port = outside_port
        self.last = 0
        self.closing = 0
        """Which sides have sent a FIN: 1 inside, 2 outside."""
        self.permitted: set[tuple[bytes, int]] = set()
        """Remote ends written to from inside."""
        self.settled = proto != TCP
        """Whether only a TCP flag can change the timeout, so that :meth:`use` needn't be asked for other packets."""
        self._settings = settings
        self.timeout = {
            TCP: settings.tcp_transitory_timeout,
            UDP: settings.udp_timeout,
            ICMP: settings.icmp_timeout,
        }[proto]

    def alive(self, now: int) -> bool:
        """Whether it was used within its timeout."""
        return now - self.last <= self.timeout

    def use(self, flags: int, now: int, *, outbound: bool) -> None:
        """A packet goes through; TCP flags move the timeout between transitory and established (RFC 5382 REQ-5)."""
        self.last = now
        if self.proto != TCP:
            return
        if flags & SYN:
            self.closing = 0
            self._become(established=False)
        elif flags & FIN:
            self.closing |= 1 if outbound else 2
        if flags & RST:
            self.closing = 3
        if self.closing == 3:
            self._become(established=False)
        elif flags & ACK and not flags & SYN:
            self._become(established=True)

    def _become(self, *, established: bool) -> None:
        self.settled = established
        settings = self._settings
        self.timeout = settings.tcp_established_timeout if established else settings.tcp_transitory_timeout


@dataclass(frozen=True, slots=True)
class Translation:
    """What one flow becomes, and by which mapping."""

    flow: Flow
    mapping: Mapping
    outbound: bool


class Nat:
    """The mappings of one router."""

    def __init__(self, settings: NatSettings, address: bytes, flows: FlowTable, *, name: str, seed: int) -> None:
        self.settings = settings
        self.address = address
        """Outside address, packed."""
        self._flows = flows
        self._by_inside: dict[tuple[int, bytes, int, tuple[bytes, int] | None], Mapping] = {}
        self._by_outside: dict[tuple[int, int], Mapping] = {}
        span = settings.last_port - settings.first_port + 1
        self._next_port = settings.first_port + Random(f"{seed}/{name}/nat/ports").randrange(span)

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """Every mapping there is, also those timed out and not yet found so."""
        return tuple(self._by_outside.values())

    def live_mappings(self, now: int) -> int:
        """How many are within their timeout."""
        return sum(mapping.alive(now) for mapping in self._by_outside.values())

    def outbound(self, flow: Flow, now: int) -> Translation | None:
        """For a flow from inside to outside; makes a mapping where there is none. None: can't be translated."""
        if flow.proto not in _PROTOCOLS:
            return None
        mapping = self._mapping(flow, now)
        if mapping is None:
            return None
        remote = _remote(flow.dst, flow.dport, flow.proto)
        mapping.permitted.add(remote)
        outside = mapping.outside_port
        dport = outside if flow.proto == ICMP else flow.dport
        translated = self._flows.translated(flow, src=self.address, sport=outside, dst=flow.dst, dport=dport)
        return Translation(translated, mapping, True)

    def inbound(self, flow: Flow, now: int) -> Translation | None:
        """For a flow to the outside address; None where no mapping, or its filter, lets it in."""
        mapping = self._by_outside.get((flow.proto, flow.dport))
        if mapping is None or not mapping.alive(now) or not self._admits(mapping, flow):
            return None
        port = mapping.inside_port
        sport = port if flow.proto == ICMP else flow.sport
        translated = self._flows.translated(flow, src=flow.src, sport=sport, dst=mapping.inside, dport=port)
        return Translation(translated, mapping, False)

    def quoted_outbound(self, quoted: Flow, now: int) -> Flow | None:
        """What an ICMP error from outside quotes (a packet that left here), in inside addresses."""
        translation = self.inbound(quoted.reverse, now)
        return translation.flow.reverse if translation is not None else None

    def quoted_inbound(self, quoted: Flow, now: int) -> Flow | None:
        """What an ICMP error from inside quotes (a packet that came in here), in outside addresses."""
        mapping = self._by_inside.get(self._inside_key(quoted.reverse))
        if mapping is None or not mapping.alive(now):
            return None
        outside = mapping.outside_port
        sport = outside if quoted.proto == ICMP else quoted.sport
        return self._flows.flow(quoted.proto, quoted.src, sport, self.address, outside)

    def lose_state(self) -> int:
        """Forget every mapping; how many there were."""
        lost = len(self._by_outside)
        self._by_inside.clear()
        self._by_outside.clear()
        return lost

    def rebind(self, address: bytes) -> int:
        """Take another outside address; every inside end gets a new outside port there. How many mappings went."""
        self.address = address
        return self.lose_state()

    def _inside_key(self, flow: Flow) -> tuple[int, bytes, int, tuple[bytes, int] | None]:
        return flow.proto, flow.src, flow.sport, _narrowed(flow.dst, flow.dport, flow.proto, self.settings.mapping)

    def _mapping(self, flow: Flow, now: int) -> Mapping | None:
        key = self._inside_key(flow)
        mapping = self._by_inside.get(key)
        if mapping is not None:
            if mapping.alive(now):
                return mapping
            del self._by_inside[key], self._by_outside[flow.proto, mapping.outside_port]
        port = self._free_port(flow.proto, now)
        if port is None:
            return None
        mapping = Mapping(flow.proto, flow.src, flow.sport, port, self.settings)
        mapping.last = now
        self._by_inside[key] = self._by_outside[flow.proto, port] = mapping
        return mapping

    def _free_port(self, proto: int, now: int) -> int | None:
        """The next port that no live mapping has; None where all are taken."""
        first, last = self.settings.first_port, self.settings.last_port
        for _ in range(first, last + 1):
            port = self._next_port
            self._next_port = port + 1 if port < last else first
            holder = self._by_outside.get((proto, port))
            if holder is None:
                return port
            if not holder.alive(now):
                self._forget(holder)
                return port
        return None

    def _forget(self, mapping: Mapping) -> None:
        del self._by_outside[mapping.proto, mapping.outside_port]
        for key in [key for key, value in self._by_inside.items() if value is mapping]:
            del self._by_inside[key]

    def _admits(self, mapping: Mapping, flow: Flow) -> bool:
        filtering = self.settings.filtering
        if filtering == "endpoint_independent":
            return True
        remote = _narrowed(flow.src, flow.sport, flow.proto, filtering)
        return any(_narrowed(*end, flow.proto, filtering) == remote for end in mapping.permitted)


def _remote(address: bytes, port: int, proto: int) -> tuple[bytes, int]:
    """A remote end; an ICMP echo's "port" is the identifier of this end, so it doesn't count."""
    return address, 0 if proto == ICMP else port


def _narrowed(address: bytes, port: int, proto: int, dependence: Dependence) -> tuple[bytes, int] | None:
    """As much of the remote end as the NAT looks at."""
    if dependence == "endpoint_independent":
        return None
    return _remote(address, port if dependence == "address_and_port_dependent" else 0, proto)
