"""Messages that are not media: protocol control, user control, commands, and aggregates taken apart.

Adobe RTMP 1.0, sections 5.4, 6.2 and 7. Builders return :class:`Message`, readers raise
:class:`RemoteProtocolError` for a body that is cut short or no AMF0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from reference_impl.rtmp import amf0
from reference_impl.rtmp.chunks import SET_CHUNK_SIZE, Message
from reference_impl.rtmp.errors import RemoteProtocolError

ACKNOWLEDGEMENT = 3
USER_CONTROL = 4
WINDOW_ACK_SIZE = 5
SET_PEER_BANDWIDTH = 6
AUDIO = 8
VIDEO = 9
DATA_AMF3 = 15
COMMAND_AMF3 = 17
DATA = 18
COMMAND = 20
AGGREGATE = 22

CONTROL_CHUNK_STREAM = 2
COMMAND_CHUNK_STREAM = 3
AUDIO_CHUNK_STREAM = 4
DATA_CHUNK_STREAM = 5
VIDEO_CHUNK_STREAM = 6

BANDWIDTH_DYNAMIC = 2
_TAG_HEADER = 11
_BACK_POINTER = 4
_32_BITS = 0xFFFF_FFFF


class UserEvent(IntEnum):
    """User control event types (section 7.1.7)."""

    STREAM_BEGIN = 0
    STREAM_EOF = 1
    STREAM_DRY = 2
    SET_BUFFER_LENGTH = 3
    STREAM_IS_RECORDED = 4
    PING_REQUEST = 6
    PING_RESPONSE = 7


@dataclass(frozen=True, slots=True)
class Command:
    """A NetConnection or NetStream command; ``arguments`` is what follows the transaction id, command object first."""

    name: str
    transaction: float
    arguments: tuple[amf0.Value, ...]
    stream_id: int = 0

    def text(self, index: int) -> str:
        """Argument ``index``, which must be a string; raises :class:`RemoteProtocolError` otherwise."""
        if index >= len(self.arguments) or not isinstance(self.arguments[index], str):
            raise RemoteProtocolError(f"{self.name}: argument {index} should be a string, got {self.arguments!r}")
        return str(self.arguments[index])

    def object(self, index: int) -> Mapping[str, amf0.Value]:
        """Argument ``index`` if it is an object, else an empty one."""
        value = self.arguments[index] if index < len(self.arguments) else None
        return value if isinstance(value, dict) else {}

    def to_message(self) -> Message:
        """As an AMF0 command message."""
        return Message(COMMAND, self.stream_id, 0, amf0.encode(self.name, self.transaction, *self.arguments))

    @classmethod
    def from_message(cls, message: Message) -> Command:
        """Reads type 20, and type 17 (which carries AMF0 after a zero byte).

        A missing transaction id counts as 0: ffmpeg as a server sends ``onFCPublish`` without one.
        """
        body = message.payload[1:] if message.type_id == COMMAND_AMF3 else message.payload
        values = amf0.decode_all(body)
        if not values or not isinstance(values[0], str):
            raise RemoteProtocolError(f"command without a name: {values[:2]!r}")
        transaction = values[1] if len(values) > 1 and isinstance(values[1], float) else 0.0
        return cls(values[0], transaction, tuple(values[2:]), message.stream_id)


def status(
    stream_id: int, code: str, description: str, *, level: str = "status", details: Mapping[str, str] | None = None
) -> Message:
    """``onStatus`` on the message stream that it is about (GStreamer insists on that)."""
    info = {"level": level, "code": code, "description": description, **(details or {})}
    return Command("onStatus", 0, (None, info), stream_id).to_message()


def set_chunk_size(size: int) -> Message:
    """What we send will be cut into chunks of ``size`` bytes from now on."""
    return Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", size))


def window_ack_size(size: int) -> Message:
    """The peer is to acknowledge at least every ``size`` bytes."""
    return Message(WINDOW_ACK_SIZE, 0, 0, struct.pack(">I", size))


def set_peer_bandwidth(size: int) -> Message:
    """The peer is to have no more than ``size`` bytes unacknowledged; nobody enforces it."""
    return Message(SET_PEER_BANDWIDTH, 0, 0, struct.pack(">IB", size, BANDWIDTH_DYNAMIC))


def acknowledgement(received: int) -> Message:
    """So many bytes have arrived here (modulo 2**32)."""
    return Message(ACKNOWLEDGEMENT, 0, 0, struct.pack(">I", received & _32_BITS))


def user_control(event: UserEvent, *values: int) -> Message:
    """``values`` are the 32-bit fields of the event: a stream id, a time, a buffer length in ms."""
    return Message(USER_CONTROL, 0, 0, struct.pack(f">H{len(values)}I", event, *(v & _32_BITS for v in values)))


def read_user_control(message: Message) -> tuple[int, int]:
    """Event type and its first 32-bit field (0 if it has none)."""
    body = message.payload
    if len(body) < 2:
        raise RemoteProtocolError(f"user control message with {len(body)} bytes")
    return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:6], "big")


def read_number(message: Message) -> int:
    """The 32-bit number that is the body of a control message."""
    if len(message.payload) < 4:
        raise RemoteProtocolError(f"control message {message.type_id} with {len(message.payload)} bytes, not 4")
    return int.from_bytes(message.payload[:4], "big")


def split_aggregate(message: Message) -> Iterator[Message]:
    """The FLV tags of an aggregate message (section 7.1.6) as messages of its stream.

    The first tag's time is the aggregate's; the others keep their distance to it.
    """
    body, at = message.payload, 0
    shift: int | None = None
    while at < len(body):
        if at + _TAG_HEADER > len(body):
            raise RemoteProtocolError(f"aggregate message ends inside a tag header, {len(body) - at} bytes left")
        type_id = body[at]
        size = int.from_bytes(body[at + 1 : at + 4], "big")
        time = int.from_bytes(body[at + 4 : at + 7], "big") | body[at + 7] << 24
        end = at + _TAG_HEADER + size
        if end > len(body) or type_id not in (AUDIO, VIDEO, DATA):
            raise RemoteProtocolError(f"aggregate message holds a tag of type {type_id} and {size} bytes at byte {at}")
        if shift is None:
            shift = message.timestamp - time
        yield Message(type_id, message.stream_id, (time + shift) & _32_BITS, body[at + _TAG_HEADER : end])
        at = end + _BACK_POINTER
