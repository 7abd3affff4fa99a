"""The Internet checksum: computed in full (RFC 1071) and corrected for a change (RFC 1624).

All arithmetic is modulo 0xFFFF, in which a ones' complement sum and its checksum are negatives of each other. A
changed field therefore changes the checksum by ``old - delta``, with ``delta`` the difference of the field's 16-bit
words. For a given pair of flows the delta is a constant, so that rewriting a packet costs one subtraction.
"""

from __future__ import annotations

import struct


def word_sum(data: bytes) -> int:
    """Sum of the 16-bit big-endian words of ``data`` modulo 0xFFFF; an odd last byte is padded with zero."""
    if len(data) % 2:
        data += b"\x00"
    words: tuple[int, ...] = struct.unpack(f">{len(data) // 2}H", data)
    return sum(words) % 0xFFFF


def checksum(data: bytes) -> int:
    """RFC 1071 checksum of ``data``; over data that contains its right checksum the result is 0."""
    return -word_sum(data) % 0xFFFF


def corrected(old: int, delta: int) -> int:
    """The checksum ``old`` after the words that it covers have grown by ``delta`` (RFC 1624, equation 3)."""
    return (old - delta) % 0xFFFF


def pseudo_header(source: bytes, destination: bytes, proto: int, length: int) -> bytes:
    """What TCP, UDP and ICMPv6 checksums cover besides the segment (RFC 9293 3.1, RFC 8200 8.1)."""
    if len(source) == 4:
        return source + destination + struct.pack(">BBH", 0, proto, length)
    return source + destination + struct.pack(">II", length, proto)
