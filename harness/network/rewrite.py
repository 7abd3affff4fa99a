"""How a packet's bytes change on the way: once, at egress, with the checksum corrections of the flow pair cached."""

from __future__ import annotations

import struct

from harness.network.checksum import checksum, corrected, word_sum
from harness.network.flow import ICMP, ICMPV6, TCP, UDP, Flow

_V4_MIDDLE = struct.Struct(">BBH12s")  # ttl, protocol, checksum, then addresses and ports
_V4_TTL = struct.Struct(">BBH")
_SHORT = struct.Struct(">H")
_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


class Rewrite:
    """From one flow to another: what to write where, and by how much each checksum changes."""

    __slots__ = ("_addresses_delta", "_key", "_old", "_segment_delta", "_to")

    def __init__(self, origin: Flow, to: Flow) -> None:
        self._old = origin
        self._to = to
        self._key = to.key
        addresses = len(to.src) * 2
        self._addresses_delta = word_sum(to.key[:addresses]) - word_sum(origin.key[:addresses])
        self._segment_delta = self._addresses_delta + word_sum(to.key[addresses:]) - word_sum(origin.key[addresses:])

    def plain(self, raw: bytes, ttl: int) -> bytes | bytearray:
        """A whole packet whose transport header follows a header without options; the hot path."""
        proto = self._to.proto
        if raw[0] != 0x45 or (proto != TCP and proto != UDP):
            return self.at(raw, ttl, 20 if raw[0] >> 4 == 4 else 40)
        data = bytearray(raw)
        old_ttl, _, old = _V4_TTL.unpack_from(raw, 8)
        header = (old - self._addresses_delta - ((ttl - old_ttl) << 8)) % 0xFFFF
        _V4_MIDDLE.pack_into(data, 8, ttl, proto, header, self._key)
        if proto == TCP:
            _SHORT.pack_into(data, 36, (((raw[36] << 8) | raw[37]) - self._segment_delta) % 0xFFFF)
        elif raw[26] or raw[27]:  # a zero checksum means that the sender made none (RFC 768)
            new = (((raw[26] << 8) | raw[27]) - self._segment_delta) % 0xFFFF
            _SHORT.pack_into(data, 26, new or 0xFFFF)
        return data

    def at(self, raw: bytes, ttl: int, segment: int | None) -> bytes | bytearray:
        """Any packet: ``segment`` is where its transport header begins, None in a later fragment."""
        data = bytearray(raw)
        to = self._to
        if raw[0] >> 4 == 4:
            data[8] = ttl
            data[12:20] = to.key[:8]
            _SHORT.pack_into(data, 10, 0)
            _SHORT.pack_into(data, 10, checksum(bytes(data[: (raw[0] & 15) * 4])))
        else:
            data[7] = ttl
            data[8:40] = to.key[:32]
        if segment is not None:
            self._segment(data, segment)
        return data

    def _segment(self, data: bytearray, at: int) -> None:
        """New ports (or ICMP echo identifier) and the correction of the transport checksum."""
        to, old, proto = self._to, self._old, self._to.proto
        delta = self._segment_delta
        if proto in (TCP, UDP):
            data[at : at + 4] = to.key[-4:]
        elif proto in (ICMP, ICMPV6) and is_echo(proto, data[at]):
            _SHORT.pack_into(data, at + 4, to.sport)
            delta = to.sport - old.sport + (self._addresses_delta if proto == ICMPV6 else 0)
        elif proto == ICMP:
            return
        place = at + _CHECKSUM_AT.get(proto, len(data))
        if place + 2 > len(data):
            return
        (before,) = _SHORT.unpack_from(data, place)
        if proto == UDP and before == 0:
            return
        after = corrected(before, delta)
        _SHORT.pack_into(data, place, 0xFFFF if proto == UDP and after == 0 else after)


def is_echo(proto: int, kind: int) -> bool:
    """Whether an ICMP type is an echo request or reply, of either version."""
    return kind in ((8, 0) if proto == ICMP else (128, 129))
