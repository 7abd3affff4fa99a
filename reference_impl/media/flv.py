"""FLV tag bodies, which are also the payloads of RTMP's audio, video and data messages.

Written in the legacy form (Adobe FLV specification 10.1, annex E.4): AVC video, AAC audio, ``onMetaData``. Read in
that form and in the enhanced one (Enhanced RTMP v2, sections "Enhanced Video" and "Enhanced Audio"), where a fourcc
names the codec. Of a multitrack message the first track is read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reference_impl.media.aac import AudioConfig
from reference_impl.media.errors import MediaError
from reference_impl.media.h264 import AvcConfig, has_idr, join_avcc, split_avcc
from reference_impl.media.stamp import FrameStamp, find_stamp

TagKind = Literal["sequence_header", "frame", "end", "other"]

_LEGACY_VIDEO = {2: "h263", 3: "screen", 4: "vp6", 5: "vp6a", 6: "screen2", 7: "avc1", 12: "hvc1"}
_LEGACY_AUDIO = {0: "pcm", 1: "adpcm", 2: "mp3", 3: "pcm", 5: "nelly", 6: "nelly", 7: "alaw", 8: "ulaw", 10: "mp4a"}
_LEGACY_KINDS: Mapping[int, TagKind] = {0: "sequence_header", 1: "frame", 2: "end"}
_WITH_COMPOSITION_TIME = frozenset({"avc1", "hvc1", "vvc1"})

# Enhanced RTMP: VideoPacketType and AudioPacketType share these numbers.
_SEQUENCE_START, _CODED_FRAMES, _SEQUENCE_END, _CODED_FRAMES_X = 0, 1, 2, 3
_MULTITRACK = {"video": 6, "audio": 5}
_MODIFIER = 7
_ENHANCED_KINDS: Mapping[int, TagKind] = {
    _SEQUENCE_START: "sequence_header",
    _CODED_FRAMES: "frame",
    _SEQUENCE_END: "end",
    _CODED_FRAMES_X: "frame",
}

_KEY_FRAME, _COMMAND_FRAME = 1, 5
_VIDEO_AVC, _AUDIO_AAC = 7, 10
_AUDIO_ENHANCED = 9
# Sound rate 44 kHz, 16 bit, stereo: fixed by the specification for AAC, whatever the stream really is.
_AAC_HEAD = _AUDIO_AAC << 4 | 0x0F


@dataclass(frozen=True, slots=True)
class VideoTag:
    """One video message, read."""

    kind: TagKind
    codec: str
    """Fourcc (``avc1``, ``hvc1``, ``av01``, …), also for legacy tags."""
    keyframe: bool
    """The container's flag. Whether it is an IDR picture, only :attr:`idr` tells."""
    composition_ms: int
    data: bytes
    """A frame in AVCC form, or the decoder configuration record of a sequence header."""

    @property
    def idr(self) -> bool:
        """Whether the frame is an H.264 IDR picture by its NAL units."""
        return self.codec == "avc1" and has_idr(self.nals())

    def nals(self, *, length_size: int = 4) -> list[bytes]:
        """NAL units of an AVC frame; none for other kinds and codecs. :class:`MediaError` if it is cut short."""
        if self.kind != "frame" or self.codec != "avc1":
            return []
        return split_avcc(self.data, length_size=length_size)

    def stamp(self) -> FrameStamp | None:
        """Number and capture time, where the sender put them in."""
        return find_stamp(self.nals())


@dataclass(frozen=True, slots=True)
class AudioTag:
    """One audio message, read."""

    kind: TagKind
    codec: str
    """Fourcc (``mp4a``, ``Opus``, …), also for legacy tags."""
    data: bytes
    """A frame, or AAC's AudioSpecificConfig of a sequence header."""


# --- reading ---------------------------------------------------------------------------------------------------


def parse_video(payload: bytes) -> VideoTag:
    """Read the payload of a video message; :class:`MediaError` where it ends inside its own header."""
    if not payload:
        raise MediaError("FLV video: empty payload")
    try:
        return _parse_enhanced_video(payload) if payload[0] & 0x80 else _parse_legacy_video(payload)
    except (IndexError, struct.error):
        raise MediaError(f"FLV video: header {payload[:12].hex(' ')} is cut short") from None


def _parse_legacy_video(payload: bytes) -> VideoTag:
    codec = _LEGACY_VIDEO.get(payload[0] & 0x0F, f"legacy-{payload[0] & 0x0F}")
    frame_type = payload[0] >> 4
    keyframe = frame_type == _KEY_FRAME
    if frame_type == _COMMAND_FRAME:
        return VideoTag("other", codec, False, 0, payload[1:])
    if codec not in _WITH_COMPOSITION_TIME:
        return VideoTag("frame", codec, keyframe, 0, payload[1:])
    kind = _LEGACY_KINDS.get(payload[1], "other")
    return VideoTag(kind, codec, keyframe, _signed24(payload, 2), payload[5:])


