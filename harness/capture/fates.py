"""One row for each packet, as its sender put it on the wire, from the several places at which taps have seen it.

The fabric's taps see a packet where it is sent and again where it is delivered or dropped, by then with other
addresses (NAT), TTL and checksums. All of these in one capture would make Wireshark call every packet a
retransmission. What no hop rewrites says which records belong together: IP's length and identification, and of TCP
everything but ports, checksum and payload (whose bits a fault may damage).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from zlib import crc32

from harness.capture.spool import SpooledPacket
from harness.units import SECOND

_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_OPENING = {"sent": "", "injected": "injected by a fault"}
"""Fates that begin a packet's life, and what its comment begins with."""
_DUPLICATES_WITHIN = 1 * SECOND
_LONGEST_WAY = 60 * SECOND


class _Row:
    """A packet whose fates are still being gathered."""

    __slots__ = ("fates", "identity", "known", "packet")

    def __init__(self, packet: SpooledPacket, identity: bytes, told: str) -> None:
        self.packet = packet
        self.identity = identity
        self.fates = [told] if told else []
        self.known = False

    def add(self, fate: str) -> None:
        self.fates.append(fate)
        self.known = True

    def finished(self) -> SpooledPacket:
        if not self.known:
            self.fates.append("fate not in the capture")
        return self.packet._replace(fate="; ".join(self.fates))


def one_row_each(packets: Iterable[SpooledPacket]) -> Iterator[SpooledPacket]:
    """From records in order of time to one for each packet, in order of sending, its whole fate as ``fate``.

    ``"delivered at viewer/eth0 after 41.2 ms"``, ``"dropped on backhaul up: black_hole"``; a duplicate has both fates
    of its copies. Packets that nobody was seen to send (a router's ICMP, fragments) are rows where they turn up.
    """
    rows: deque[_Row] = deque()
    waiting: dict[bytes, deque[_Row]] = {}
    for packet in packets:
        while rows and _is_over(rows[0], packet.t_ns):
            yield _taken(rows, waiting)
        identity = _identity(packet.raw)
        siblings = waiting.get(identity)
        if packet.fate in _OPENING or siblings is None:
            row = _Row(packet, identity, _OPENING.get(packet.fate, "made on the way"))
            rows.append(row)
            waiting.setdefault(identity, deque()).append(row)
            siblings = waiting[identity]
        if packet.fate not in _OPENING:
            row = next((row for row in siblings if not row.known), siblings[-1])
            row.add(_told(packet, row.packet))
    while rows:
        yield _taken(rows, waiting)


def _is_over(row: _Row, now: int) -> bool:
    return row.packet.t_ns + (_DUPLICATES_WITHIN if row.known else _LONGEST_WAY) < now


def _taken(rows: deque[_Row], waiting: dict[bytes, deque[_Row]]) -> SpooledPacket:
    row = rows.popleft()
    siblings = waiting[row.identity]
    siblings.remove(row)
    if not siblings:
        del waiting[row.identity]
    return row.finished()


def _told(seen: SpooledPacket, sent: SpooledPacket) -> str:
    if seen.fate == "delivered":
        took = f" after {(seen.t_ns - sent.t_ns) / 1e6:.1f} ms" if sent.fate == "sent" else ""
        return f"delivered at {seen.interface}{took}"
    fate, _, reason = seen.fate.partition(": ")
    return f"{fate} {'on' if ' ' in seen.interface else 'at'} {seen.interface}: {reason}"


def _identity(raw: bytes) -> bytes:
    """What stays the same from hop to hop, through NAT, and tells two packets apart."""
    if raw[0] >= 0x50:
        at, proto, ip = 40, raw[6], raw[4:7]
    else:
        at, proto, ip = (raw[0] & 15) * 4, raw[9], raw[2:8] + raw[9:10]
    if proto == _TCP and len(raw) >= at + 20:
        return ip + raw[at + 4 : at + 16] + raw[at + 20 : at + (raw[at + 12] >> 4) * 4]
    if proto == _UDP:
        return ip + raw[at + 4 : at + 6] + crc32(raw[at + 8 :]).to_bytes(4, "little")
    if proto in (_ICMP, _ICMPV6):
        # not the identifier, which NAT rewrites, and not what an error quotes
        return ip + raw[at : at + 2] + raw[at + 6 : at + 8]
    return ip + crc32(raw[at:]).to_bytes(4, "little")
