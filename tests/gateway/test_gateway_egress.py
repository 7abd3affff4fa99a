"""Egress by worker processes: pushed, held, stopped, retried, given up, orphaned and found again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from gateway_stage import (
    Camera,
    GatewayProcess,
    Platform,
    Publisher,
    Push,
    alive,
    free_port,
    gateway,
    is_idr,
    platform,
    until,
)

from reference_impl.gateway.feed import MediaFrame
from reference_impl.gateway.packets import read_packet
from reference_impl.gateway.pusher import Pusher
from reference_impl.machines.push import PushSettings, PushState
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import TelemetryRecorder

IMPATIENT = ("--egress-ask-for", "500 ms", "--egress-terminate-for", "500 ms")


async def on_air(gw: GatewayProcess, camera: Camera) -> Publisher:
    """A publisher whose stream has reached the first platform: the push is ACTIVE."""
    publisher = await Publisher(gw.publish_url).connect()
    publisher.send(camera.headers())
    await shoot_until(publisher, camera, lambda: gw.named("egress:state_changed", state="ACTIVE"))
    return publisher


async def shoot_until(publisher: Publisher, camera: Camera, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        publisher.send(camera.shot())
        await asyncio.sleep(0.01)


def assert_begins_with_an_idr(push: Push) -> None:
    kinds = [message.kind for message in push.messages[:4]]
    assert kinds == ["script", "video", "audio", "video"]
    assert is_idr(push.pictures[0])
    assert push.frames == list(range(push.frames[0], push.frames[0] + len(push.frames)))


class Nobody:
    """Hears what becomes of a push."""

    def push_changed(self, state: PushState, reason: str) -> None:
        pass


async def test_a_push_begins_with_the_idr_that_came_while_it_was_connecting() -> None:
    async with platform() as sink:
        pusher = Pusher("e", RtmpUrl.parse(sink.url), PushSettings(), TelemetryRecorder(), Nobody())
        pusher.begin()
        camera = Camera(gop=1000)
        for message in [*camera.headers(), *camera.shot(), *camera.shot()]:
            pusher.media(MediaFrame(read_packet(message).kind, message))
        await until("the push", lambda: sink.pushes and sink.pushes[0].frames == [0, 1])
        assert_begins_with_an_idr(sink.pushes[0])
        pusher.stop("over")
        await until("its end", lambda: sink.pushes[0].ended and not sink.active)


async def test_a_stream_is_pushed_by_a_process_of_its_own_and_ended_exactly_once(tmp_path: Path) -> None:
    async with platform() as sink, gateway("--egress", sink.url, state=tmp_path) as gw:
        publisher = await on_air(gw, Camera())
        started = await gw.told("egress:started")
        assert alive(started["worker"])
        assert started["worker"] != (gw.process.pid if gw.process else 0)
        assert (tmp_path / "egress" / f"{started['worker']}.json").exists()
        assert_begins_with_an_idr(sink.pushes[0])
        publisher.connection.finish()
        stopped = await gw.told("egress:stopped")
        assert (stopped["reason"], stopped["exit"]) == ("unpublished", "code 0")
        assert len(gw.named("egress:stop_requested")) == 1
        assert sink.pushes[0].ended is not None, "the platform was told, not just cut off"
        assert not alive(started["worker"])
        assert list((tmp_path / "egress").iterdir()) == []
        states = [event["state"] for event in gw.named("egress:state_changed")]
        assert states == ["STARTING", *states[1:-3], "ACTIVE", "ENDING", "COMPLETE"]


async def test_the_push_is_held_on_one_connection_while_the_publisher_is_away() -> None:
    async with platform() as sink, gateway("--egress", sink.url) as gw:
        camera = Camera()
        first = await on_air(gw, camera)
        first.connection.abort()
        await gw.told("session:lost")
        await gw.told("egress:state_changed", state="HOLDING")
        second = await Publisher(gw.publish_url).connect()
        camera.frame += 3
        second.send(camera.headers())
        before = len(gw.named("egress:state_changed", state="ACTIVE"))
        await shoot_until(second, camera, lambda: len(gw.named("egress:state_changed", state="ACTIVE")) > before)
        assert len(sink.pushes) == 1
        assert len(gw.named("egress:started")) == 1
        assert gw.named("egress:stop_requested") == []
        frames, pictures = sink.pushes[0].frames, sink.pushes[0].pictures
        gap = next(at for at in range(1, len(frames)) if frames[at] != frames[at - 1] + 1)
        assert is_idr(pictures[gap])


async def test_the_policy_stop_ends_the_push_at_the_loss_and_starts_another_at_the_return() -> None:
    async with platform() as sink, gateway("--egress", f"{sink.url}#source_lost=stop") as gw:
        camera = Camera()
        first = await on_air(gw, camera)
        first.connection.abort()
        await gw.told("session:lost")
        began = time.monotonic()
        stopped = await gw.told("egress:stopped")
        assert stopped["reason"] == "source lost"
        assert time.monotonic() - began < 2.0
        second = await Publisher(gw.publish_url).connect()
        second.send(camera.headers())
        await shoot_until(second, camera, lambda: len(sink.pushes) == 2 and sink.pushes[1].frames)
        assert len(gw.named("egress:stop_requested")) == 1
        assert sink.active == 1


async def test_a_bad_key_fails_at_once_and_is_not_retried() -> None:
    async with platform() as sink, gateway("--egress", sink.url) as gw:
        sink.refuses = True
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        failed = await gw.told("egress:state_changed", state="FAILED")
        assert "NetStream.Publish.BadName" in failed["reason"]
        stopped = await gw.told("egress:stopped")
        assert stopped["exit"] == "code 3"
        assert gw.named("egress:retried") == []
        assert len(gw.named("egress:started")) == 1


async def test_a_host_that_does_not_exist_fails_fast_and_the_other_destination_loses_nothing() -> None:
    nowhere = "rtmp://nowhere.invalid/live/key"
    async with platform() as sink, gateway("--egress", nowhere, "--egress", sink.url) as gw:
        camera = Camera()
        publisher = await on_air(gw, camera)
        await gw.told("egress:state_changed", state="FAILED")
        await shoot_until(publisher, camera, lambda: len(sink.pushes[0].frames) >= 30)
        assert_begins_with_an_idr(sink.pushes[0])


async def test_a_destination_that_resets_is_retried_at_the_live_edge() -> None:
    async with platform() as sink, gateway("--egress", sink.url) as gw:
        camera = Camera()
        publisher = await on_air(gw, camera)
        sink.drop_all()
        await shoot_until(publisher, camera, lambda: len(sink.pushes) == 2 and len(sink.pushes[1].frames) > 5)
        assert_begins_with_an_idr(sink.pushes[1])
        states = [event["state"] for event in gw.named("egress:state_changed")]
        assert "RECONNECTING" in states
        assert sink.active == 1
        assert len(gw.named("egress:started")) == 1, "the same worker reconnects"


async def test_a_worker_that_was_killed_is_started_again() -> None:
    async with platform() as sink, gateway("--egress", sink.url) as gw:
        camera = Camera()
        publisher = await on_air(gw, camera)
        os.kill(gw.named("egress:started")[0]["worker"], signal.SIGKILL)
        await shoot_until(publisher, camera, lambda: len(sink.pushes) == 2 and len(sink.pushes[1].frames) > 5)
        assert_begins_with_an_idr(sink.pushes[1])
        assert gw.named("egress:stopped")[0]["exit"] == "SIGKILL"
        assert gw.named("egress:retried")[0]["attempt"] == 1


async def test_a_worker_that_hangs_is_killed_in_bounded_time() -> None:
    async with platform() as sink, gateway("--egress", sink.url, *IMPATIENT) as gw:
        publisher = await on_air(gw, Camera())
        os.kill(gw.named("egress:started")[0]["worker"], signal.SIGSTOP)
        publisher.connection.finish()
        stopped = await gw.told("egress:stopped")
        assert stopped["exit"] == "SIGKILL"
        assert 900 <= stopped["took_ms"] <= 2000, "asked for 0.5 s, then terminated for 0.5 s"


async def test_a_users_stop_is_the_only_stop_and_a_users_start_begins_again() -> None:
    async with platform() as sink, gateway("--egress", sink.url) as gw:
        camera = Camera()
        publisher = await on_air(gw, camera)
        assert (await gw.ask("stop_egress", stream="live/cam1", url=sink.url))["ok"]
        assert (await gw.told("egress:stopped"))["reason"] == "user"
        publisher.connection.abort()
        await gw.told("session:lost")
        second = await Publisher(gw.publish_url).connect()
        second.send(camera.headers())
        await gw.ask("status")
        assert len(gw.named("egress:started")) == 1, "the user's stop holds"
        assert (await gw.ask("start_egress", stream="live/cam1", url=sink.url))["ok"]
        await shoot_until(second, camera, lambda: len(sink.pushes) == 2 and len(sink.pushes[1].frames) > 5)
        assert_begins_with_an_idr(sink.pushes[1])
        assert not (await gw.ask("stop_egress", stream="live/cam1", url="rtmp://other.test/live/x"))["ok"]
        assert len(gw.named("egress:stop_requested")) == 1


async def test_a_stop_of_the_gateway_ends_its_workers_in_order() -> None:
    async with platform() as sink, gateway("--egress", sink.url) as gw:
        await on_air(gw, Camera())
        worker = gw.named("egress:started")[0]["worker"]
        gw.signal(signal.SIGTERM)
        assert await gw.ended() == 0
        assert not alive(worker)
        await until("the platform to be told", lambda: sink.pushes[0].ended is not None)
        assert gw.named("egress:stopped")[0]["exit"] == "code 0"
        assert gw.named("ledger:told")[-1]["workers"] == 0


async def test_an_orphan_outlives_its_killed_gateway_and_the_next_one_ends_it_first(tmp_path: Path) -> None:
    async with platform() as sink:
        async with gateway("--egress", sink.url, state=tmp_path) as gw:
            await on_air(gw, Camera())
            orphan = gw.named("egress:started")[0]["worker"]
            gw.spares_workers = True
            gw.signal(signal.SIGKILL)
            assert await gw.ended() == -signal.SIGKILL
        await asyncio.sleep(1.0)
        assert alive(orphan), "the worker has to outlive its gateway for the test to mean something"
        assert sink.active == 1
        async with gateway("--egress", sink.url, state=tmp_path) as gw:
            ended = gw.named("egress:leftover_ended")
            assert [(event["worker"], event["how"]) for event in ended] == [(orphan, "terminated")]
            assert not alive(orphan)
            assert gw.events.index(next(e for e in gw.events if e["name"] == "egress:leftover_ended")) < len(gw.events)
            await on_air(gw, Camera())
            assert sink.active == 1
            sessions = gw.named("session:opened")
            assert sessions[0]["session"] == "live/cam1#2.1"


async def test_a_record_whose_process_number_was_recycled_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "egress").mkdir()
    record = f'{{"pid": {os.getpid()}, "start_time": 1, "egress": "x", "url": "rtmp://p.test/live/k"}}'
    (tmp_path / "egress" / f"{os.getpid()}.json").write_text(record)
    async with gateway(state=tmp_path) as gw:
        assert gw.named("egress:leftover_ended") == []
        assert list((tmp_path / "egress").iterdir()) == []


async def test_never_two_pushers_for_one_url_even_when_the_old_one_hangs() -> None:
    async with platform() as sink, gateway("--egress", sink.url, *IMPATIENT) as gw:
        publisher = await on_air(gw, Camera())
        os.kill(gw.named("egress:started")[0]["worker"], signal.SIGSTOP)
        publisher.connection.finish()
        await gw.told("session:ended")
        second = await Publisher(gw.publish_url).connect()
        camera = Camera()
        second.send(camera.headers())
        await shoot_until(second, camera, lambda: len(gw.named("egress:started")) == 2)
        assert gw.named("egress:stopped")[0]["exit"] == "SIGKILL"
        order = [event["name"] for event in gw.events]
        again = order.index("egress:started", order.index("egress:started") + 1)
        assert order.index("session:opened", order.index("session:ended")) < order.index("egress:stopped") < again


async def test_a_destination_that_is_not_there_yet_is_reached_when_it_comes() -> None:
    sink = Platform(free_port())
    async with gateway("--egress", sink.url) as gw:
        camera = Camera()
        publisher = await Publisher(gw.publish_url).connect()
        publisher.send(camera.headers())
        await shoot_until(publisher, camera, lambda: len(gw.named("egress:retried")) >= 2)
        await sink.open()
        await shoot_until(publisher, camera, lambda: sink.pushes and sink.pushes[0].frames)
        assert_begins_with_an_idr(sink.pushes[0])
        await sink.close()


async def test_a_wedged_destination_is_left_and_given_up_within_its_window() -> None:
    async with platform() as sink:
        options = ("--egress", sink.url, "--egress-stall-after", "700 ms", "--egress-retry-window", "2s")
        async with gateway(*options, "--egress-connect-within", "500 ms") as gw:
            camera = Camera(frame_bytes=40_000)
            publisher = await on_air(gw, camera)
            sink.stop_reading()
            await shoot_until(publisher, camera, lambda: gw.named("egress:state_changed", state="RECONNECTING"))
            stalled = gw.named("egress:state_changed", state="RECONNECTING")[0]
            assert stalled["setting"] == "stall_after=0.7s"
            await shoot_until(publisher, camera, lambda: gw.named("egress:state_changed", state="FAILED"))
            assert gw.named("egress:state_changed", state="FAILED")[0]["setting"] == "retry_window=2s"
