"""H.264 as it travels: NAL units in Annex B and in AVCC form, parameter sets, the AVC decoder configuration.

Two framings carry the same NAL units. Annex B (ITU-T H.264 annex B) puts a start code in front of each; AVCC
(ISO/IEC 14496-15 section 5.3) puts a length in front of each and keeps the parameter sets in a configuration record
(``avcC``), which is what an RTMP sequence header holds. Inside a NAL unit, three byte patterns are broken up with an
emulation prevention byte (H.264 section 7.4.1), so that no start code can occur in it by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from reference_impl.media.errors import MediaError


class NalType(IntEnum):
    """The NAL unit types that matter here (H.264 table 7-1)."""

    SLICE = 1
    IDR = 5
    SEI = 6
    SPS = 7
    PPS = 8
    DELIMITER = 9
    FILLER = 12


def nal_type(nal: bytes) -> int:
    """The type of a NAL unit (without start code or length); 0, "unspecified", for an empty one."""
    return nal[0] & 0x1F if nal else 0


def is_slice(nal: bytes) -> bool:
    """Whether the NAL unit carries picture data (types 1 to 5)."""
    return NalType.SLICE <= nal_type(nal) <= NalType.IDR


def has_idr(nals: Iterable[bytes]) -> bool:
    """Whether the access unit is an IDR picture: by NAL type, never by a container's key flag."""
    return any(nal_type(nal) == NalType.IDR for nal in nals)


def has_parameter_sets(nals: Iterable[bytes]) -> bool:
    """Whether an SPS and a PPS are among the NAL units."""
    return {NalType.SPS, NalType.PPS} <= {nal_type(nal) for nal in nals}


# --- framing -----------------------------------------------------------------------------------------------

_START = re.compile(rb"\x00\x00\x01")


def split_annexb(data: bytes) -> list[bytes]:
    """NAL units between start codes; zero bytes around start codes belong to nobody (H.264 annex B.1)."""
    starts = [match.end() for match in _START.finditer(data)]
    if not starts:
        return []
    ends = [start - 3 for start in starts[1:]] + [len(data)]
    nals = (data[start:end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=True))
    return [nal for nal in nals if nal]


def split_avcc(data: bytes, *, length_size: int = 4) -> list[bytes]:
    """NAL units of AVCC data; :class:`MediaError` where a length points past the end."""
    nals, at, size = [], 0, len(data)
    while at < size:
        length = int.from_bytes(data[at : at + length_size], "big")
        end = at + length_size + length
        if end > size:
            raise MediaError(f"AVCC: NAL unit at byte {at} claims {length} bytes, {size - at - length_size} are left")
        if length:
            nals.append(data[at + length_size : end])
        at = end
    return nals


def join_avcc(nals: Iterable[bytes]) -> bytes:
    """NAL units with a four-byte length in front of each."""
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)


# --- emulation prevention ------------------------------------------------------------------------------------

_EMULATES = re.compile(rb"\x00\x00(?=[\x00-\x03])")
_ESCAPED = re.compile(rb"\x00\x00\x03")


def escape(rbsp: bytes) -> bytes:
    """Raw payload to NAL unit bytes: 03 goes between two zeros and a byte of 3 or less, and after two final zeros."""
    escaped = _EMULATES.sub(b"\x00\x00\x03", rbsp)
    return escaped + b"\x03" if escaped.endswith(b"\x00\x00") else escaped


def unescape(nal: bytes) -> bytes:
    """The inverse of :func:`escape`."""
    return _ESCAPED.sub(b"\x00\x00", nal)


# --- sequence parameter set ----------------------------------------------------------------------------------

# Profiles whose SPS carries chroma format, bit depths and scaling matrices (H.264 section 7.3.2.1.1).
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
# Of those, the ones whose configuration record has the same appended (ISO/IEC 14496-15 section 5.3.3.1.2).
_EXTENDED_PROFILES = frozenset({100, 110, 122, 144})


@dataclass(frozen=True, slots=True)
class Sps:
    """What a sequence parameter set says about the pictures."""

    profile: int
    constraints: int
    """The byte of constraint flags."""
    level: int
    """Ten times the level: 30 is level 3."""
    chroma_format: int
    bit_depth_luma: int
    bit_depth_chroma: int
    separate_planes: bool
    """Colour planes are coded as three pictures of their own."""
    frame_num_bits: int
    """Size of the frame number in slice headers."""
    gaps_allowed: bool
    """Frame numbers may be left out on purpose (temporal layers)."""
    width: int
    """Pixels shown, after cropping."""
    height: int
    frames_only: bool
    """No fields."""