def _parse_enhanced_video(payload: bytes) -> VideoTag:
    frame_type = payload[0] >> 4 & 7
    if frame_type == _COMMAND_FRAME:
        return VideoTag("other", "", False, 0, payload[1:])
    packet_type, codec, at, end = _enhanced_head(payload, "video")
    kind = _ENHANCED_KINDS.get(packet_type, "other")
    composition = 0
    if packet_type == _CODED_FRAMES and codec in _WITH_COMPOSITION_TIME:
        composition, at = _signed24(payload, at), at + 3
    return VideoTag(kind, codec, frame_type == _KEY_FRAME, composition, payload[at:end])


def parse_audio(payload: bytes) -> AudioTag:
    """Read the payload of an audio message; :class:`MediaError` where it ends inside its own header."""
    if not payload:
        raise MediaError("FLV audio: empty payload")
    try:
        sound_format = payload[0] >> 4
        if sound_format == _AUDIO_ENHANCED:
            packet_type, codec, at, end = _enhanced_head(payload, "audio")
            kind = _ENHANCED_KINDS.get(packet_type, "other") if packet_type != _CODED_FRAMES_X else "other"
            return AudioTag(kind, codec, payload[at:end])
        codec = _LEGACY_AUDIO.get(sound_format, f"legacy-{sound_format}")
        if codec != "mp4a":
            return AudioTag("frame", codec, payload[1:])
        return AudioTag("sequence_header" if payload[1] == 0 else "frame", codec, payload[2:])
    except (IndexError, struct.error):
        raise MediaError(f"FLV audio: header {payload[:12].hex(' ')} is cut short") from None


def _enhanced_head(payload: bytes, kind: Literal["video", "audio"]) -> tuple[int, str, int, int]:
    """Packet type, fourcc, and where the data begins and ends."""
    packet_type, at = payload[0] & 0x0F, 1
    while packet_type == _MODIFIER:
        size, at = payload[at] + 1, at + 1
        if size == 256:
            size, at = struct.unpack_from(">H", payload, at)[0] + 1, at + 2
        packet_type, at = payload[at + size] & 0x0F, at + size + 1
    if packet_type == _MULTITRACK[kind]:
        return _first_track(payload, at)
    return packet_type, _fourcc(payload, at), at + 4, len(payload)


def _first_track(payload: bytes, at: int) -> tuple[int, str, int, int]:
    one_track, many_codecs = 0, 2
    multitrack, packet_type = payload[at] >> 4, payload[at] & 0x0F
    codec, at = _fourcc(payload, at + 1), at + 5
    # With many codecs the fourcc is each track's own, otherwise it is shared; both stand in front of the track id.
    at += 1
    if multitrack == one_track:
        return packet_type, codec, at, len(payload)
    if multitrack > many_codecs:
        raise MediaError(f"FLV: multitrack type {multitrack} is not one of 0, 1, 2")
    size = int.from_bytes(payload[at : at + 3], "big")
    return packet_type, codec, at + 3, at + 3 + size


def _fourcc(payload: bytes, at: int) -> str:
    (code,) = struct.unpack_from("4s", payload, at)
    return code.decode("latin-1") if isinstance(code, bytes) else ""


def _signed24(payload: bytes, at: int) -> int:
    high, low = struct.unpack_from(">bH", payload, at)
    return int(high) << 16 | int(low)


# --- writing ---------------------------------------------------------------------------------------------------


def video_frame(nals: Sequence[bytes], *, keyframe: bool, composition_ms: int = 0) -> bytes:
    """Payload of a video message with one AVC access unit."""
    return _avc_head(keyframe, 1, composition_ms) + join_avcc(nals)


def video_sequence_header(config: AvcConfig) -> bytes:
    """Payload of the video message that must come before the first frame."""
    return _avc_head(True, 0, 0) + config.to_bytes()


def _avc_head(keyframe: bool, packet_type: int, composition_ms: int) -> bytes:
    frame_type = _KEY_FRAME if keyframe else 2
    return bytes((frame_type << 4 | _VIDEO_AVC, packet_type)) + (composition_ms & 0xFFFFFF).to_bytes(3, "big")


def audio_frame(data: bytes) -> bytes:
    """Payload of an audio message with one AAC frame."""
    return bytes((_AAC_HEAD, 1)) + data


def audio_sequence_header(config: AudioConfig) -> bytes:
    """Payload of the audio message that must come before the first frame."""
    return bytes((_AAC_HEAD, 0)) + config.to_bytes()


def metadata(values: Mapping[str, float | bool | str]) -> bytes:
    """Payload of a script message: ``onMetaData`` and its values as AMF0."""
    pairs = b"".join(_amf_name(name) + _amf_value(value) for name, value in values.items())
    return b"\x02" + _amf_name("onMetaData") + b"\x08" + len(values).to_bytes(4, "big") + pairs + b"\x00\x00\x09"


def _amf_name(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _amf_value(value: float | bool | str) -> bytes:
    if isinstance(value, bool):
        return b"\x01" + bytes((value,))
    if isinstance(value, str):
        return b"\x02" + _amf_name(value)
    return b"\x00" + struct.pack(">d", value)
