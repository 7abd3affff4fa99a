"""Other people's programs on loopback: started, bounded, and always gone afterwards."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from reference_impl.rtmp.messages import MediaKind, MediaMessage

LIMIT = 30.0
"""Seconds that a program may run in all; the streams here take two."""
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
_MODULES = [Path(f"/usr/{place}/nginx/modules/ngx_rtmp_module.so") for place in ("lib", "lib64", "local/lib")]
RTMP_MODULE = next((path for path in _MODULES if path.exists()), None)

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None,
    reason="ffmpeg and ffprobe are not installed (Debian: apt-get install ffmpeg)",
)
needs_nginx = pytest.mark.skipif(
    NGINX is None or RTMP_MODULE is None,
    reason="nginx-rtmp is not installed (Debian: apt-get install nginx libnginx-mod-rtmp)",
)

_SOCKETS = Path("/proc/net/tcp")
_KINDS: dict[int, MediaKind] = {8: "audio", 9: "video", 18: "script"}


@dataclass
class Program:
    """A running program; standard output is kept, standard error goes to ``log``."""

    process: asyncio.subprocess.Process
    log: Path

    async def output(self) -> str:
        """Standard output, when the program has ended by itself with code 0."""
        out, _ = await asyncio.wait_for(self.process.communicate(), LIMIT)
        assert self.process.returncode == 0, f"exit code {self.process.returncode}\n{self.log.read_text()[-2000:]}"
        return out.decode()


@asynccontextmanager
async def running(argv: Sequence[str], log: Path) -> AsyncIterator[Program]:
    """``argv`` as a child process that does not outlive the block."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        yield Program(process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.communicate(), 5)


def free_port() -> int:
    """A TCP port of the loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_listening(port: int, *, within: float = 10.0) -> None:
    """Wait for a listener without connecting to it: ``ffmpeg -listen`` takes its first connection for the only one."""
    deadline = time.monotonic() + within
    while not _has_listener(port):
        assert time.monotonic() < deadline, f"nobody listens on port {port}"
        await asyncio.sleep(0.01)


def _has_listener(port: int) -> bool:
    return f"0100007F:{port:04X} 00000000:0000 0A" in _SOCKETS.read_text()


@asynccontextmanager
async def nginx(directory: Path, *, push_to: int | None = None) -> AsyncIterator[int]:
    """nginx-rtmp with the application ``live`` (and ``relay``, which pushes to ``push_to``); yields its port."""
    port = free_port()
    relay = f"application relay {{ live on; push rtmp://127.0.0.1:{push_to}/live; }}" if push_to else ""
    config = directory / "nginx.conf"
    config.write_text(
        f"load_module {RTMP_MODULE};\n"
        "daemon off;\nmaster_process off;\nworker_processes 1;\n"
        f"error_log stderr warn;\npid {directory}/nginx.pid;\n"
        "events { worker_connections 64; }\n"
        f"rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; wait_key on; }} {relay} }} }}\n"
    )
    assert NGINX is not None
    argv = [NGINX, "-p", str(directory), "-c", str(config), "-e", "stderr"]
    async with running(argv, directory / "nginx.log"):
        await until_listening(port)
        yield port


def make_flv(path: Path) -> None:
    """Two seconds of H.264 at 25 frames/s with AAC, an IDR every half second."""
    video = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-f", "lavfi", "-i", "sine=frequency=440"]
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "12", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    argv = ["ffmpeg", "-v", "error", *video, *encode, "-t", "2", "-f", "flv", str(path)]
    subprocess.run(argv, check=True, timeout=LIMIT, stdin=subprocess.DEVNULL)


def stream_hashes(source: Path) -> list[str]:
    """One MD5 over the packets of each stream."""
    argv = ["ffmpeg", "-v", "error", "-i", str(source), *HASH_OUTPUT]
    done = subprocess.run(argv, check=True, timeout=LIMIT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return sorted(done.stdout.split())


HASH_OUTPUT = ["-map", "0", "-c", "copy", "-f", "streamhash", "-hash", "md5", "-"]


def split_flv(path: Path) -> list[MediaMessage]:
    """The tags of an FLV file as messages."""
    data, at = path.read_bytes(), 13
    messages = []
    while at + 11 < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        timestamp = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        messages.append(MediaMessage(_KINDS[data[at]], timestamp, data[at + 11 : at + 11 + size]))
        at += 11 + size + 4
    return messages
