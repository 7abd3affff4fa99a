"""The RTMP chunk stream (Adobe RTMP 1.0, section 5.3): messages cut into chunks, and put together again. Sans-IO.

Timestamps are the wire's 32 bits here; ``timestamps.py`` unwraps them. Where the specification and real programs
disagree, this is what the reader takes:

* A message that *starts* with a type 3 chunk repeats the last delta; after a type 0 chunk that is the type 0
  timestamp itself (specification; ffmpeg, librtmp and SRS do so). The writer never writes this case.
* A type 3 chunk repeats the extended timestamp. Old encoders leave it out, so the four bytes count as one only if
  they are equal to the field they should repeat (as SRS does it).
* The first chunk of a chunk stream may be type 1 (librtmp does that); its stream id is 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError
from reference_impl.rtmp.limits import DEFAULT_LIMITS, Limits

DEFAULT_CHUNK_SIZE = 128
MAX_CHUNK_SIZE = 0x7FFF_FFFF
MAX_CHUNK_STREAM = 65_599
SET_CHUNK_SIZE = 1
ABORT = 2

_EXTENDED = 0xFF_FFFF
_32_BITS = 0xFFFF_FFFF
_HEADER_BYTES = (11, 7, 3, 0)
_SINGLE = 3
_OBEYED = (SET_CHUNK_SIZE, ABORT)


class Message(NamedTuple):
    """One RTMP message as it stands on the wire (a tuple because one is made per frame and per audio packet)."""

    type_id: int
    stream_id: int
    timestamp: int
    """Milliseconds modulo 2**32."""
    payload: bytes


class _Incoming:
    """What the reader remembers of one chunk stream."""

    __slots__ = ("body", "delta", "extended", "length", "missing", "stream_id", "timestamp", "type_id")

    def __init__(self) -> None:
        self.timestamp = 0
        self.delta = 0
        self.extended = False
        self.length = 0
        self.type_id = 0
        self.stream_id = 0
        # Not a list of parts: a peer that sends two bytes at a time would make it twenty times their size.
        self.body = bytearray()
        self.missing = 0
        """Payload bytes of the unfinished message still to come; 0 between messages."""


class ChunkReader:
    """Bytes in, whole messages out. Set Chunk Size and Abort are obeyed here and also returned."""

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.chunk_size = DEFAULT_CHUNK_SIZE
        self._limits = limits
        self._streams: dict[int, _Incoming] = {}
        self._buffer = b""
        self._position = 0
        self._current: _Incoming | None = None
        self._chunk_missing = 0
        self._unfinished = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take ``data`` and return the messages that are now complete, parsed while they are iterated.

        Raises :class:`RemoteProtocolError` (while iterating) for what cannot be a chunk stream or exceeds the limits.
        """
        self._buffer = self._buffer[self._position :] + data if self._position < len(self._buffer) else data
        self._position = 0
        return self._messages()

    @property
    def held_bytes(self) -> int:
        """What is in memory for messages that are not complete."""
        return self._unfinished + len(self._buffer) - self._position

    def _messages(self) -> Iterator[Message]:
        while True:
            stream = self._current
            if stream is None:
                stream = self._current = self._read_header()
                if stream is None:
                    return
            if not self._read_payload(stream):
                return
            self._current = None
            if stream.missing == 0:
                message = self._complete(stream)
                if message.type_id in _OBEYED:
                    self._obey(message)
                yield message

    def _read_payload(self, stream: _Incoming) -> bool:
        """Take what is there of the current chunk; true when the chunk is complete."""
        start = self._position
        part = self._buffer[start : start + self._chunk_missing]
        taken = len(part)
        if taken:
            self._position = start + taken
            stream.body += part
            stream.missing -= taken
            self._chunk_missing -= taken
            self._unfinished += taken
        if self._unfinished > self._limits.unfinished_bytes:
            raise RemoteProtocolError(
                f"{self._unfinished} bytes of unfinished messages, the limit is {self._limits.unfinished_bytes}"
            )
        return self._chunk_missing == 0

    def _complete(self, stream: _Incoming) -> Message:
        payload = bytes(stream.body)
        stream.body = bytearray()
        self._unfinished -= len(payload)
        return Message(stream.type_id, stream.stream_id, stream.timestamp, payload)

    def _obey(self, message: Message) -> None:
        if len(message.payload) < 4:
            raise RemoteProtocolError(f"control message {message.type_id} with {len(message.payload)} bytes, not 4")
        value = int.from_bytes(message.payload[:4], "big")
        if message.type_id == SET_CHUNK_SIZE:
            if not 1 <= value <= MAX_CHUNK_SIZE:
                raise RemoteProtocolError(f"chunk size {value} is not in 1..{MAX_CHUNK_SIZE}")
            self.chunk_size = value
        elif message.type_id == ABORT and (aborted := self._streams.get(value)) is not None:
            self._unfinished -= len(aborted.body)
            aborted.body, aborted.missing = bytearray(), 0

    def _read_header(self) -> _Incoming | None:
        """Take one whole chunk header, or nothing and return None."""
        buffer, position = self._buffer, self._position
        available = len(buffer) - position
        if available < 1:
            return None
        form, chunk_stream = buffer[position] >> 6, buffer[position] & 0x3F
        basic = 1 if chunk_stream > 1 else 2 + chunk_stream
        if available < basic + _HEADER_BYTES[form]:
            return None
        if basic > 1:
            chunk_stream = 64 + int.from_bytes(buffer[position + 1 : position + basic], "little")
        stream = self._stream(chunk_stream, form)
        end = position + basic
        taken = self._start_message(stream, form, end) if form != _SINGLE else self._continue(stream, end)
        if taken < 0:
            return None
        self._position = end + taken
        self._chunk_missing = min(self.chunk_size, stream.missing)
        return stream

    def _stream(self, chunk_stream: int, form: int) -> _Incoming:
        stream = self._streams.get(chunk_stream)
        if stream is not None:
            if form != _SINGLE and stream.missing:
                raise RemoteProtocolError(
                    f"chunk stream {chunk_stream} starts a message while {stream.missing} bytes of the last are missing"
                )
            return stream
        if form > 1:
            raise RemoteProtocolError(f"chunk stream {chunk_stream} opens with a type {form} chunk")
        if len(self._streams) >= self._limits.chunk_streams:
            raise RemoteProtocolError(f"more chunk streams than the limit of {self._limits.chunk_streams}")
        return self._streams.setdefault(chunk_stream, _Incoming())

    def _start_message(self, stream: _Incoming, form: int, at: int) -> int:
        """Read a type 0, 1 or 2 header at ``at``; its length, or -1 if a part has not come yet."""
        buffer = self._buffer
        size = _HEADER_BYTES[form]
        field = int.from_bytes(buffer[at : at + 3], "big")
        extended = field == _EXTENDED
        if extended:
            if len(buffer) < at + size + 4:
                return -1
            field = int.from_bytes(buffer[at + size : at + size + 4], "big")
            size += 4
        if form < 2:
            self._announce(stream, int.from_bytes(buffer[at + 3 : at + 6], "big"))
            stream.type_id = buffer[at + 6]
        if form == 0:
            stream.stream_id = int.from_bytes(buffer[at + 7 : at + 11], "little")
        stream.extended = extended
        stream.delta = field
        stream.timestamp = field if form == 0 else (stream.timestamp + field) & _32_BITS
        stream.missing = stream.length
        return size

    def _announce(self, stream: _Incoming, length: int) -> None:
        if length > self._limits.message_bytes:
            raise RemoteProtocolError(f"message of {length} bytes, the limit is {self._limits.message_bytes}")
        stream.length = length

    def _continue(self, stream: _Incoming, at: int) -> int:
        """Read what a type 3 header may carry at ``at``; its length, or -1 if a part has not come yet."""
        size = 0
        if stream.extended:
            if len(self._buffer) < at + 4:
                return -1
            size = 4 if int.from_bytes(self._buffer[at : at + 4], "big") == stream.delta else 0
        if stream.missing == 0:
            stream.timestamp = (stream.timestamp + stream.delta) & _32_BITS
            stream.missing = stream.length
        return size


