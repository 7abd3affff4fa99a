"""One packet on its way, and how it comes from and goes back to bytes.

A :class:`Packet` is mutable and is handed from hop to hop: NAT replaces ``packet.flow``, routers lower
``packet.ttl``. The bytes stay those that the sender offered until :meth:`Packet.to_bytes` rewrites them, once, at
the receiving host (or where a capture wants to see them).

Parsing: :class:`PacketParser` belongs to a fabric (``fabric.parse(raw)``) and interns flows there. Packets without an
IP header that can be read raise :class:`MalformedPacketError`; packets of protocols that nobody here knows are carried
like any other.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from harness.network.checksum import checksum, pseudo_header
from harness.network.flow import ICMP, ICMPV6, TCP, UDP, Flow, FlowTable
from harness.network.rewrite import Rewrite, is_echo

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

_PORTS = struct.Struct(">HH")
_TCP = struct.Struct(">HHIIBB")
_HEADER_V4 = 20
_HEADER_V6 = 40
# Ethernet pads frames to 60 bytes, 46 without its header: only packets as short as that can carry padding.
_PADDABLE = 46
_SKIPPED_V6 = (0, 43, 60)  # hop-by-hop, routing, destination options (RFC 8200 4.1)
_FRAGMENT_V6 = 44
_FRAGMENTS_REMEMBERED = 256


class MalformedPacketError(ValueError):
    """Bytes that are no IPv4 or IPv6 packet: truncated, of another version, or with an impossible length."""


class TcpHeader(NamedTuple):
    """What TCP says in one segment."""

    seq: int
    ack: int
    flags: int
    payload: int
    """Bytes of payload."""

    @property
    def end(self) -> int:
        """The sequence number after this segment; SYN and FIN take one each (RFC 9293 3.4)."""
        return (self.seq + self.payload + (self.flags & SYN > 0) + (self.flags & FIN)) & 0xFFFFFFFF


class Packet:
    """A TCP, UDP, ICMP or other packet without IP options, extension headers or fragmentation: nearly all."""

    __slots__ = ("flags", "flow", "length", "origin", "raw", "ttl")

    icmp_error: IcmpErrorPacket | None = None
    """This packet itself where it is an ICMP error that quotes another packet."""
    fragment = False
    """Whether this is a piece of a fragmented packet."""

    def __init__(self, flow: Flow, length: int, ttl: int, flags: int, raw: bytes) -> None:
        self.flow = flow
        """The flow in the addresses that hold where the packet is now."""
        self.origin = flow
        """The flow in the addresses that its sender used; counters are kept there."""
        self.length = length
        """Bytes of the IP packet, header included."""
        self.ttl = ttl
        """Time to live, or hop limit, where the packet is now."""
        self.flags = flags
        """TCP flags; 0 for other protocols."""
        self.raw = raw
        """The IP packet as its sender offered it."""

    def to_bytes(self) -> bytes | bytearray:
        """The IP packet as it stands here: addresses, ports, TTL and checksums as rewritten on the way."""
        raw, flow, origin = self.raw, self.flow, self.origin
        if flow is origin and self.ttl == raw[8 if raw[0] < 0x50 else 7]:
            return raw
        rewrite = origin.rewrites.get(flow)
        if rewrite is None:
            rewrite = origin.rewrites[flow] = Rewrite(origin, flow)
        return rewrite.plain(raw, self.ttl)

    def copy(self) -> Packet:
        """Another packet that goes its own way from here (a duplicate)."""
        twin = Packet(self.flow, self.length, self.ttl, self.flags, self.raw)
        twin.origin = self.origin
        return twin

    def segment_at(self) -> int | None:
        """Where the transport header begins in :attr:`raw`; None where this piece has none."""
        return _HEADER_V4 if self.raw[0] < 0x50 else _HEADER_V6

    def may_fragment(self) -> bool:
        """Whether a router may cut it (IPv4 without DF); IPv6 is never cut on the way (RFC 8200 5)."""
        return self.raw[0] < 0x50 and not self.raw[6] & 0x40

    def tcp(self) -> TcpHeader | None:
        """Sequence numbers and flags; None for what is no TCP header."""
        at = self.segment_at()
        if self.flow.proto != TCP or at is None or len(self.raw) < at + 20:
            return None
        _, _, seq, ack, offset, flags = _TCP.unpack_from(self.raw, at)
        return TcpHeader(seq, ack, flags, max(0, self.length - at - (offset >> 4) * 4))

    def flip_bit(self, draw: float) -> None:
        """Damage one bit behind the IP header so that the receiver's checksum finds it; ``draw`` in 0..1 says which.

        The checksum corrections on the way keep the damage: the receiving kernel drops the packet, as in life.
        """
        at = self.segment_at() or (_HEADER_V4 if self.raw[0] < 0x50 else _HEADER_V6)
        payload = at + {TCP: (self.raw[at + 12] >> 4) * 4 if len(self.raw) > at + 12 else 0, UDP: 8}.get(
            self.flow.proto, 4
        )
        first = payload if payload < len(self.raw) else at + 4
        bits = (len(self.raw) - first) * 8
        if bits > 0:
            place = int(draw * bits)
            damaged = bytearray(self.raw)
            damaged[first + place // 8] ^= 1 << place % 8
            self.raw = bytes(damaged)

    def __repr__(self) -> str:
        return f"<Packet {self.flow} {self.length} B ttl {self.ttl}>"


class OddPacket(Packet):
    """A packet with IP options or extension headers, or a fragment."""

    __slots__ = ("_fragment", "_segment")

    def __init__(
        self, flow: Flow, length: int, ttl: int, flags: int, raw: bytes, *, segment: int | None, fragment: bool
    ) -> None:
        super().__init__(flow, length, ttl, flags, raw)
        self._segment = segment
        self._fragment = fragment

    @property
    def fragment(self) -> bool:  # type: ignore[override]
        """Whether this is a piece of a fragmented packet."""
        return self._fragment

    def to_bytes(self) -> bytes | bytearray:
        """As :meth:`Packet.to_bytes`; a fragment's checksum covers all pieces, so the same correction is right."""
        return Rewrite(self.origin, self.flow).at(self.raw, self.ttl, self._segment)

    def copy(self) -> Packet:
        """Another packet that goes its own way from here."""
        twin = OddPacket(
            self.flow,
            self.length,
            self.ttl,
            self.flags,
            self.raw,
            segment=self._segment,
            fragment=self._fragment,
        )
        twin.origin = self.origin
        return twin

    def segment_at(self) -> int | None:
        """Where the transport header begins in :attr:`raw`; None in a later fragment."""
        return self._segment


