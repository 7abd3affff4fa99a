"""The stage for loopback tests: a camera without an encoder, a publisher, a player, a platform, the real gateway.

Every wait is bounded by :data:`PATIENCE`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference_impl.media import flv
from reference_impl.media.aac import AudioConfig
from reference_impl.media.h264 import AvcConfig
from reference_impl.media.stamp import FrameStamp
from reference_impl.rtmp.endpoint import PlayConnection, PublishConnection, ServerConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl

PATIENCE = 10.0
"""Seconds after which a test is told that what it waits for does not come."""
FRAME_MS = 33
ROOT = Path(__file__).resolve().parents[2]
_SPS = bytes.fromhex("6742c00ad9042684000003000400000300f23c489920")
_PPS = bytes.fromhex("68cb83cb20")


async def until(what: str, condition: Callable[[], object]) -> None:
    """Wait for a condition, politely and not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}")
        await asyncio.sleep(0.005)


def free_port() -> int:
    """A port of the loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_worker(pid: int) -> None:
    """End an egress worker that may be left, and nothing else."""
    try:
        is_worker = b"egress_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return
    if is_worker:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Camera:
    """Messages that look like a stream to everything that does not decode."""

    def __init__(self, *, start_ms: int = 0, gop: int = 10, frame_bytes: int = 600) -> None:
        self.frame = 0
        self.clock_ms = start_ms
        self._gop = gop
        self._frame_bytes = frame_bytes
        self._source = os.urandom(8)

    def headers(self) -> list[MediaMessage]:
        avc = flv.video_sequence_header(AvcConfig((_SPS,), (_PPS,)))
        return [
            MediaMessage("script", 0, flv.metadata({"width": 64.0, "height": 64.0})),
            MediaMessage("video", 0, avc),
            MediaMessage("audio", 0, flv.audio_sequence_header(AudioConfig(48000, 2))),
        ]

    def shot(self, *, idr: bool | None = None) -> list[MediaMessage]:
        """The next picture, with the sound that belongs to it."""
        keyframe = self.frame % self._gop == 0 if idr is None else idr
        stamp = FrameStamp(self.frame, time.monotonic_ns(), self._source).to_nal()
        picture = bytes((0x65 if keyframe else 0x41,)) + b"\x88" * self._frame_bytes
        video = flv.video_frame([stamp, picture], keyframe=keyframe)
        messages = [
            MediaMessage("video", self.clock_ms, video),
            MediaMessage("audio", self.clock_ms, flv.audio_frame(b"\x21\x10\x04")),
        ]
        self.frame += 1
        self.clock_ms += FRAME_MS
        return messages


def frame_of(message: MediaMessage) -> int | None:
    """The number of a picture; ``None`` for what is none."""
    if message.kind != "video":
        return None
    stamp = flv.parse_video(message.payload).stamp()
    return stamp.frame if stamp is not None else None


def is_idr(message: MediaMessage) -> bool:
    return message.kind == "video" and flv.parse_video(message.payload).idr


class Publisher:
    """One publishing connection."""

    def __init__(self, url: str) -> None:
        self._url = RtmpUrl.parse(url)
        self.started = False
        self.refused: str | None = None
        self.lost = False
        self.connection = PublishConnection(self._url, self)

    async def connect(self) -> Publisher:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.connection, self._url.host, self._url.port)
        self.connection.start()
        await until("an answer to publish", lambda: self.started or self.refused or self.lost)
        return self

    def send(self, messages: Sequence[MediaMessage]) -> None:
        for message in messages:
            self.connection.send(message)

    async def stream(self, camera: Camera, *, shots: int, headers: bool = True, pace: float = 0.002) -> None:
        """Headers, then pictures, faster than life."""
        if headers:
            self.send(camera.headers())
        for _ in range(shots):
            self.send(camera.shot())
            await asyncio.sleep(pace)

    def publish_started(self, connection: PublishConnection) -> None:
        self.started = True

    def publish_refused(self, connection: PublishConnection, code: str, description: str) -> None:
        self.refused = code

    def connection_lost(self, connection: PublishConnection, exc: Exception | None) -> None:
        self.lost = True


class Player:
    """One playing connection."""

    def __init__(self, url: str) -> None:
        self._url = RtmpUrl.parse(url)
        self.messages: list[MediaMessage] = []
        self.started = False
        self.refused: str | None = None
        self.ended: str | None = None
        self.lost = False
        self.connection = PlayConnection(self._url, self)

    async def connect(self) -> Player:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.connection, self._url.host, self._url.port)
        self.connection.start()
        await until("an answer to play", lambda: self.started or self.refused or self.lost)
        return self

    @property
    def frames(self) -> list[int]:
        return [frame for message in self.messages if (frame := frame_of(message)) is not None]

    @property
    def pictures(self) -> list[MediaMessage]:
        return [message for message in self.messages if frame_of(message) is not None]

    def play_started(self, connection: PlayConnection) -> None:
        self.started = True

    def media(self, connection: PlayConnection, message: MediaMessage) -> None:
        self.messages.append(message)

    def play_refused(self, connection: PlayConnection, code: str, description: str = "") -> None:
        self.refused = code

    def play_ended(self, connection: PlayConnection, code: str) -> None:
        self.ended = code

    def connection_lost(self, connection: PlayConnection, exc: Exception | None) -> None:
        self.lost = True


@dataclass
class Push:
    """One publish that a platform got."""

    stream: str
    messages: list[MediaMessage] = field(default_factory=list)
    ended: str | None = None
    lost: bool = False

    @property
    def frames(self) -> list[int]:
        return [frame for message in self.messages if (frame := frame_of(message)) is not None]

    @property
    def pictures(self) -> list[MediaMessage]:
        return [message for message in self.messages if frame_of(message) is not None]


class Platform:
    """An RTMP server that egresses push to; it may refuse keys and drop connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"rtmp://127.0.0.1:{port}/live/key"
        self.pushes: list[Push] = []
        self.refuses = False
        self._deaf = False
        self._open: set[ServerConnection] = set()
        self._by_connection: dict[ServerConnection, Push] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ServerConnection(self), "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop_all()
        await asyncio.sleep(0)

    @property
    def active(self) -> int:
        return sum(not push.lost and push.ended is None for push in self.pushes)

    def drop_all(self) -> None:
        for connection in list(self._open):
            connection.abort()

    def stop_reading(self) -> None:
        """From now on nothing is read from any connection: the pushers find a zero window."""
        self._deaf = True
        for connection in self._open:
            connection.transport.pause_reading()

    def connected(self, connection: ServerConnection) -> None:
        self._open.add(connection)
        if self._deaf:
            asyncio.get_running_loop().call_soon(connection.transport.pause_reading)

    def publish_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        if self.refuses:
            connection.refuse_publish("NetStream.Publish.BadName", "no such key", close=True)
            return
        connection.accept_publish()
        push = Push(stream)
        self.pushes.append(push)
        self._by_connection[connection] = push

    def media(self, connection: ServerConnection, message: MediaMessage) -> None:
        self._by_connection[connection].messages.append(message)

    def publish_ended(self, connection: ServerConnection, how: str) -> None:
        if connection in self._by_connection:
            self._by_connection[connection].ended = how

    def play_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        connection.refuse_play("NetStream.Play.StreamNotFound", "nothing to see")

    def connection_lost(self, connection: ServerConnection, exc: Exception | None) -> None:
        self._open.discard(connection)
        push = self._by_connection.pop(connection, None)
        if push is not None:
            push.lost = True


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    """An open platform on a port of its own."""
    stage = Platform(free_port())
    await stage.open()
    try:
        yield stage
    finally:
        await stage.close()


