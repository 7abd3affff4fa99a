"""What both ends of a connection have in common: handshake, chunk stream, acknowledgements, ping. Sans-IO.

Bytes in through :meth:`Wire.receive`, which hands out the messages that concern a client or server; answers that the
protocol itself owes (handshake, Acknowledgement, ping response, Window Acknowledgement Size) are queued at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

from reference_impl.rtmp import commands
from reference_impl.rtmp.chunks import ABORT, ChunkReader, ChunkWriter, Message
from reference_impl.rtmp.commands import UserEvent
from reference_impl.rtmp.handshake import Handshake
from reference_impl.rtmp.limits import Limits


class _Handshaken(Enum):
    HANDSHAKEN = "handshaken"


HANDSHAKEN: Final = _Handshaken.HANDSHAKEN

_MEDIA_CHUNK_STREAMS = {
    commands.AUDIO: commands.AUDIO_CHUNK_STREAM,
    commands.VIDEO: commands.VIDEO_CHUNK_STREAM,
    commands.DATA: commands.DATA_CHUNK_STREAM,
    commands.COMMAND: commands.COMMAND_CHUNK_STREAM,
}


class Wire:
    """One end of an RTMP connection, below commands and media."""

    def __init__(self, handshake: Handshake, *, limits: Limits) -> None:
        self.acknowledged_bytes = 0
        """What the peer's RTMP has acknowledged of our bytes (modulo 2**32)."""
        self.last_ping_response: int | None = None
        """The time stamp in the peer's last ping response."""
        self._handshake = handshake
        self._reader = ChunkReader(limits=limits)
        self._writer = ChunkWriter()
        self._output: list[bytes] = []
        self._received_bytes = 0
        self._acknowledged_at = 0
        self._window = 0
        self._announced_window = 0

    @property
    def chunk_size(self) -> int:
        """Of the chunks that we send."""
        return self._writer.chunk_size

    def open(self) -> None:
        """Queue our side's first handshake bytes."""
        if self._handshake.opening:
            self._output.append(self._handshake.opening)

    def send(self, message: Message) -> None:
        """Queue ``message`` on the chunk stream of its type."""
        chunk_stream = _MEDIA_CHUNK_STREAMS.get(message.type_id, commands.CONTROL_CHUNK_STREAM)
        self._output += self._writer.write(message, chunk_stream=chunk_stream)

    def take_output(self) -> list[bytes]:
        """Everything queued, chunk by chunk; the queue is empty afterwards."""
        output, self._output = self._output, []
        return output

    def announce_window(self, size: int) -> None:
        """Ask the peer to acknowledge every ``size`` bytes, unless that was said already."""
        if size != self._announced_window:
            self._announced_window = size
            self.send(commands.window_ack_size(size))

    def ping(self, timestamp: int) -> None:
        """Ask the peer for a ping response with ``timestamp`` (ms, 32 bits)."""
        self.send(commands.user_control(UserEvent.PING_REQUEST, timestamp))

    def receive(self, data: bytes) -> Iterator[Message | _Handshaken]:
        """Take ``data``; the messages are parsed while they are iterated, :data:`HANDSHAKEN` comes once before them.

        Raises :class:`RemoteProtocolError` while iterating.
        """
        if not self._handshake.done:
            reply, data = self._handshake.receive(data)
            if reply:
                self._output.append(reply)
            if not self._handshake.done:
                return
            yield HANDSHAKEN
        self._received_bytes += len(data)
        for message in self._reader.feed(data):
            if message.type_id <= commands.SET_PEER_BANDWIDTH:
                if self._control(message):
                    yield message
            elif message.type_id == commands.AGGREGATE:
                yield from commands.split_aggregate(message)
            else:
                yield message
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._window and self._received_bytes - self._acknowledged_at >= self._window:
            self._acknowledged_at = self._received_bytes
            self.send(commands.acknowledgement(self._received_bytes))

    def _control(self, message: Message) -> bool:
        """Obey a protocol control message; true if a client or server should see it too."""
        kind = message.type_id
        if kind <= ABORT:
            return False
        if kind == commands.USER_CONTROL:
            return self._user_control(message)
        value = commands.read_number(message)
        if kind == commands.ACKNOWLEDGEMENT:
            self.acknowledged_bytes = value
        elif kind == commands.WINDOW_ACK_SIZE:
            # Half of it, so that a peer which stops at the window never has to wait for us.
            self._window = value // 2
        elif kind == commands.SET_PEER_BANDWIDTH:
            self.announce_window(value)
        return False

    def _user_control(self, message: Message) -> bool:
        event, value = commands.read_user_control(message)
        if event == UserEvent.PING_REQUEST:
            self.send(commands.user_control(UserEvent.PING_RESPONSE, value))
        elif event == UserEvent.PING_RESPONSE:
            self.last_ping_response = value
        return event == UserEvent.STREAM_EOF
