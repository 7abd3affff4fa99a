"""Routers: longest-prefix routes, TTL, ICMP errors, MTU, and NAT where the topology says so.

The first packet of a flow is *planned* (is it for the router itself, which route, which translation); the plan is
remembered as a :class:`Hop` by the flow's identity, so that all others cost one look-up. Plans are forgotten as a
whole when anything that they rest on changes.

ICMP errors follow RFC 1812 5.3: none about an ICMP error, a later fragment or a multicast. They aren't rate-limited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.network import segments
from harness.network.flow import ICMP, ICMPV6, Flow, FlowTable
from harness.network.link import Direction, Drop
from harness.network.nat import Mapping, Nat, Translation
from harness.network.packet import IcmpErrorPacket, Packet, PacketParser
from harness.network.segments import IcmpReason


@dataclass(frozen=True, slots=True)
class Route:
    """Where to send what."""

    version: int
    network: int
    length: int
    """Of the prefix."""
    out: Direction
    only: frozenset[bytes] | None = None
    """The addresses that exist behind a directly connected prefix; None = not for this router to know."""

    def covers(self, address: bytes) -> bool:
        """Whether the address lies in the prefix."""
        if (self.version == 4) != (len(address) == 4):
            return False
        shift = len(address) * 8 - self.length
        return int.from_bytes(address, "big") >> shift == self.network >> shift


class Hop:
    """The plan for one flow: the flow it leaves in, by which mapping, and where."""

    __slots__ = ("flow", "mapping", "offer", "outbound")

    def __init__(self, flow: Flow, mapping: Mapping | None, outbound: bool, out: Direction) -> None:
        self.flow = flow
        self.mapping = mapping
        self.outbound = outbound
        self.offer: Callable[[Packet, int], None] = out.offer


class Router:
    """One router; knows its neighbours only as directions to offer packets to."""

    def __init__(
        self,
        name: str,
        *,
        flows: FlowTable,
        parser: PacketParser,
        drop: Drop,
        nat: Nat | None = None,
        pmtu_black_hole: bool = False,
    ) -> None:
        self.name = name
        self.nat = nat
        self.pmtu_black_hole = pmtu_black_hole
        self.made = 0
        """Packets that this router made itself: ICMP errors, echo replies, fragments."""
        self._flows = flows
        self._parser = parser
        self._drop = drop
        self._hops: dict[Flow, Hop] = {}
        self._routes: list[Route] = []
        self._addresses: dict[Direction, tuple[bytes, bytes]] = {}
        self._local: set[bytes] = set()
        self._outside: Direction | None = None

    # --- building --------------------------------------------------------------------------------------------

    def attach(self, out: Direction, *, ipv4: bytes, ipv6: bytes, outside: bool = False) -> None:
        """An interface with its addresses; ``outside`` is the one behind which NAT hides the others."""
        self._addresses[out] = (ipv4, ipv6)
        self._local |= {ipv4, ipv6}
        if outside:
            self._outside = out

    def set_routes(self, routes: list[Route]) -> None:
        """Replace all routes."""
        self._routes = sorted(routes, key=lambda route: -route.length)
        self._hops.clear()

    # --- NAT faults ------------------------------------------------------------------------------------------

    def lose_nat_state(self) -> int:
        """Forget all mappings; how many there were (0 without NAT)."""
        self._hops.clear()
        return self.nat.lose_state() if self.nat is not None else 0

    def rebind(self, address: bytes) -> int:
        """Another outside address and new ports for everyone; how many mappings were lost (0 without NAT)."""
        if self.nat is None or self._outside is None:
            return 0
        self._local.discard(self.nat.address)
        self._local.add(address)
        self._addresses[self._outside] = (address, self._addresses[self._outside][1])
        self._hops.clear()
        return self.nat.rebind(address)

    # --- packets ---------------------------------------------------------------------------------------------

    def receive(self, packet: Packet, now: int) -> None:
        """Forward one packet, or answer it, or drop it with a reason."""
        hop = self._hops.get(packet.flow)
        if hop is None:
            hop = self._plan(packet, now)
            if hop is None:
                return
        ttl = packet.ttl - 1
        if ttl <= 0:
            self._refuse(packet, segments.TTL_EXCEEDED, "ttl_exceeded", now)
            return
        mapping = hop.mapping
        if mapping is not None:
            if now - mapping.last > mapping.timeout:
                self._hops.pop(packet.flow, None)
                self.receive(packet, now)
                return
            if not mapping.settled or packet.flags & 7:
                mapping.use(packet.flags, now, outbound=hop.outbound)
            mapping.last = now
        packet.ttl = ttl
        packet.flow = hop.flow
        hop.offer(packet, now)

    def too_big(self, packet: Packet, direction: Direction, now: int) -> None:
        """A packet that doesn't fit: cut (IPv4 without DF), answered (RFC 1191, RFC 8201), or swallowed."""
        mtu = direction.impairments.mtu
        if packet.may_fragment():
            for piece in segments.fragments(bytes(packet.to_bytes()), mtu):
                self.made += 1
                direction.offer(self._parser.parse(piece), now)
            self._drop(packet, self.name, "fragmented", now)
        elif self.pmtu_black_hole:
            self._drop(packet, self.name, "too_big", now)
        else:
            self._refuse(packet, segments.TOO_BIG, "too_big", now, mtu=mtu)

    # --- plans -----------------------------------------------------------------------------------------------

    def _plan(self, packet: Packet, now: int) -> Hop | None:
        """Decide for a flow's first packet; None when the packet has been dealt with."""
        destination = packet.flow.dst
        if _never_forwarded(destination) or _never_forwarded(packet.flow.src):
            self._drop(packet, self.name, "not_routable", now)
            return None
        if packet.fragment and not packet.flow.dport and self.nat is not None:
            self._drop(packet, self.name, "fragment_without_first", now)
            return None
        if destination in self._local:
            return self._plan_local(packet, now)
        route = self._route(destination)
        if route is None:
            self._refuse(packet, segments.NET_UNREACHABLE, "no_route", now)
            return None
        if route.only is not None and destination not in route.only:
            self._no_such_host(packet, now)
            return None
        if self.nat is not None and route.out is self._outside and len(destination) == 4:
            return self._plan_outbound(packet, route.out, now)
        return self._remember(packet, Hop(packet.flow, None, False, route.out))

    def _plan_local(self, packet: Packet, now: int) -> Hop | None:
        """For one of the router's own addresses: a NAT's inbound packets, pings, and what nobody asked for."""
        if self.nat is not None and packet.flow.dst == self.nat.address:
            return self._plan_inbound(packet, now)
        at = packet.segment_at()
        if at is not None and _is_echo_request(packet, at):
            self._make(segments.echo_reply(bytes(packet.to_bytes()), segment=at), now)
            self._drop(packet, self.name, "answered", now)
        else:
            self._refuse(packet, segments.PORT_UNREACHABLE, "to_router", now)
        return None

    def _plan_outbound(self, packet: Packet, out: Direction, now: int) -> Hop | None:
        assert self.nat is not None
        source = self._route(packet.flow.src)
        if packet.flow.src not in self._local and (source is None or source.out is out):
            self._drop(packet, self.name, "foreign_source", now)
            return None
        if packet.icmp_error is not None:
            quoted = self.nat.quoted_inbound(packet.icmp_error.quoted, now)
            return self._translated_error(packet.icmp_error, quoted, now, src=self.nat.address)
        translation = self.nat.outbound(packet.flow, now)
        if translation is None:
            self._drop(packet, self.name, "nat_cannot_map", now)
            return None
        return self._remember(packet, _hop(translation, out))

    def _plan_inbound(self, packet: Packet, now: int) -> Hop | None:
        assert self.nat is not None
        source = self._route(packet.flow.src)
        if source is not None and source.out is not self._outside and packet.flow.src not in self._local:
            self._drop(packet, self.name, "nat_hairpin", now)
            return None
        if packet.icmp_error is not None:
            quoted = self.nat.quoted_outbound(packet.icmp_error.quoted, now)
            return self._translated_error(packet.icmp_error, quoted, now, dst=quoted.src if quoted else b"")
        translation = self.nat.inbound(packet.flow, now)
        route = self._route(translation.flow.dst) if translation is not None else None
        if translation is None or route is None:
            self._drop(packet, self.name, "nat_no_mapping", now)
            return None
        return self._remember(packet, _hop(translation, route.out))

    def _translated_error(
        self, packet: IcmpErrorPacket, quoted: Flow | None, now: int, *, src: bytes = b"", dst: bytes = b""
    ) -> Hop | None:
        """An ICMP error through the NAT: its own address and those that it quotes (RFC 5508 4.2)."""
        flow = packet.flow
        route = self._route(dst or flow.dst)
        if quoted is None or route is None:
            self._drop(packet, self.name, "nat_no_mapping", now)
            return None
        packet.quoted = quoted
        new = self._flows.flow(flow.proto, src or flow.src, flow.sport, dst or flow.dst, flow.dport)
        return Hop(new, None, False, route.out)

    def _remember(self, packet: Packet, hop: Hop) -> Hop:
        """Keep the plan for the flow's later packets; errors and fragments are planned one by one."""
        if packet.icmp_error is None and not packet.fragment:
            self._hops[packet.flow] = hop
        return hop

    def _route(self, address: bytes) -> Route | None:
        return next((route for route in self._routes if route.covers(address)), None)

    # --- answers ---------------------------------------------------------------------------------------------

    def _no_such_host(self, packet: Packet, now: int) -> None:
        """On a connected link, but nobody's address. A NAT says nothing: it may have been its own until lately."""
        if self.nat is not None:
            self._drop(packet, self.name, "nat_no_mapping", now)
        else:
            self._refuse(packet, segments.HOST_UNREACHABLE, "no_such_host", now)

    def _refuse(self, packet: Packet, reason: IcmpReason, why: str, now: int, *, mtu: int = 0) -> None:
        """Drop, and tell the sender where that is allowed."""
        if packet.icmp_error is None and packet.segment_at() is not None and not _never_forwarded(packet.flow.dst):
            back = self._route(packet.flow.src)
            source = self._source(back, packet.flow)
            if source is not None:
                quoted = bytes(packet.to_bytes())
                self._make(segments.icmp_error(source, packet.flow.src, reason, quoted, mtu=mtu), now)
        self._drop(packet, self.name, why, now)

    def _source(self, back: Route | None, flow: Flow) -> bytes | None:
        """The router's own address towards the flow's source."""
        if back is None:
            return None
        addresses = self._addresses[back.out]
        return addresses[0] if flow.version == 4 else addresses[1]

    def _make(self, raw: bytes, now: int) -> None:
        """Send a packet of the router's own."""
        packet = self._parser.parse(raw)
        self.made += 1
        hop = self._plan_own(packet, now)
        if hop is not None:
            packet.flow = hop.flow
            hop.offer(packet, now)

    def _plan_own(self, packet: Packet, now: int) -> Hop | None:
        """As for others' packets; to the own outside address means: about a packet that was already translated."""
        if packet.flow.dst in self._local:
            if self.nat is not None and packet.flow.dst == self.nat.address:
                return self._plan_inbound(packet, now)
            self._drop(packet, self.name, "to_router", now)
            return None
        route = self._route(packet.flow.dst)
        if route is None:
            self._drop(packet, self.name, "no_route", now)
            return None
        return Hop(packet.flow, None, False, route.out)


def _hop(translation: Translation, out: Direction) -> Hop:
    return Hop(translation.flow, translation.mapping, translation.outbound, out)


def _is_echo_request(packet: Packet, at: int) -> bool:
    raw = packet.raw
    if len(raw) < at + 8 or packet.fragment:
        return False
    return packet.flow.proto in (ICMP, ICMPV6) and raw[at] == (8 if packet.flow.proto == ICMP else 128)


def _never_forwarded(address: bytes) -> bool:
    """Multicast, limited broadcast, loopback, unspecified and link-local addresses."""
    if len(address) == 4:
        return address[0] >= 224 or address[0] in (0, 127) or address[:2] == b"\xa9\xfe"
    return address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80) or not any(address[:15])
