"""The other side of a destination or a viewer, in the test's own loop: a publisher, and a server that plays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from reference_impl.media.encoder import SourceSettings
from reference_impl.media.source import LiveSource
from reference_impl.rtmp.endpoint import PublishConnection, ServerConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl

SMALL = SourceSettings(width=160, height=96, bitrate=300_000, gop_s=1.0)


async def until(holds: Callable[[], object], *, within: float = 5.0, what: str = "") -> None:
    """Wait until ``holds()``; fails after ``within`` seconds."""
    end = time.monotonic() + within
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within:g} s: {what or holds}")
        await asyncio.sleep(0.01)


class Sender:
    """Pushes a live source to a URL, from an IDR on unless it is told to be careless."""

    def __init__(self, url: str, source: LiveSource | None = None, *, idr_first: bool = True) -> None:
        self.url = RtmpUrl.parse(url)
        self.started = False
        self.refused: list[str] = []
        self.lost = False
        self.sent = 0
        self._idr_first = idr_first
        self._gate = not idr_first
        self.source = source or LiveSource(SMALL, lambda _: None)
        self.source._on_message = self._message
        self.connection = PublishConnection(self.url, self)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.connection, self.url.host, self.url.port)
        self.connection.start()

    def publish_started(self, _connection: PublishConnection) -> None:
        self.started = True
        for header in self.source.sequence_headers():
            self.connection.send(header)
        if self._idr_first:
            self.source.request_keyframe("publish")
        self.source.start()

    def publish_refused(self, _connection: PublishConnection, code: str, _description: str) -> None:
        self.refused.append(code)

    def connection_lost(self, _connection: PublishConnection, _exc: Exception | None) -> None:
        self.lost = True

    def _message(self, message: MediaMessage) -> None:
        self._gate = self._gate or getattr(message, "idr", False)
        if self._gate and not self.lost and self.started:
            self.connection.send(message)
            self.sent += 1


class Stage:
    """Plays a live source to whoever asks, or refuses, as it is told."""

    def __init__(self) -> None:
        self.live = True
        self.asked: list[str] = []
        self.players: dict[ServerConnection, bool] = {}
        self.source = LiveSource(SMALL, self._message)
        self._server: asyncio.Server | None = None

    async def open(self, port: int = 0) -> int:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ServerConnection(self), "127.0.0.1", port)
        self.source.start()
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self.source.stop()
        if self._server is not None:
            self._server.close()
        for player in list(self.players):
            player.abort()
        await until(lambda: not self.players, what="players are gone")

    def connected(self, _connection: ServerConnection) -> None:
        pass

    def publish_requested(self, connection: ServerConnection, _app: str, _stream: str) -> None:
        connection.refuse_publish("NetStream.Publish.BadName", "only plays", close=True)

    def publish_ended(self, _connection: ServerConnection, _how: str) -> None:
        pass

    def media(self, _connection: ServerConnection, _message: MediaMessage) -> None:
        pass

    def play_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        self.asked.append(f"{app}/{stream}")
        if not self.live:
            connection.refuse_play("NetStream.Play.StreamNotFound", "not live")
            return
        connection.accept_play()
        for header in self.source.sequence_headers():
            connection.send(header)
        self.players[connection] = False
        self.source.request_keyframe("joined")

    def connection_lost(self, connection: ServerConnection, _exc: Exception | None) -> None:
        self.players.pop(connection, None)

    def _message(self, message: MediaMessage) -> None:
        idr = getattr(message, "idr", False)
        for player, open_ in list(self.players.items()):
            if open_ or idr:
                self.players[player] = True
                player.send(replace(MediaMessage(message.kind, message.timestamp, message.payload)))