class _Outgoing(NamedTuple):
    """What the writer remembers of one chunk stream: the header of its last message."""

    timestamp: int
    delta: int
    """-1 after a type 0 chunk."""
    length: int
    type_id: int
    stream_id: int


class ChunkWriter:
    """Messages in, chunks out, each chunk one element of the list so that a test can cut or interleave anywhere."""

    def __init__(self) -> None:
        self.chunk_size = DEFAULT_CHUNK_SIZE
        self._last: dict[int, _Outgoing] = {}

    def write(self, message: Message, *, chunk_stream: int) -> list[bytes]:
        """The chunks of ``message``, with the smallest header that fits; a Set Chunk Size takes effect after itself.

        Raises :class:`LocalProtocolError` for a chunk stream id outside 2..65599 and for a payload over 16 MB.
        """
        if not 2 <= chunk_stream <= MAX_CHUNK_STREAM:
            raise LocalProtocolError(f"chunk stream {chunk_stream} is not in 2..{MAX_CHUNK_STREAM}")
        payload, length = message.payload, len(message.payload)
        if length > _EXTENDED:
            raise LocalProtocolError(f"message of {length} bytes; RTMP has 24 bits for it")
        header, continuation = self._headers(message, chunk_stream)
        size = self.chunk_size
        chunks = [header + payload[:size]]
        if length > size:
            chunks += [continuation + payload[at : at + size] for at in range(size, length, size)]
        if message.type_id == SET_CHUNK_SIZE:
            self.chunk_size = int.from_bytes(payload[:4], "big")
        return chunks

    def _headers(self, message: Message, chunk_stream: int) -> tuple[bytes, bytes]:
        """Header of the first chunk, and of the others; remembers the first."""
        timestamp = message.timestamp & _32_BITS
        length = len(message.payload)
        last = self._last.get(chunk_stream)
        delta = timestamp - last.timestamp if last is not None else -1
        # A delta that needs an extended timestamp is legal and rarely tested in peers: an absolute one is safer.
        if last is None or last.stream_id != message.stream_id or not 0 <= delta < _EXTENDED:
            form, field, delta = 0, timestamp, -1
        else:
            form = _shortest_form(last, message, delta)
            field = delta
        self._last[chunk_stream] = _Outgoing(timestamp, delta, length, message.type_id, message.stream_id)
        return _encode_headers(form, field, message, chunk_stream)


def _shortest_form(last: _Outgoing, message: Message, delta: int) -> int:
    if last.length != len(message.payload) or last.type_id != message.type_id:
        return 1
    return 3 if last.delta == delta else 2


def _encode_headers(form: int, field: int, message: Message, chunk_stream: int) -> tuple[bytes, bytes]:
    short = min(field, _EXTENDED)
    extension = field.to_bytes(4, "big") if short == _EXTENDED else b""
    header = b""
    if form < 3:
        header = short.to_bytes(3, "big")
    if form < 2:
        header += len(message.payload).to_bytes(3, "big") + bytes([message.type_id])
    if form == 0:
        header += struct.pack("<I", message.stream_id)
    return (
        _basic_header(form, chunk_stream) + header + extension,
        _basic_header(_SINGLE, chunk_stream) + extension,
    )


def _basic_header(form: int, chunk_stream: int) -> bytes:
    if chunk_stream < 64:
        return bytes([form << 6 | chunk_stream])
    if chunk_stream < 320:
        return bytes([form << 6, chunk_stream - 64])
    return bytes([form << 6 | 1]) + (chunk_stream - 64).to_bytes(2, "little")
