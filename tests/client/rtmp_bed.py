"""A publisher and a tiny RTMP server over loopback; every wait is bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reference_impl.client.parts import OnMessage, PublisherParts
from reference_impl.client.publisher import Publisher, PublisherSettings
from reference_impl.machines.reconnect import ReconnectSettings
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.source import SourceMessage
from reference_impl.rtmp.endpoint import ServerConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.tcp_state import abort
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import TelemetryRecorder

IDR, PICTURE, SOUND = b"\x17\x01\x00\x00\x00idr", b"\x27\x01\x00\x00\x00p", b"\xaf\x01aac"


class PreparedSource:
    """A source without an encoder: 100 pictures a second, an IDR only when asked for."""

    picture_bytes = 2000

    def __init__(
        self,
        _settings: SourceSettings,
        _media: Path | None,
        on_message: OnMessage,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_message = on_message
        self._loop = loop
        self._wanted: str | None = None
        self._frame = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._wanted = self._wanted or "start"
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def request_keyframe(self, reason: str) -> None:
        self._wanted = reason

    def sequence_headers(self) -> Sequence[MediaMessage]:
        return [MediaMessage("script", 0, b"\x02\x00\x0aonMetaData\x05"), MediaMessage("video", 0, b"\x17\x00avcC")]

    def _tick(self) -> None:
        reason, self._wanted = self._wanted or "", None
        head = IDR if reason else PICTURE
        payload = head + bytes(self.picture_bytes - len(head))
        message = SourceMessage("video", self._frame * 10, payload, self._frame, bool(reason), reason)
        self._frame += 1
        self._timer = self._loop.call_later(0.01, self._tick)
        self._on_message(message)
        self._on_message(SourceMessage("audio", message.timestamp, SOUND))


@dataclass
class Accepted:
    """One connection, as the server saw it."""

    connection: ServerConnection
    stream: str = ""
    media: list[MediaMessage] = field(default_factory=list)
    published: bool = False
    ended: str = ""
    lost: bool = False

    def videos(self) -> list[bytes]:
        """Kinds of the video messages, in order: ``avcC``, ``idr`` or ``p``."""
        kinds = {b"\x17\x00": b"avcC", b"\x17\x01": b"idr", b"\x27\x01": b"p"}
        return [kinds[message.payload[:2]] for message in self.media if message.kind == "video"]


class TinyServer:
    """Accepts what its ``answer`` accepts; ``answer(accepted)`` is called at each publish."""

    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        self.answer: Callable[[Accepted], None] = lambda accepted: accepted.connection.accept_publish()
        self.at_once: Callable[[Accepted], None] = lambda accepted: None
        """Called when a TCP connection is up, before anything was said."""
        self._server: asyncio.Server | None = None

    async def start(self, *, port: int = 0) -> int:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.bind(("127.0.0.1", port))
        self._server = await asyncio.get_running_loop().create_server(self._protocol, sock=sock)
        return int(sock.getsockname()[1])

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        self.stop_listening()
        for accepted in self.accepted:
            if not accepted.lost:
                abort(accepted.connection.transport)

    def of(self, connection: ServerConnection) -> Accepted:
        return next(accepted for accepted in self.accepted if accepted.connection is connection)

    def _protocol(self) -> ServerConnection:
        server = self

        class Connection(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                server.at_once(server.of(self))

        connection = Connection(self)
        self.accepted.append(Accepted(connection))
        return connection

    # --- listener ----------------------------------------------------------------------------------------------

    def publish_requested(self, connection: ServerConnection, _app: str, stream: str) -> None:
        accepted = self.of(connection)
        accepted.stream, accepted.published = stream, True
        self.answer(accepted)

    def media(self, connection: ServerConnection, message: MediaMessage) -> None:
        self.of(connection).media.append(message)

    def publish_ended(self, connection: ServerConnection, how: str) -> None:
        self.of(connection).ended = how

    def play_requested(self, connection: ServerConnection, _app: str, _stream: str) -> None:
        raise AssertionError("nobody plays here")

    def play_ended(self, connection: ServerConnection) -> None:
        raise AssertionError("nobody plays here")

    def connection_lost(self, connection: ServerConnection, _exc: Exception | None) -> None:
        self.of(connection).lost = True


class Bed:
    """One publisher and one server."""

    def __init__(self, *, parts: PublisherParts | None = None, **settings: Any) -> None:
        self.server = TinyServer()
        self.told = TelemetryRecorder()
        self.finished: list[tuple[str, bool]] = []
        self._settings = settings
        self._parts = parts or PublisherParts()

    async def __aenter__(self) -> Bed:
        self.port = await self.server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if hasattr(self, "publisher"):
            await self.publisher.stop("test over")
        self.server.close()
        await asyncio.sleep(0)

    def publish(self, *, host: str = "127.0.0.1") -> None:
        limits = {"attempt_every": 0.1, "proven_after": 0.2, **self._settings.pop("reconnect", {})}
        self.publisher = Publisher(
            RtmpUrl.parse(f"rtmp://{host}:{self.port}/live/cam1?key=k"),
            PublisherSettings(reconnect=ReconnectSettings(**limits), **self._settings),
            telemetry=self.told,
            loop=asyncio.get_running_loop(),
            on_finished=lambda reason, failed: self.finished.append((reason, failed)),
            parts=replace(self._parts, source=self._parts.source if self._has_source() else PreparedSource),
        )
        self.publisher.start()

    def _has_source(self) -> bool:
        return self._parts.source is not PublisherParts().source

    async def until(self, condition: Callable[[], object], *, within: float = 8.0) -> None:
        """Wait for a condition that other tasks make true."""
        deadline = asyncio.get_running_loop().time() + within
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                names = [name for _, name, _ in self.told.events if name != "tcp:sampled"]
                raise AssertionError(f"not within {within:g} s; told: {names[-40:]}")
            await asyncio.sleep(0.005)

    async def until_told(self, name: str, *, times: int = 1, within: float = 8.0) -> None:
        await self.until(lambda: len(self.told.named(name)) >= times, within=within)

    async def live(self) -> Accepted:
        """Publish, and wait until media flow on a proven connection."""
        self.publish()
        await self.until(lambda: self.statuses()[-1:] == ["live"])
        return self.server.accepted[-1]

    def statuses(self) -> list[str]:
        return [data["status"] for data in self.told.named("status:changed")]

    def moment(self, name: str, *, last: bool = False) -> float:
        """When an event was first (or last) told, in seconds."""
        moments = [t_ns / 1e9 for t_ns, told, _ in self.told.events if told == name]
        return moments[-1 if last else 0]
