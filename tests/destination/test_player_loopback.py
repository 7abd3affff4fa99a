"""The viewer on a real socket of the loopback, played to from the same loop."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rtmp_cast import Stage, until

from reference_impl.client.player import Player, PlayerSettings
from reference_impl.client.watch import WatchParts, parser, run
from reference_impl.machines.backoff import Backoff
from reference_impl.media.album import Album
from reference_impl.media.decode import Decoder
from reference_impl.media.watcher import MediaWatcher
from reference_impl.rtmp.endpoint import PlayConnection, PlayListener
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import TelemetryRecorder


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


class Patience(Backoff):
    """A back-off that writes down how it is used."""

    def __init__(self) -> None:
        super().__init__(random.Random(1), start=0.05, cap=0.1)
        self.used: list[str] = []

    def next_delay(self) -> float:
        self.used.append("wait")
        return super().next_delay()

    def reset(self) -> None:
        self.used.append("reset")
        super().reset()


class Seat:
    """A player, its telemetry, and its address."""

    def __init__(self, port: int, *, pictures: Path | None = None, **settings: float) -> None:
        self.telemetry = TelemetryRecorder()
        self.patience = Patience()
        album = Album(pictures, self.telemetry) if pictures is not None else None
        self.player = Player(
            RtmpUrl.parse(f"rtmp://127.0.0.1:{port}/live/cam1"),
            MediaWatcher(self.telemetry, decoder=Decoder(), album=album),
            self.patience,
            self.telemetry,
            settings=PlayerSettings(**settings),
            connection=PlayConnection,
            loop=asyncio.get_running_loop(),
        )
        self.player.start()

    @property
    def frames(self) -> int:
        return int(self.player.status()["frames"])


async def test_a_viewer_plays_decodes_and_leaves_in_order(stage: Stage, tmp_path: Path) -> None:
    seat = Seat(await stage.open(), pictures=tmp_path)
    await until(lambda: seat.frames >= 10, what="ten pictures")
    assert stage.asked == ["live/cam1"]
    await seat.player.stop("done")
    await until(lambda: not stage.players, what="the server sees it leave")
    names = [name for _, name, _ in seat.telemetry.events if name not in ("media:progressed", "keyframe:received")]
    assert names == ["play:started", "media:started", "picture:saved", "media:ended"]
    assert seat.telemetry.named("play:started") == [{"stream": "live/cam1"}]
    assert seat.player.ledger()["connections"] == 0


async def test_a_viewer_that_comes_before_the_stream_tries_until_it_is_there(stage: Stage) -> None:
    stage.live = False
    seat = Seat(await stage.open())
    await until(lambda: len(stage.asked) >= 3, what="three attempts")
    stage.live = True
    await until(lambda: seat.frames >= 1, what="a picture")
    await seat.player.stop("done")
    assert seat.telemetry.named("play:refused")[0] == {"stream": "live/cam1", "code": "NetStream.Play.StreamNotFound"}
    assert seat.patience.used == ["wait"] * (len(stage.asked) - 1) + ["reset"]
    attempts = [retried["attempt"] for retried in seat.telemetry.named("play:retried")]
    assert attempts == list(range(2, 2 + len(attempts)))


async def test_a_viewer_that_comes_before_the_server_tries_until_it_listens(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    seat = Seat(port)
    await until(lambda: seat.telemetry.named("play:retried"))
    assert seat.telemetry.named("play:retried")[0]["reason"].startswith("no connection: ")
    await stage.open(port)
    await until(lambda: seat.frames >= 1)
    await seat.player.stop("done")


async def test_a_connection_that_breaks_is_one_freeze_for_the_viewer(stage: Stage) -> None:
    seat = Seat(await stage.open())
    await until(lambda: seat.frames >= 5)
    stage.live = False
    for player in list(stage.players):
        player.abort()
    await until(lambda: seat.telemetry.named("media:frozen"), what="the freeze")
    stage.live = True
    await until(lambda: seat.telemetry.named("media:resumed"), what="the resumption")
    await seat.player.stop("done")
    (resumed,) = seat.telemetry.named("media:resumed")
    assert resumed["idr"] and resumed["missing"] > 0 and resumed["gap_ms"] >= 500
    assert len(seat.telemetry.named("media:started")) == 1
    assert "reset" in seat.telemetry.named("play:retried")[0]["reason"].lower()


async def test_an_ended_stream_is_asked_for_again(stage: Stage) -> None:
    seat = Seat(await stage.open())
    await until(lambda: seat.frames >= 2)
    for player in list(stage.players):
        player.end_play()
    await until(lambda: len(stage.asked) == 2 and len(stage.players) == 1)
    await until(lambda: len(seat.telemetry.named("play:started")) == 2)
    await seat.player.stop("done")
    assert seat.telemetry.named("play:retried")[0]["reason"] == "ended: NetStream.Play.UnpublishNotify"


async def test_a_server_that_never_answers_is_given_up_after_connect_within(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        seat = Seat(mute.getsockname()[1], connect_within=0.2)
        await until(lambda: len(seat.telemetry.named("play:retried")) >= 2)
        await seat.player.stop("done")
    assert seat.telemetry.named("play:retried")[0]["reason"] == "no play within connect_within=0.2 s"


async def test_a_connection_over_which_nothing_comes_is_given_up_at_the_idle_limit(stage: Stage) -> None:
    seat = Seat(await stage.open(), idle_limit=1.0)
    await until(lambda: seat.frames >= 45)
    assert not seat.telemetry.named("play:retried")
    stage.source.stop()
    await until(lambda: seat.telemetry.named("play:retried"), within=4.0)
    await seat.player.stop("done")
    assert seat.telemetry.named("play:retried")[0]["reason"] == "nothing came for idle_limit=1 s"


async def test_stopping_a_viewer_that_only_tries_leaves_no_task(stage: Stage) -> None:
    before = len(asyncio.all_tasks())
    stage.live = False
    seat = Seat(await stage.open())
    await until(lambda: seat.telemetry.named("play:retried"))
    await seat.player.stop("done")
    attempts = seat.player.status()["attempts"]
    await asyncio.sleep(0.2)
    assert seat.player.status()["attempts"] == attempts
    assert len(asyncio.all_tasks()) == before


async def test_a_defect_of_its_own_ends_the_program_with_1_and_says_so(stage: Stage) -> None:
    def broken(url: RtmpUrl, listener: PlayListener) -> PlayConnection:
        raise ZeroDivisionError("planted")

    telemetry = TelemetryRecorder()
    options = parser().parse_args(["--url", f"rtmp://127.0.0.1:{await stage.open()}/live/cam1"])
    handler = asyncio.get_running_loop().get_exception_handler()
    try:
        assert await asyncio.wait_for(run(options, telemetry, WatchParts(connection=broken)), 10) == 1
    finally:
        asyncio.get_running_loop().set_exception_handler(handler)
    assert telemetry.named("program:failed") == [{"role": "viewer", "error": "defect in the viewer: planted"}]


def test_a_wrong_address_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["--url", "http://gateway.test/live/cam1"])
    assert stop.value.code == 2 and "only 'rtmp' is supported" in capsys.readouterr().err


async def test_the_program_watches_for_a_while_and_ends_with_0(stage: Stage, tmp_path: Path) -> None:
    port = await stage.open()
    command = [sys.executable, "-m", "reference_impl.client.watch", "--url", f"rtmp://127.0.0.1:{port}/live/cam1",
               "--pictures", str(tmp_path), "--duration", "1500 ms"]  # fmt: skip
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["name"] for event in events]
    assert done.returncode == 0, done.stderr
    assert names[0] == "program:ready" and names[-1] == "program:stopped"
    assert {"play:started", "media:started", "media:progressed", "picture:saved", "ledger:told"} <= set(names)
    assert [event["data"]["moment"] for event in events if event["name"] == "picture:saved"] == ["first"]
