"""Flows and connections: who talks to whom, as objects whose identity is the key.

A :class:`Flow` is one direction of one conversation as seen at one place: the addresses and ports that stand in the
packet there. Each exists once per :class:`FlowTable`, so that routers and NATs can use it as a dictionary key at
the price of an object, and NAT is ``packet.flow = other``.

A :class:`Connection` is what the two hosts would call the connection: shared by both directions and by the flows on
both sides of every NAT. That makes "this one existing connection" a test of identity at any place of the path.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.network.packet import Packet
    from harness.network.rewrite import Rewrite

ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58

PROTOCOL_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmp6"}
_PORTS = struct.Struct(">HH")


class Connection:
    """Both directions of one conversation, on every side of every NAT on its way."""

    __slots__ = ("closed", "number", "opener")

    def __init__(self, number: int, opener: Flow) -> None:
        self.number = number
        """Counts the connections of one fabric from 0, in the order of their first packet."""
        self.opener = opener
        """The flow of the first packet ever seen: from the client, in the client's own addresses."""
        self.closed = False
        """Whether a FIN or RST has passed since the last SYN."""

    def __repr__(self) -> str:
        return f"<Connection {self.number} {self.opener}>"


class Flow:
    """One direction of one conversation, as addressed at one place. Interned: compare with ``is``."""

    __slots__ = (
        "bytes",
        "connection",
        "delivered",
        "dport",
        "drops",
        "dst",
        "key",
        "offered",
        "packets",
        "proto",
        "reverse",
        "rewrites",
        "seen",
        "sport",
        "src",
    )

    connection: Connection
    reverse: Flow

    def __init__(self, proto: int, src: bytes, sport: int, dst: bytes, dport: int) -> None:
        self.proto = proto
        """IP protocol number."""
        self.src = src
        self.sport = sport
        self.dst = dst
        self.dport = dport
        self.key = src + dst + _PORTS.pack(sport, dport)
        """Addresses and ports as they stand, contiguous, in an IP packet without options."""
        self.packets = 0
        """Delivered to the receiving host since the last count (kept on the flow in the sender's addresses)."""
        self.bytes = 0
        self.drops: dict[str, int] | None = None
        """Reason → packets dropped since the last count."""
        self.seen = -1
        """When the sending host last offered a packet, ns; -1 = never: this flow exists only behind a NAT."""
        self.offered: Packet | None = None
        """The last packet that the sending host offered, and the last delivered to the other host: where TCP's
        sequence numbers stand, for whoever needs them."""
        self.delivered: Packet | None = None
        self.rewrites: dict[Flow, Rewrite] = {}
        """How a packet sent in this flow is rewritten to leave in another."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.src) == 4 else 6

    def named(self, names: Mapping[bytes, str]) -> str:
        """``"phone:40000>gateway:1935/tcp"`` with the names given, addresses where there is none; IPv6 says tcp6."""
        proto = PROTOCOL_NAMES.get(self.proto, str(self.proto))
        suffix = "6" if len(self.src) == 16 and self.proto != ICMPV6 else ""
        return f"{_end(self.src, self.sport, names)}>{_end(self.dst, self.dport, names)}/{proto}{suffix}"

    def __repr__(self) -> str:
        return self.named({})


def _end(address: bytes, port: int, names: Mapping[bytes, str]) -> str:
    name = names.get(address)
    if name is None:
        text = str(ip_address(address))
        name = f"[{text}]" if len(address) == 16 else text
    return f"{name}:{port}"


class FlowTable:
    """Every flow of one fabric, once."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], dict[bytes, Flow]] = {}
        self._connections = 0

    def table(self, version: int, proto: int) -> dict[bytes, Flow]:
        """The flows of one IP version and protocol by :attr:`Flow.key`; live, for look-ups only."""
        return self._tables.setdefault((version, proto), {})

    def flow(self, proto: int, src: bytes, sport: int, dst: bytes, dport: int) -> Flow:
        """The one flow with these ends; made, with its opposite direction and a connection, when new."""
        key = src + dst + _PORTS.pack(sport, dport)
        found = self.table(4 if len(src) == 4 else 6, proto).get(key)
        return found if found is not None else self._create(proto, src, sport, dst, dport)

    def translated(self, original: Flow, *, src: bytes, sport: int, dst: bytes, dport: int) -> Flow:
        """The flow that ``original`` becomes at a NAT; both are the same connection from here on."""
        flow = self.flow(original.proto, src, sport, dst, dport)
        flow.connection = flow.reverse.connection = original.connection
        return flow

    def __iter__(self) -> Iterator[Flow]:
        for table in self._tables.values():
            yield from table.values()

    def _create(self, proto: int, src: bytes, sport: int, dst: bytes, dport: int) -> Flow:
        flow = Flow(proto, src, sport, dst, dport)
        reverse = Flow(proto, dst, dport, src, sport)
        if reverse.key == flow.key:
            reverse = flow
        flow.reverse, reverse.reverse = reverse, flow
        flow.connection = reverse.connection = Connection(self._connections, flow)
        self._connections += 1
        table = self.table(flow.version, proto)
        table[flow.key] = flow
        table[reverse.key] = reverse
        return flow
