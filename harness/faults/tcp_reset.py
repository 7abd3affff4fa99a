"""RST injected into a connection, as middleboxes do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness.faults.black_hole import check_flow, described_connection
from harness.faults.fault import ActiveFault, NetworkFault, Receipt, known_role, one_of, registered
from harness.faults.nat_faults import Done
from harness.network.fabric import Fabric, Port, split_flow_name
from harness.network.flow import TCP, Flow
from harness.network.link import Direction
from harness.network.packet import RST, Packet
from harness.network.segments import tcp_reset
from harness.network.topology import Topology

Side = Literal["both", "client", "server"]


@registered
@dataclass(frozen=True, kw_only=True)
class TcpReset(NetworkFault):
    """RST to one or both ends of a flow's connection, with the sequence number that the end expects.

    A kernel takes an RST only with exactly the next expected sequence number (RFC 5961 3.2) and otherwise answers with
    an ACK that says which. So the fault stays alert until it is left: each later segment from a reset end is
    answered with an RST that fits it.
    """

    kind: ClassVar[str] = "tcp_reset"

    flow: str
    """``publisher.rtmp`` or ``phone:1935``; the connection that it is on entering."""
    side: Side = "both"
    """Who gets the RST: ``client`` is the end that opened the connection."""

    def __post_init__(self) -> None:
        check_flow(self.flow)
        one_of("side", self.side, ("both", "client", "server"))

    @property
    def target(self) -> str:
        """The flow."""
        return self.flow

    def describe(self) -> str:
        """``"TCP reset of publisher.rtmp, to the server only"``."""
        return f"TCP reset of {self.flow}" + (f", to the {self.side} only" if self.side != "both" else "")

    def validate(self, topology: Topology) -> None:
        """The flow's role must exist."""
        known_role(topology, split_flow_name(self.flow)[0])

    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """Without such a connection nothing happens, and the receipt says so."""
        self.validate(fabric.topology)
        connection = fabric.resolve(self.flow)
        told = {"flow": described_connection(fabric, connection)}
        if connection is None or connection.opener.proto != TCP:
            return Done(0, told)
        ends = [end for flow in fabric.hosts_flows(connection) if (end := _end(fabric, flow, self.side)) is not None]
        return _Resetting(fabric, ends, told, now)


def _end(fabric: Fabric, flow: Flow, side: Side) -> tuple[Port, Flow] | None:
    """The port of the host that sends in ``flow``, if it is on the wanted side."""
    port = fabric.port_of(flow.src)
    is_client = flow.connection.opener is flow
    if port is None or side == ("server" if is_client else "client"):
        return None
    return port, flow


class _Resetting(ActiveFault):
    """RSTs sent, and ready for a challenge."""

    def __init__(self, fabric: Fabric, ends: list[tuple[Port, Flow]], told: dict[str, Any], now: int) -> None:
        super().__init__()
        self._told = told
        self._ends = [_End(fabric, port, flow) for port, flow in ends]
        for end in self._ends:
            end.reset(now)

    def heal(self, fabric: Fabric, now: int) -> None:
        """Stop watching for challenges; a connection that is reset stays so."""
        for end in self._ends:
            end.direction.rules.remove(end)

    def receipt(self) -> Receipt:
        """Ends that an RST was sent to."""
        reset = [end for end in self._ends if end.sent]
        detail = {end.port.node: {"resets": end.sent, "sequence": end.last_sequence} for end in reset}
        return Receipt(len(reset), {**self._told, "sent_to": detail})


class _End:
    """One end of the connection: what it expects next, and a rule at its entrance that hears it protest."""

    def __init__(self, fabric: Fabric, port: Port, flow: Flow) -> None:
        self._fabric = fabric
        self.port = port
        self._flow = flow
        self.direction: Direction = port.out
        self.sent = 0
        self.last_sequence = 0
        self.direction.rules.append(self)

    def reset(self, now: int) -> None:
        """RST with each number that the end may expect: what it last acknowledged, and what it has got since."""
        offered = self._flow.offered.tcp() if self._flow.offered is not None else None
        if offered is None:
            return
        expected = {offered.ack} if offered.ack else set()
        arrived = self._last_arrived()
        if arrived is not None:
            expected.add(arrived)
        for sequence in sorted(expected):
            self._send(sequence, offered.end, now)

    def judge(self, packet: Packet, now: int) -> str | None:
        """Answer each further segment of the end with an RST that fits; all of them pass."""
        if packet.flow is self._flow and not packet.flags & RST:
            header = packet.tcp()
            if header is not None and header.ack:
                self._send(header.ack, header.end, now)
        return None

    def _last_arrived(self) -> int | None:
        """Sequence number behind the last segment that was delivered to this end."""
        latest: Packet | None = None
        for flow in self._fabric.hosts_flows(self._flow.connection):
            if flow is not self._flow and flow.delivered is not None:
                latest = latest or flow.delivered
        header = latest.tcp() if latest is not None else None
        return header.end if header is not None else None

    def _send(self, sequence: int, acknowledged: int, now: int) -> None:
        flow = self._flow
        raw = tcp_reset(flow.dst, flow.dport, flow.src, flow.sport, seq=sequence, ack=acknowledged)
        self._fabric.inject(raw, self.port, now)
        flow.connection.closed = True
        self.sent += 1
        self.last_sequence = sequence
