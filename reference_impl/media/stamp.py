"""Every picture carries its number and the moment it was taken, in an SEI message of its own.

The message is *user data unregistered* (H.264 section D.1.7, payload type 5): a UUID that says whose data it is, then
frame number, capture time and the source's identity. Decoders skip it, gateways and platforms that do not transcode
carry it along, and so every receiver on the same clock can measure delay, gaps and freezes exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reference_impl.media.h264 import NalType, escape, is_slice, nal_type, unescape

# Ours alone (random, version 4). It holds no zero byte, so escaping never touches it and it can be searched for as is.
STAMP_UUID = bytes.fromhex("8f1d6c5ab6e94c7f9d43e2c17a5bd619")

_BODY = struct.Struct(">QQ8s")
_PAYLOAD_SIZE = len(STAMP_UUID) + _BODY.size
_HEAD = bytes((NalType.SEI,))
_PAYLOAD_TYPE = 5
_PREFIX = bytes((_PAYLOAD_TYPE, _PAYLOAD_SIZE)) + STAMP_UUID
_STOP_BIT = b"\x80"


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """Which picture this is and when it was taken."""

    frame: int
    """Counts the encoded pictures of one source from 0, without holes."""
    captured_ns: int
    """CLOCK_MONOTONIC in nanoseconds, before the picture was encoded."""
    source: bytes
    """Eight bytes that are another for every start of a source: frame numbers of two sources do not compare."""

    def to_nal(self) -> bytes:
        """The SEI NAL unit that carries this stamp."""
        return _HEAD + escape(_PREFIX + _BODY.pack(self.frame, self.captured_ns, self.source) + _STOP_BIT)


def stamp_of(nal: bytes) -> FrameStamp | None:
    """The stamp in one NAL unit, also where other SEI messages stand beside it; None if it has none."""
    if nal_type(nal) != NalType.SEI or STAMP_UUID not in nal:
        return None
    rbsp = unescape(nal)
    start = rbsp.index(STAMP_UUID) + len(STAMP_UUID)
    body = rbsp[start : start + _BODY.size]
    return FrameStamp(*_BODY.unpack(body)) if len(body) == _BODY.size else None


def find_stamp(nals: Iterable[bytes]) -> FrameStamp | None:
    """The stamp of an access unit; it stands in front of the picture data, so the search ends there."""
    for nal in nals:
        if is_slice(nal):
            return None
        if (stamp := stamp_of(nal)) is not None:
            return stamp
    return None


def insert_stamp(nals: Sequence[bytes], stamp: FrameStamp) -> list[bytes]:
    """The access unit with the stamp directly in front of its first slice.

    Not earlier: a buffering period SEI message has to be the first SEI of its access unit (H.264 section 7.4.1.2.3).
    """
    first = next((index for index, nal in enumerate(nals) if is_slice(nal)), len(nals))
    return [*nals[:first], stamp.to_nal(), *nals[first:]]
