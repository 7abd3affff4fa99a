"""Both ends of an RTMP conversation in memory: a client with a server, or one of them with a scripted peer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Literal

from reference_impl.rtmp import commands, protocol
from reference_impl.rtmp.chunks import ChunkReader, ChunkWriter, Message
from reference_impl.rtmp.commands import Command
from reference_impl.rtmp.handshake import PACKET_BYTES
from reference_impl.rtmp.protocol import ClientProtocol, ServerProtocol
from reference_impl.rtmp.url import RtmpUrl

URL = RtmpUrl.parse("rtmp://gateway.test/live/cam1?key=secret")
Event = protocol.ClientEvent | protocol.ServerEvent
Role = Literal["publish", "play"]
Answer = Literal["accept", "refuse", "none"]

PATIENCE = 5.0
"""Seconds after which a test is told that what it waits for does not come."""


async def until(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Wait until ``condition()`` is true; :class:`AssertionError` if it is not in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within:g} s in vain"
        await asyncio.sleep(0.002)


class Pair:
    """A client and a server; :meth:`run` carries bytes to and fro until both are silent."""

    def __init__(
        self, role: Role = "publish", *, pipelined: bool = True, answer: Answer = "accept", seed: int = 0
    ) -> None:
        self.client = ClientProtocol(URL, role, pipelined=pipelined)
        self.server = ServerProtocol()
        self.seen: dict[str, list[Event]] = {"client": [], "server": []}
        self.flights = 0
        self.flights_to_start = 0
        """How often the client had to send and wait before it was started."""
        self._answer = answer
        self._rng = random.Random(seed)

    def run(self) -> Pair:
        while True:
            upward, downward = b"".join(self.client.take_output()), b"".join(self.server.take_output())
            if not upward and not downward:
                return self
            self.flights += bool(upward)
            self._deliver(downward, self.client, "client")
            self._deliver(upward, self.server, "server")

    def _deliver(self, data: bytes, to: ClientProtocol | ServerProtocol, name: str) -> None:
        at = 0
        while at < len(data):
            size = self._rng.choice([1, 3, 200, 1448])
            for event in to.receive(data[at : at + size]):
                self.seen[name].append(event)
                self._react(event)
            at += size

    def _react(self, event: Event) -> None:
        server = self.server
        if isinstance(event, protocol.Started):
            self.flights_to_start = self.flights
        if isinstance(event, protocol.PublishRequested) and self._answer == "accept":
            server.accept_publish()
        elif isinstance(event, protocol.PublishRequested) and self._answer == "refuse":
            server.refuse_publish("NetStream.Publish.BadName", "Already publishing")
        elif isinstance(event, protocol.PlayRequested) and self._answer == "accept":
            server.accept_play()
        elif isinstance(event, protocol.PlayRequested) and self._answer == "refuse":
            server.refuse_play("NetStream.Play.StreamNotFound", "nothing there")


def started(role: Role = "publish", *, pipelined: bool = True, answer: Answer = "accept", seed: int = 0) -> Pair:
    """A pair that has said all it can without the test."""
    pair = Pair(role, pipelined=pipelined, answer=answer, seed=seed)
    pair.client.start()
    return pair.run()


class Peer:
    """The other end of a protocol under test, which says what it likes."""

    def __init__(self, tested: ClientProtocol | ServerProtocol) -> None:
        self.tested = tested
        self.writer, self._reader = ChunkWriter(), ChunkReader()
        self._output = b""

    def shake_hands_as_client(self) -> Peer:
        list(self.tested.receive(b"\x03" + bytes(PACKET_BYTES)))
        self.tested.take_output()
        list(self.tested.receive(bytes(PACKET_BYTES)))
        return self

    def shake_hands_as_server(self) -> Peer:
        assert isinstance(self.tested, ClientProtocol)
        self.tested.start()
        self.tested.take_output()
        list(self.tested.receive(b"\x03" + bytes(2 * PACKET_BYTES)))
        self._output = b"".join(self.tested.take_output())[PACKET_BYTES:]
        return self

    def connect(self) -> Peer:
        """As a client, up to the first message stream."""
        self.shake_hands_as_client()
        self.tell(Command("connect", 1, ({"app": "live"},)))
        self.tell(Command("createStream", 2, (None,)))
        self.messages()
        return self

    def send(self, message: Message) -> list[Event]:
        return self.say(b"".join(self.writer.write(message, chunk_stream=3)))

    def say(self, data: bytes) -> list[Event]:
        return list(self.tested.receive(data))

    def tell(self, command: Command) -> list[Event]:
        return self.send(command.to_message())

    def messages(self) -> list[Message]:
        """What the other end has said since the last look."""
        data, self._output = self._output + b"".join(self.tested.take_output()), b""
        return list(self._reader.feed(data))

    def commands(self) -> list[Command]:
        """The commands among them."""
        return [Command.from_message(message) for message in self.messages() if message.type_id == commands.COMMAND]
