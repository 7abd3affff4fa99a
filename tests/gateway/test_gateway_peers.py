"""Third parties' programs against the real gateway: ffmpeg in and out, nginx-rtmp and ffmpeg as destinations."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway_stage import Camera, Player, Publisher, free_port, gateway, is_idr, until

pytestmark = pytest.mark.peer

RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


needs_ffmpeg = needs("ffmpeg")
needs_nginx_rtmp = pytest.mark.skipif(
    shutil.which("nginx") is None or not RTMP_MODULE.exists(), reason="nginx with its RTMP module is not installed"
)


@asynccontextmanager
async def running(command: Sequence[str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A peer's program, ended when the block is left."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def camera_of_ffmpeg(url: str) -> list[str]:
    """ffmpeg publishing a small test picture with sound, an IDR every half second, in real time."""
    picture = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
    video = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "15", "-b:v", "500k"]
    return ["ffmpeg", "-v", "warning", "-re", *picture, *sound, *video, "-c:a", "aac", "-f", "flv", url]


def probe(path: Path) -> dict[str, int]:
    """Frames that ffmpeg decodes from a file, per kind."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=codec_type,nb_read_frames"]
    result = subprocess.run([*command, "-of", "json", str(path)], capture_output=True, check=True, timeout=30)
    streams = json.loads(result.stdout)["streams"]
    return {stream["codec_type"]: int(stream["nb_read_frames"]) for stream in streams}


@needs_ffmpeg
async def test_ffmpeg_publishes_and_our_player_sees_an_idr_first(tmp_path: Path) -> None:
    async with gateway() as gw, running(camera_of_ffmpeg(gw.publish_url), tmp_path / "publish.log") as ffmpeg:
        opened = await gw.told("gate:opened")
        assert opened["frame"] == -1, "ffmpeg stamps nothing"
        player = await Player(gw.play_url).connect()
        await until("pictures", lambda: sum(message.kind == "video" for message in player.messages) > 40)
        pictures = [message for message in player.messages if message.kind == "video"]
        assert is_idr(pictures[1]), "the sequence header comes first, then an IDR"
        assert gw.named("keyframe:received")[0] == {"frame": -1, "idr": True, "parameter_sets": True, "first": True}
        ffmpeg.send_signal(signal.SIGINT)
        assert (await gw.told("session:ended"))["reason"] == "unpublished"


@needs_ffmpeg
async def test_an_ffmpeg_that_was_killed_and_started_again_is_one_timeline_for_an_ffmpeg_viewer(tmp_path: Path) -> None:
    recording, log = tmp_path / "seen.flv", tmp_path / "play.log"
    async with gateway() as gw, contextlib.AsyncExitStack() as peers:
        first = await peers.enter_async_context(running(camera_of_ffmpeg(gw.publish_url), tmp_path / "first.log"))
        await gw.told("gate:opened")
        play = ["ffmpeg", "-v", "warning", "-i", gw.play_url, "-c", "copy", "-y", str(recording)]
        viewer = await peers.enter_async_context(running(play, log))
        await gw.told("viewer:joined")
        await asyncio.sleep(1.5)
        first.kill()
        await gw.told("session:lost")
        second = await peers.enter_async_context(running(camera_of_ffmpeg(gw.publish_url), tmp_path / "second.log"))
        await gw.told("gate:opened", epoch=2)
        await asyncio.sleep(1.5)
        second.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(viewer.wait(), 10) == 0, "the end of the stream reached the viewer"
        assert len(gw.named("session:opened")) == 1
        assert len(gw.named("viewer:joined")) == 1
    assert probe(recording)["video"] >= 60
    assert "monoton" not in log.read_text().lower()


@needs_ffmpeg
async def test_ffmpeg_is_a_sink_of_our_egress(tmp_path: Path) -> None:
    port, recording = free_port(), tmp_path / "pushed.flv"
    listen = ["ffmpeg", "-v", "warning", "-listen", "1", "-i", f"rtmp://127.0.0.1:{port}/live/key"]
    async with contextlib.AsyncExitStack() as peers:
        sink = await peers.enter_async_context(
            running([*listen, "-c", "copy", "-y", str(recording)], tmp_path / "sink.log")
        )
        gw = await peers.enter_async_context(gateway("--egress", f"rtmp://127.0.0.1:{port}/live/key"))
        camera = await peers.enter_async_context(running(camera_of_ffmpeg(gw.publish_url), tmp_path / "publish.log"))
        await gw.told("egress:state_changed", state="ACTIVE")
        await asyncio.sleep(1.5)
        camera.send_signal(signal.SIGINT)
        assert (await gw.told("egress:stopped"))["exit"] == "code 0"
        assert await asyncio.wait_for(sink.wait(), 10) == 0
    assert probe(recording)["video"] >= 30


NGINX = """
load_module {module};
daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log info;
events {{ worker_connections 64; }}
rtmp {{ server {{ listen 127.0.0.1:{port}; ping 60s;
  application live {{ live on; wait_key on; record all; record_path {place}; record_unique off; }} }} }}
"""


@asynccontextmanager
async def nginx(place: Path) -> AsyncIterator[int]:
    """nginx-rtmp that records what is pushed to ``live``; its port."""
    port = free_port()
    config = place / "nginx.conf"
    config.write_text(NGINX.format(module=RTMP_MODULE, place=place, port=port))
    async with running(["nginx", "-p", str(place), "-c", str(config)], place / "nginx.log"):
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.02)
        yield port


@needs_nginx_rtmp
async def test_nginx_rtmp_takes_our_push_and_the_hold_is_one_publish(tmp_path: Path) -> None:
    async with nginx(tmp_path) as port, gateway("--egress", f"rtmp://127.0.0.1:{port}/live/key") as gw:
        camera = Camera()
        first = await Publisher(gw.publish_url).connect()
        await first.stream(camera, shots=60, pace=0.02)
        await gw.told("egress:state_changed", state="ACTIVE")
        first.connection.abort()
        await gw.told("session:lost")
        second = await Publisher(gw.publish_url).connect()
        await second.stream(camera, shots=60, pace=0.02)
        second.connection.finish()
        assert (await gw.told("egress:stopped"))["exit"] == "code 0"
        assert gw.named("egress:retried") == []
    log = (tmp_path / "error.log").read_text()
    assert log.count("publish: name='key'") == 1
    assert (tmp_path / "key.flv").stat().st_size > 40_000


@needs_nginx_rtmp
async def test_a_key_that_nginx_rtmp_holds_already_fails_fast(tmp_path: Path) -> None:
    async with nginx(tmp_path) as port, gateway("--egress", f"rtmp://127.0.0.1:{port}/live/key") as gw:
        other = await Publisher(f"rtmp://127.0.0.1:{port}/live/key").connect()
        assert other.started
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=10)
        failed = await gw.told("egress:state_changed", state="FAILED")
        assert "BadName" in failed["reason"]
        assert gw.named("egress:retried") == []
