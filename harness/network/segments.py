"""Packets that the network makes by itself: ICMP errors, echo replies, TCP resets, IPv4 fragments. All as raw bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.network.checksum import checksum, pseudo_header
from harness.network.flow import ICMP, ICMPV6, TCP
from harness.network.packet import ACK, RST

HOP_LIMIT = 64
# "as much of the original as possible without exceeding 576 bytes" (RFC 1812 4.3.2.3), 1280 in IPv6 (RFC 4443 2.4)
_QUOTE_V4 = 576 - 28
_QUOTE_V6 = 1280 - 48


@dataclass(frozen=True, slots=True)
class IcmpReason:
    """What an ICMP error says, in both versions' numbers."""

    v4: tuple[int, int]
    v6: tuple[int, int]


NET_UNREACHABLE = IcmpReason((3, 0), (1, 0))
HOST_UNREACHABLE = IcmpReason((3, 1), (1, 3))
PORT_UNREACHABLE = IcmpReason((3, 3), (1, 4))
TOO_BIG = IcmpReason((3, 4), (2, 0))
TTL_EXCEEDED = IcmpReason((11, 0), (3, 0))


def ip_packet(source: bytes, destination: bytes, proto: int, payload: bytes) -> bytes:
    """An IPv4 (DF set) or IPv6 packet around ``payload``, hop limit 64."""
    if len(source) == 16:
        return struct.pack(">IHBB", 0x60000000, len(payload), proto, HOP_LIMIT) + source + destination + payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, HOP_LIMIT, proto, 0)
    header += source + destination
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def icmp_error(source: bytes, destination: bytes, reason: IcmpReason, quoted: bytes, *, mtu: int = 0) -> bytes:
    """An ICMP error that quotes ``quoted``; ``mtu`` belongs to :data:`TOO_BIG` (RFC 1191 4, RFC 4443 3.2)."""
    if len(source) == 4:
        body = struct.pack(">BBHHH", *reason.v4, 0, 0, mtu) + quoted[:_QUOTE_V4]
        return ip_packet(source, destination, ICMP, _with_checksum(body, 2, b""))
    body = struct.pack(">BBHI", *reason.v6, 0, mtu) + quoted[:_QUOTE_V6]
    pseudo = pseudo_header(source, destination, ICMPV6, len(body))
    return ip_packet(source, destination, ICMPV6, _with_checksum(body, 2, pseudo))


def echo_reply(request: bytes, *, segment: int) -> bytes:
    """The answer to an ICMP echo request whose ICMP header begins at ``segment``."""
    body = request[segment:]
    if request[0] >> 4 == 4:
        reply = b"\x00" + body[1:2] + b"\x00\x00" + body[4:]
        return ip_packet(request[16:20], request[12:16], ICMP, _with_checksum(reply, 2, b""))
    reply = b"\x81" + body[1:2] + b"\x00\x00" + body[4:]
    pseudo = pseudo_header(request[24:40], request[8:24], ICMPV6, len(reply))
    return ip_packet(request[24:40], request[8:24], ICMPV6, _with_checksum(reply, 2, pseudo))


def tcp_reset(source: bytes, sport: int, destination: bytes, dport: int, *, seq: int, ack: int) -> bytes:
    """RST with ACK. ``seq`` must be exactly what the receiver expects next (RFC 5961 3.2), or it is challenged."""
    body = struct.pack(">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, RST | ACK, 0, 0, 0)
    pseudo = pseudo_header(source, destination, TCP, len(body))
    return ip_packet(source, destination, TCP, _with_checksum(body, 16, pseudo))


def fragments(raw: bytes, mtu: int) -> list[bytes]:
    """An IPv4 packet in pieces of at most ``mtu`` bytes (RFC 791 3.2); options are copied to every piece."""
    header = (raw[0] & 15) * 4
    step = (mtu - header) // 8 * 8
    if step <= 0:
        raise ValueError(f"an MTU of {mtu} leaves no room behind a header of {header} bytes")
    payload = raw[header : (raw[2] << 8) | raw[3]]
    base = ((raw[6] & 0x1F) << 8 | raw[7]) * 8
    pieces = []
    for at in range(0, len(payload), step):
        more = at + step < len(payload) or bool(raw[6] & 0x20)
        pieces.append(_fragment(raw[:header], payload[at : at + step], base + at, more=more))
    return pieces


def _fragment(header: bytes, payload: bytes, offset: int, *, more: bool) -> bytes:
    data = bytearray(header)
    struct.pack_into(">H", data, 2, len(header) + len(payload))
    struct.pack_into(">H", data, 6, (0x2000 if more else 0) | offset // 8)
    struct.pack_into(">H", data, 10, 0)
    struct.pack_into(">H", data, 10, checksum(bytes(data)))
    return bytes(data) + payload


def _with_checksum(body: bytes, at: int, pseudo: bytes) -> bytes:
    """``body`` with the checksum over itself and ``pseudo`` at ``at``, where it holds zero."""
    return body[:at] + struct.pack(">H", checksum(pseudo + body)) + body[at + 2 :]