class IcmpErrorPacket(Packet):
    """An ICMP error: ``quoted`` is the flow of the packet that it quotes, which NAT translates too (RFC 5508 4.2)."""

    __slots__ = ("quoted", "quoted_origin")

    def __init__(self, flow: Flow, length: int, ttl: int, raw: bytes, *, quoted: Flow) -> None:
        super().__init__(flow, length, ttl, 0, raw)
        self.quoted = quoted
        """The flow quoted, in the addresses that hold where the error is now."""
        self.quoted_origin = quoted
        """The flow quoted, as it stands in :attr:`Packet.raw`."""

    @property
    def icmp_error(self) -> IcmpErrorPacket:  # type: ignore[override]
        """This packet."""
        return self

    def to_bytes(self) -> bytes | bytearray:
        """As :meth:`Packet.to_bytes`, the quoted packet rewritten too and the ICMP checksum made anew."""
        data = bytearray(Rewrite(self.origin, self.flow).at(self.raw, self.ttl, None))
        at = _HEADER_V4 if data[0] < 0x50 else _HEADER_V6
        quoted = self.raw[at + 8 :]
        segment = _segment_of(quoted)
        quoted_ttl = quoted[8 if quoted[0] < 0x50 else 7]
        data[at + 8 :] = Rewrite(self.quoted_origin, self.quoted).at(quoted, quoted_ttl, segment)
        data[at + 2 : at + 4] = b"\x00\x00"
        covered = bytes(data[at:])
        if self.flow.proto == ICMPV6:
            covered = pseudo_header(self.flow.src, self.flow.dst, ICMPV6, len(covered)) + covered
        struct.pack_into(">H", data, at + 2, checksum(covered))
        return data

    def copy(self) -> Packet:
        """Another packet that goes its own way from here."""
        twin = IcmpErrorPacket(self.flow, self.length, self.ttl, self.raw, quoted=self.quoted)
        twin.origin = self.origin
        twin.quoted_origin = self.quoted_origin
        return twin