class Bits:
    """Reads an RBSP bit by bit (H.264 sections 7.2 and 9.1)."""

    def __init__(self, rbsp: bytes) -> None:
        self._value = int.from_bytes(rbsp, "big")
        self._left = len(rbsp) * 8

    def u(self, count: int) -> int:
        if count > self._left:
            raise MediaError("H.264: the NAL unit ends in the middle of a field")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """Unsigned Exp-Golomb."""
        zeros = 0
        while self.u(1) == 0:
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Signed Exp-Golomb."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def parse_sps(nal: bytes) -> Sps:
    """Parse an SPS NAL unit up to its picture size; :class:`MediaError` for anything else."""
    if nal_type(nal) != NalType.SPS or len(nal) < 4:
        raise MediaError(f"SPS: expected a NAL unit of type {NalType.SPS.value}, got type {nal_type(nal)}")
    bits = Bits(unescape(nal[1:]))
    profile, constraints, level = bits.u(8), bits.u(8), bits.u(8)
    bits.ue()  # seq_parameter_set_id
    chroma, luma_depth, chroma_depth, separate = 1, 8, 8, 0
    if profile in _HIGH_PROFILES:
        chroma = bits.ue()
        separate = bits.u(1) if chroma == 3 else 0
        luma_depth, chroma_depth = 8 + bits.ue(), 8 + bits.ue()
        bits.u(1)  # qpprime_y_zero_transform_bypass_flag
        _skip_scaling_matrices(bits, 12 if chroma == 3 else 8)
    frame_num_bits = bits.ue() + 4
    _skip_picture_order(bits)
    bits.ue()  # max_num_ref_frames
    gaps = bits.u(1)  # gaps_in_frame_num_value_allowed_flag
    width, height, frames_only = _picture_size(bits, 0 if separate else chroma)
    return Sps(
        profile=profile,
        constraints=constraints,
        level=level,
        chroma_format=chroma,
        bit_depth_luma=luma_depth,
        bit_depth_chroma=chroma_depth,
        separate_planes=bool(separate),
        frame_num_bits=frame_num_bits,
        gaps_allowed=bool(gaps),
        width=width,
        height=height,
        frames_only=frames_only,
    )


def _skip_scaling_matrices(bits: Bits, count: int) -> None:
    if not bits.u(1):
        return
    for index in range(count):
        if bits.u(1):
            _skip_scaling_list(bits, 16 if index < 6 else 64)


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _skip_picture_order(bits: Bits) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif kind == 1:
        bits.u(1)
        bits.se()
        bits.se()
        for _ in range(bits.ue()):
            bits.se()


def _picture_size(bits: Bits, chroma: int) -> tuple[int, int, bool]:
    """Width and height in pixels, and whether there are no fields (H.264 section 7.4.2.1.1, equations 7-13 to 7-21)."""
    macroblocks_wide, map_units_high = bits.ue() + 1, bits.ue() + 1
    frames_only = bits.u(1)
    if not frames_only:
        bits.u(1)  # mb_adaptive_frame_field_flag
    bits.u(1)  # direct_8x8_inference_flag
    left, right, top, bottom = (bits.ue(), bits.ue(), bits.ue(), bits.ue()) if bits.u(1) else (0, 0, 0, 0)
    fields = 2 - frames_only
    unit_x = 2 if chroma in (1, 2) else 1
    unit_y = (2 if chroma == 1 else 1) * fields
    width = macroblocks_wide * 16 - unit_x * (left + right)
    return width, map_units_high * 16 * fields - unit_y * (top + bottom), bool(frames_only)


# --- AVC decoder configuration record --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AvcConfig:
    """The ``avcC`` record (ISO/IEC 14496-15 section 5.3.3.1): parameter sets and the size of AVCC lengths."""

    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    length_size: int = 4

    @classmethod
    def from_nals(cls, nals: Sequence[bytes]) -> AvcConfig:
        """The parameter sets among ``nals``; :class:`MediaError` unless there are both kinds."""
        sps = tuple(nal for nal in nals if nal_type(nal) == NalType.SPS)
        pps = tuple(nal for nal in nals if nal_type(nal) == NalType.PPS)
        if not sps or not pps:
            raise MediaError(f"avcC: needs an SPS and a PPS, got {len(sps)} and {len(pps)}")
        return cls(sps, pps)

    @classmethod
    def parse(cls, data: bytes) -> AvcConfig:
        """Parse a record; :class:`MediaError` where it is cut short or of another version."""
        if len(data) < 7 or data[0] != 1:
            raise MediaError(f"avcC: expected version 1 and at least 7 bytes, got {data[:7].hex(' ') or 'nothing'}")
        sps, at = _read_sets(data, 6, data[5] & 0x1F)
        if at >= len(data):
            raise MediaError("avcC: ends before the number of PPS")
        pps, _ = _read_sets(data, at + 1, data[at])
        return cls(sps, pps, (data[4] & 3) + 1)

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        """All SPS, then all PPS."""
        return self.sps + self.pps

    def to_bytes(self) -> bytes:
        """The record, with chroma format and bit depths where the profile asks for them."""
        first = parse_sps(self.sps[0])
        head = bytes((1, first.profile, first.constraints, first.level, 0xFC | (self.length_size - 1)))
        body = bytes((0xE0 | len(self.sps),)) + _write_sets(self.sps) + bytes((len(self.pps),)) + _write_sets(self.pps)
        if first.profile not in _EXTENDED_PROFILES:
            return head + body
        depths = (0xFC | first.chroma_format, 0xF8 | first.bit_depth_luma - 8, 0xF8 | first.bit_depth_chroma - 8, 0)
        return head + body + bytes(depths)


def _read_sets(data: bytes, at: int, count: int) -> tuple[tuple[bytes, ...], int]:
    sets = []
    for _ in range(count):
        length = int.from_bytes(data[at : at + 2], "big")
        at += 2 + length
        if at > len(data):
            raise MediaError(f"avcC: a parameter set of {length} bytes goes past the end")
        sets.append(data[at - length : at])
    return tuple(sets), at


def _write_sets(sets: Iterable[bytes]) -> bytes:
    return b"".join(len(nal).to_bytes(2, "big") + nal for nal in sets)
