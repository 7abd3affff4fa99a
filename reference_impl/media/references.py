"""Did every picture arrive that the next one builds on? Told by H.264's own frame numbers.

FFmpeg's decoder is too kind to be a judge: it fills a hole with the picture before and shows the result. H.264 counts
reference pictures in every slice header (``frame_num``, section 7.4.3), so a hole can be seen, unless it is exactly as
long as the counter.
"""

from __future__ import annotations

from collections.abc import Sequence

from reference_impl.media.errors import MediaError
from reference_impl.media.h264 import AvcConfig, Bits, NalType, Sps, is_slice, nal_type, parse_sps, unescape

_HEADER_BYTES = 16
"""Enough of a slice for its first four fields."""


class ReferenceChain:
    """Follows the frame numbers of one stream. Streams that reset them in mid-GOP (MMCO 5) are not understood."""

    def __init__(self, config: AvcConfig) -> None:
        self._sps = parse_sps(config.sps[0])
        self._last: int | None = None

    def follow(self, nals: Sequence[bytes]) -> None:
        """Take one access unit; :class:`MediaError` if reference pictures are missing in front of it."""
        first = next((nal for nal in nals if is_slice(nal)), None)
        if first is None:
            return
        for nal in nals:
            if nal_type(nal) == NalType.SPS:
                self._sps = parse_sps(nal)
        number = _frame_num(first, self._sps)
        last, wrap = self._last, 1 << self._sps.frame_num_bits
        if first[0] & 0x60:
            self._last = number
        if nal_type(first) == NalType.IDR or last is None or self._sps.gaps_allowed:
            return
        if number == (last + 1) % wrap or (number == last and not self._sps.frames_only):
            return
        raise MediaError(f"reference pictures are missing: frame_num {number} came after {last}")


def _frame_num(nal: bytes, sps: Sps) -> int:
    bits = Bits(unescape(nal[1 : 1 + _HEADER_BYTES]))
    bits.ue()  # first_mb_in_slice
    bits.ue()  # slice_type
    bits.ue()  # pic_parameter_set_id
    if sps.separate_planes:
        bits.u(2)  # colour_plane_id
    return bits.u(sps.frame_num_bits)