def _segment_of(quoted: bytes) -> int | None:
    """Where the transport header begins in a quoted packet, None where the quotation has no ports."""
    layers = _layers(quoted, whole=False)
    return layers.segment if layers.ports else None


class _Layers(NamedTuple):
    """Where things are in one packet."""

    proto: int
    segment: int | None
    ports: tuple[int, int] | None
    fragment: tuple[int, bool] | None
    """Identification and whether it is the first piece."""
    ttl: int
    length: int


class PacketParser:
    """Bytes to packets; remembers the flows, and which flow a fragmented packet belongs to."""

    def __init__(self, flows: FlowTable) -> None:
        self._flows = flows
        self._tcp4 = flows.table(4, TCP)
        self._udp4 = flows.table(4, UDP)
        self._tcp6 = flows.table(6, TCP)
        self._udp6 = flows.table(6, UDP)
        self._fragments: dict[tuple[bytes, int], tuple[int, int]] = {}

    def parse(self, raw: bytes) -> Packet:
        """The packet of a whole IPv4 or IPv6 packet (no Ethernet header; Ethernet padding is cut off)."""
        length = len(raw)
        if length > _PADDABLE:
            first = raw[0]
            if first == 0x45:
                if not (raw[6] & 0x3F or raw[7]):
                    if raw[9] == TCP:
                        flow = self._tcp4.get(raw[12:24])
                        if flow is not None:
                            return Packet(flow, length, raw[8], raw[33], raw)
                    elif raw[9] == UDP:
                        flow = self._udp4.get(raw[12:24])
                        if flow is not None:
                            return Packet(flow, length, raw[8], 0, raw)
            elif first >> 4 == 6:
                if raw[6] == TCP and length >= _HEADER_V6 + 20:
                    flow = self._tcp6.get(raw[8:44])
                    if flow is not None:
                        return Packet(flow, length, raw[7], raw[53], raw)
                elif raw[6] == UDP and length >= _HEADER_V6 + 8:
                    flow = self._udp6.get(raw[8:44])
                    if flow is not None:
                        return Packet(flow, length, raw[7], 0, raw)
        return self._unusual(raw)

    def _unusual(self, raw: bytes) -> Packet:
        """The first packet of a flow, a very short one, or one that is odd in any way."""
        layers = _layers(raw, whole=True)
        raw = bytes(raw[: layers.length])
        src, dst = _addresses(raw)
        quoted = self._quoted(raw, layers)
        sport, dport = self._ports(raw, layers)
        flow = self._flows.flow(layers.proto, src, sport, dst, dport)
        if quoted is not None:
            return IcmpErrorPacket(flow, layers.length, layers.ttl, raw, quoted=quoted)
        flags = _flags(raw, layers)
        plain = layers.segment == (_HEADER_V4 if raw[0] == 0x45 else _HEADER_V6)
        if plain and layers.fragment is None:
            return Packet(flow, layers.length, layers.ttl, flags, raw)
        fragment = layers.fragment is not None
        return OddPacket(flow, layers.length, layers.ttl, flags, raw, segment=layers.segment, fragment=fragment)

    def _ports(self, raw: bytes, layers: _Layers) -> tuple[int, int]:
        """The ports; of a later fragment those of its first one, or 0 where that was never seen."""
        if layers.fragment is None:
            return layers.ports or (0, 0)
        identification, first = layers.fragment
        key = (b"".join(_addresses(raw)) + bytes([layers.proto]), identification)
        if not first:
            return self._fragments.get(key, (0, 0))
        ports = self._fragments[key] = layers.ports or (0, 0)
        if len(self._fragments) > _FRAGMENTS_REMEMBERED:
            del self._fragments[next(iter(self._fragments))]
        return ports

    def _quoted(self, raw: bytes, layers: _Layers) -> Flow | None:
        """The flow that an ICMP error quotes; None for anything else, and for a quotation that can't be read."""
        at = layers.segment
        if at is None or len(raw) < at + 8 or not _is_error(layers.proto, raw[at]):
            return None
        try:
            inner = _layers(raw[at + 8 :], whole=False)
        except MalformedPacketError:
            return None
        src, dst = _addresses(raw[at + 8 :])
        sport, dport = inner.ports or (0, 0)
        return self._flows.flow(inner.proto, src, sport, dst, dport)