class GatewayProcess:
    """The real program as a child process, with its events and its control socket."""

    def __init__(self, *options: str, module: str = "reference_impl.gateway.serve", state: Path | None = None) -> None:
        self.port = free_port()
        self.events: list[dict[str, Any]] = []
        self.spares_workers = False
        """Leave its workers alone when it is closed; otherwise a failed test would leave them."""
        self._options = ["--listen", f"127.0.0.1:{self.port}", "--stream", "live/cam1=secret", *options]
        if state is not None:
            self._options += ["--state", str(state)]
        self._module = module
        self._requests = 0
        self.process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._control: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def publish_url(self) -> str:
        return f"rtmp://127.0.0.1:{self.port}/live/cam1?key=secret"

    @property
    def play_url(self) -> str:
        return f"rtmp://127.0.0.1:{self.port}/live/cam1"

    async def start(self) -> GatewayProcess:
        read_end, write_end = os.pipe()
        ours, theirs = socket.socketpair()
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                *self._options,
                "--telemetry-fd",
                str(write_end),
                "--control-fd",
                str(theirs.fileno()),
                pass_fds=[write_end, theirs.fileno()],
                cwd=ROOT,
            )
        finally:
            os.close(write_end)
            theirs.close()
        self._control = await asyncio.open_unix_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(read_end))
        await self.told("program:ready")
        return self

    async def _read(self, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while line := await reader.readline():
                self.events.append(json.loads(line))
        finally:
            transport.close()

    def named(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The data of the events with this name and these fields."""
        data = [event["data"] for event in self.events if event["name"] == name]
        return [entry for entry in data if all(entry[key] == value for key, value in fields.items())]

    async def told(self, name: str, *, times: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until it was told so often; the data of that one."""
        await until(f"{name} {fields or ''}", lambda: len(self.named(name, **fields)) >= times or self._gone(name))
        return self.named(name, **fields)[times - 1]

    def _gone(self, name: str) -> bool:
        if self.process is not None and self.process.returncode is not None and not self.named(name):
            raise AssertionError(f"the gateway ended (code {self.process.returncode}) without telling {name}")
        return False

    async def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """One control request; its answer."""
        assert self._control is not None
        reader, writer = self._control
        self._requests += 1
        writer.write(json.dumps({"id": self._requests, "verb": verb, **fields}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), PATIENCE))
        assert answer["id"] == self._requests
        return answer

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its exit; the code."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), PATIENCE)

    async def close(self) -> None:
        """End it whatever its state."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if not self.spares_workers:
            for started in self.named("egress:started"):
                kill_worker(started["worker"])
        if self._control is not None:
            self._control[1].close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


@asynccontextmanager
async def gateway(*options: str, **settings: Any) -> AsyncIterator[GatewayProcess]:
    """A running gateway that listens on the loopback for ``live/cam1``."""
    process = GatewayProcess(*options, **settings)
    try:
        yield await process.start()
    finally:
        await process.close()
