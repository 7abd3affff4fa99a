"""Listeners that write down what they are told, and a server that has a policy; real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from reference_impl.rtmp.endpoint import PlayConnection, PublishConnection, ServerConnection, serve
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl


class Client:
    """Publishes or plays and keeps every call as ``(name, arguments…)``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.messages: list[MediaMessage] = []

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    @property
    def lost(self) -> bool:
        return bool(self.named("connection_lost"))

    def publish_started(self, _connection: PublishConnection) -> None:
        self.calls.append(("publish_started",))

    def publish_refused(self, _connection: PublishConnection, code: str, description: str) -> None:
        self.calls.append(("publish_refused", code, description))

    def play_started(self, _connection: PlayConnection) -> None:
        self.calls.append(("play_started",))

    def play_refused(self, _connection: PlayConnection, code: str) -> None:
        self.calls.append(("play_refused", code))

    def play_ended(self, _connection: PlayConnection, code: str) -> None:
        self.calls.append(("play_ended", code))

    def media(self, _connection: PlayConnection, message: MediaMessage) -> None:
        self.messages.append(message)

    def connection_lost(self, _connection: PublishConnection | PlayConnection, exc: Exception | None) -> None:
        self.calls.append(("connection_lost", exc))


class MovingClient(Client):
    """One that can be asked to reconnect."""

    def reconnect_requested(self, _connection: PublishConnection, url: str | None) -> None:
        self.calls.append(("reconnect_requested", url))


class Server:
    """One listener for all connections; accepts, and relays what is published to whoever plays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.connections: list[ServerConnection] = []
        self.messages: list[MediaMessage] = []
        self.on_publish: Callable[[ServerConnection], None] = ServerConnection.accept_publish
        self.on_play: Callable[[ServerConnection], None] = self._join
        self.on_media: Callable[[ServerConnection, MediaMessage], None] = lambda _connection, _message: None
        self.players: list[ServerConnection] = []
        self._headers: list[MediaMessage] = []

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def connected(self, connection: ServerConnection) -> None:
        self.connections.append(connection)

    def publish_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        self.calls.append(("publish_requested", app, stream))
        self.on_publish(connection)

    def media(self, connection: ServerConnection, message: MediaMessage) -> None:
        self.messages.append(message)
        self.on_media(connection, message)
        if message.kind == "script" or message.payload[1:2] == b"\x00":
            self._headers.append(message)
        for player in self.players:
            player.send(message)

    def publish_ended(self, _connection: ServerConnection, how: str) -> None:
        self.calls.append(("publish_ended", how))

    def play_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        self.calls.append(("play_requested", app, stream))
        self.on_play(connection)

    def connection_lost(self, connection: ServerConnection, exc: Exception | None) -> None:
        self.calls.append(("connection_lost", exc))
        if connection in self.players:
            self.players.remove(connection)

    def _join(self, connection: ServerConnection) -> None:
        connection.accept_play()
        for header in self._headers:
            connection.send(header)
        self.players.append(connection)


@asynccontextmanager
async def listening(server: Server, *, host: str = "127.0.0.1", **settings: Any) -> AsyncIterator[RtmpUrl]:
    """The address of ``live/cam1`` on a port of its own; every connection is gone afterwards."""
    listener = await serve(host, 0, lambda: server, **settings)
    try:
        yield RtmpUrl(host, listener.sockets[0].getsockname()[1], "live", "cam1?key=secret")
    finally:
        listener.close()
        for connection in server.connections:
            connection.abort()
        await asyncio.sleep(0)


async def publish(url: RtmpUrl, client: Client, **settings: Any) -> PublishConnection:
    """A connection that has begun to publish."""
    connection = PublishConnection(url, client, **settings)
    await asyncio.get_running_loop().create_connection(lambda: connection, url.host, url.port)
    connection.start()
    return connection


async def play(url: RtmpUrl, client: Client, **settings: Any) -> PlayConnection:
    """A connection that has begun to play."""
    connection = PlayConnection(url, client, **settings)
    await asyncio.get_running_loop().create_connection(lambda: connection, url.host, url.port)
    connection.start()
    return connection
