"""What the gateway and an egress worker say to each other over their socket pair.

Frames of a fixed head (kind, flags, time stamp, length) and a payload: media downwards, JSON both ways. The gateway
has read the media already, so a flag says which frames are IDRs and the worker need not parse video.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from reference_impl.machines.keyframe_gate import PacketKind
from reference_impl.rtmp.messages import MediaKind, MediaMessage

_HEAD = struct.Struct(">BBqI")
MAX_PAYLOAD = 16 * 1024 * 1024
EXIT_COMPLETE, EXIT_FAILED = 0, 3
"""Exit codes of a worker; any other one means that it died."""


class FrameKind(IntEnum):
    """First byte of a frame."""

    AUDIO = 1
    VIDEO = 2
    SCRIPT = 3
    BEGIN = 4
    """Gateway to worker, JSON: what to push where. Nothing is pushed before it."""
    STOP = 5
    """Gateway to worker, JSON ``{"reason": …}``: end in order."""
    STATE = 6
    """Worker to gateway, JSON ``{"state": …, "reason": …}``."""


_MEDIA: Mapping[MediaKind, FrameKind] = {
    "audio": FrameKind.AUDIO,
    "video": FrameKind.VIDEO,
    "script": FrameKind.SCRIPT,
}
_MEDIA_NAMES: Mapping[FrameKind, MediaKind] = {kind: name for name, kind in _MEDIA.items()}
_FLAGS = {kind: number for number, kind in enumerate(PacketKind)}
_FLAG_NAMES = {number: kind for kind, number in _FLAGS.items()}


class FeedError(ValueError):
    """The other side sent what is no frame; names what was found."""


@dataclass(frozen=True, slots=True)
class MediaFrame:
    """One message of the stream, with what it is to a gate."""

    packet: PacketKind
    message: MediaMessage


@dataclass(frozen=True, slots=True)
class TextFrame:
    """One JSON object."""

    kind: FrameKind
    data: Mapping[str, Any]


def pack_media(packet: PacketKind, message: MediaMessage) -> bytes:
    """One message as a frame."""
    head = _HEAD.pack(_MEDIA[message.kind], _FLAGS[packet], message.timestamp, len(message.payload))
    return head + message.payload


def pack_text(kind: FrameKind, data: Mapping[str, Any]) -> bytes:
    """One JSON object as a frame."""
    payload = json.dumps(data, separators=(",", ":")).encode()
    return _HEAD.pack(kind, 0, 0, len(payload)) + payload


class FrameReader:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read(self, data: bytes) -> Iterator[MediaFrame | TextFrame]:
        """The frames that ``data`` completes. Raises :class:`FeedError`."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            kind, flags, timestamp, length = _HEAD.unpack_from(self._buffer, at)
            if length > MAX_PAYLOAD:
                raise FeedError(f"a frame of {length} bytes, the limit is {MAX_PAYLOAD}")
            end = at + _HEAD.size + length
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[at + _HEAD.size : end])
            at = end
            yield _frame(kind, flags, timestamp, payload)
        del self._buffer[:at]


def _frame(kind: int, flags: int, timestamp: int, payload: bytes) -> MediaFrame | TextFrame:
    try:
        name = FrameKind(kind)
        if name in _MEDIA_NAMES:
            return MediaFrame(_FLAG_NAMES[flags], MediaMessage(_MEDIA_NAMES[name], timestamp, payload))
        return TextFrame(name, json.loads(payload))
    except (KeyError, ValueError) as error:
        raise FeedError(f"no frame: kind {kind}, flags {flags}, {len(payload)} bytes: {error}") from None