def _is_error(proto: int, kind: int) -> bool:
    """Destination unreachable, time exceeded, parameter problem (and IPv6's packet too big)."""
    return (proto == ICMP and kind in (3, 11, 12)) or (proto == ICMPV6 and 1 <= kind <= 4)


def _addresses(raw: bytes) -> tuple[bytes, bytes]:
    return (raw[12:16], raw[16:20]) if raw[0] < 0x50 else (raw[8:24], raw[24:40])


def _flags(raw: bytes, layers: _Layers) -> int:
    at = layers.segment
    return raw[at + 13] if layers.proto == TCP and at is not None and len(raw) > at + 13 else 0


def _layers(raw: bytes, *, whole: bool) -> _Layers:
    """Find the headers; ``whole`` is False for a quotation, which may end anywhere behind its IP header."""
    version = raw[0] >> 4 if raw else 0
    if version == 4 and len(raw) >= _HEADER_V4:
        layers = _layers_v4(raw)
    elif version == 6 and len(raw) >= _HEADER_V6:
        layers = _layers_v6(raw)
    else:
        raise MalformedPacketError(f"{len(raw)} bytes beginning {raw[:4].hex()!r} are no IPv4 or IPv6 packet")
    if whole and layers.length > len(raw):
        raise MalformedPacketError(f"the IP header says {layers.length} bytes, {len(raw)} are there")
    return layers


def _layers_v4(raw: bytes) -> _Layers:
    header = (raw[0] & 15) * 4
    length = (raw[2] << 8) | raw[3]
    if header < _HEADER_V4 or length < header:
        raise MalformedPacketError(f"impossible IPv4 header: {header} bytes of header, {length} in all")
    offset = ((raw[6] & 0x1F) << 8) | raw[7]
    fragment = ((raw[4] << 8) | raw[5], offset == 0) if offset or raw[6] & 0x20 else None
    segment = header if offset == 0 else None
    return _Layers(raw[9], segment, _ports_at(raw, raw[9], segment), fragment, raw[8], length)


def _layers_v6(raw: bytes) -> _Layers:
    proto, at = raw[6], _HEADER_V6
    fragment: tuple[int, bool] | None = None
    segment: int | None = at
    while len(raw) >= at + 8 and segment is not None and (proto in _SKIPPED_V6 or proto == _FRAGMENT_V6):
        if proto == _FRAGMENT_V6:
            offset = ((raw[at + 2] << 8) | raw[at + 3]) & 0xFFF8
            fragment = (int.from_bytes(raw[at + 4 : at + 8], "big"), offset == 0)
            proto, at = raw[at], at + 8
            segment = at if offset == 0 else None
        else:
            proto, at = raw[at], at + (raw[at + 1] + 1) * 8
            segment = at
    length = _HEADER_V6 + ((raw[4] << 8) | raw[5])
    return _Layers(proto, segment, _ports_at(raw, proto, segment), fragment, raw[7], length)


def _ports_at(raw: bytes, proto: int, at: int | None) -> tuple[int, int] | None:
    """TCP and UDP ports; an ICMP echo's identifier as both; None where there is nothing of the kind."""
    if at is None:
        return None
    if proto in (TCP, UDP) and len(raw) >= at + 4:
        sport, dport = _PORTS.unpack_from(raw, at)
        return sport, dport
    if proto in (ICMP, ICMPV6) and len(raw) >= at + 8 and is_echo(proto, raw[at]):
        (identifier,) = struct.unpack_from(">H", raw, at + 4)
        return identifier, identifier
    return None
