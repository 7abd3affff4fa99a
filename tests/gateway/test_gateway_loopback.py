"""The real gateway program over loopback sockets: publishers come, go and come back; viewers see one stream."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

from gateway_stage import ROOT, Camera, Player, Publisher, frame_of, gateway, is_idr, until

from reference_impl.rtmp.messages import MediaMessage


def assert_one_stream(player: Player) -> None:
    """Frames in order and once, time stamps that never go back, each gap followed by an IDR."""
    frames = player.frames
    assert frames == sorted(set(frames)), "a picture came twice or out of order"
    for kind in ("video", "audio"):
        stamps = [message.timestamp for message in player.messages if message.kind == kind]
        assert stamps == sorted(stamps), f"{kind} time stamps went back"
    for before, after in zip(player.pictures, player.pictures[1:], strict=False):
        step = (frame_of(after) or 0) - (frame_of(before) or 0)
        assert step == 1 or is_idr(after), "after a gap came a picture that needs others"


async def test_a_viewer_gets_headers_then_an_idr_and_every_picture_after_it() -> None:
    async with gateway() as gw:
        camera = Camera()
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(camera, shots=15)
        player = await Player(gw.play_url).connect()
        await publisher.stream(camera, shots=20, headers=False)
        await until("the last picture", lambda: 34 in player.frames)
        kinds = [message.kind for message in player.messages[:4]]
        assert kinds == ["script", "video", "audio", "video"]
        assert is_idr(player.pictures[0])
        assert player.frames == list(range(10, 35)), "the pictures since the last IDR come first"
        assert gw.named("gate:opened")[0]["frame"] == 0
        assert gw.named("keyframe:received")[0]["parameter_sets"] is True


async def test_a_wrong_key_and_an_unknown_stream_are_refused() -> None:
    async with gateway() as gw:
        for path in ("cam1?key=wrong", "cam1", "cam2?key=secret"):
            publisher = await Publisher(f"rtmp://127.0.0.1:{gw.port}/live/{path}").connect()
            assert publisher.refused == "NetStream.Publish.Unauthorized"
        player = await Player(gw.play_url).connect()
        assert player.refused == "NetStream.Play.StreamNotFound"
        assert len(gw.named("publish:rejected", setting="--stream")) == 3
        assert gw.named("session:opened") == []


async def test_a_publisher_that_was_reset_resumes_its_session_and_viewers_stay() -> None:
    async with gateway() as gw:
        camera = Camera()
        first = await Publisher(gw.publish_url).connect()
        await first.stream(camera, shots=12)
        player = await Player(gw.play_url).connect()
        first.connection.abort()
        lost = await gw.told("session:lost")
        assert lost["epoch"] == 1
        second = await Publisher(gw.publish_url).connect()
        camera.frame += 3
        await second.stream(camera, shots=30)
        await until("the new pictures", lambda: player.frames and player.frames[-1] == camera.frame - 1)
        assert_one_stream(player)
        assert player.started
        assert not player.lost
        assert gw.named("session:resumed", epoch=2)
        assert len(gw.named("session:opened")) == 1
        assert gw.named("session:ended") == []
        new_idr = next(at for at, message in enumerate(player.messages) if (frame_of(message) or 0) > 12)
        kinds = [message.kind for message in player.messages[new_idr - 3 : new_idr]]
        assert kinds == ["script", "video", "audio"], "the new connection's headers come in front of its first IDR"
        assert gw.named("gate:opened", epoch=2)[0]["withheld"] > 0, "the test must have begun in the middle of a GOP"


async def test_a_publisher_whose_clock_restarts_gives_its_viewers_one_timeline() -> None:
    async with gateway() as gw:
        first = await Publisher(gw.publish_url).connect()
        await first.stream(Camera(start_ms=500_000), shots=12)
        player = await Player(gw.play_url).connect()
        first.connection.abort()
        await gw.told("session:lost")
        second = await Publisher(gw.publish_url).connect()
        await second.stream(Camera(), shots=12)
        await until("the new pictures", lambda: len(player.frames) >= 14)
        stamps = [message.timestamp for message in player.pictures]
        assert stamps == sorted(stamps)
        assert stamps[-1] - stamps[0] < 10_000


async def test_a_black_holed_connection_is_taken_over_and_its_late_packets_change_nothing() -> None:
    async with gateway() as gw:
        camera = Camera()
        ghost = await Publisher(gw.publish_url).connect()
        await ghost.stream(camera, shots=12)
        refused = await Publisher(gw.publish_url).connect()
        assert refused.refused == "NetStream.Publish.BadName"
        player = await Player(gw.play_url).connect()
        await asyncio.sleep(1.05)
        second = await Publisher(gw.publish_url).connect()
        assert second.started
        camera.frame += 8
        await second.stream(camera, shots=15)
        await until("the new pictures", lambda: player.frames and player.frames[-1] == camera.frame - 1)
        taken = await gw.told("session:taken_over")
        assert (taken["old_epoch"], taken["new_epoch"], taken["rule"]) == (1, 2, "silent")
        await gw.told("stale:ignored", epoch=1)
        await until("the ghost's reset", lambda: ghost.lost)
        assert_one_stream(player)
        assert gw.named("session:lost") == []


async def test_the_same_client_takes_over_at_once() -> None:
    async with gateway() as gw:
        first = await Publisher(f"{gw.publish_url}&client=phone").connect()
        await first.stream(Camera(), shots=3)
        second = await Publisher(f"{gw.publish_url}&client=phone").connect()
        assert second.started
        assert (await gw.told("session:taken_over"))["rule"] == "token"


async def test_a_silent_connection_stalls_is_reaped_and_the_window_ends_the_session() -> None:
    async with gateway("--stall-after", "100 ms", "--idle-reap", "300 ms", "--reconnect-window", "600 ms") as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        player = await Player(gw.play_url).connect()
        began = time.monotonic()
        ended = await gw.told("session:ended")
        assert 0.4 <= time.monotonic() - began <= 2.0
        assert ended["setting"] == "reconnect_window=0.6s"
        assert gw.named("session:stalled")[0]["setting"] == "stall_after=0.1s"
        assert gw.named("session:lost")[0]["window_s"] < 0.4, "the window counts from the last media"
        await until("the viewer's end", lambda: player.lost or player.ended)
        assert publisher.lost


async def test_an_unpublish_ends_the_session_and_tells_the_viewers() -> None:
    async with gateway() as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        player = await Player(gw.play_url).connect()
        publisher.connection.finish()
        ended = await gw.told("session:ended")
        assert (ended["reason"], ended["setting"]) == ("unpublished", "unpublish_ends=immediate")
        await until("the viewer's end", lambda: player.ended is not None)
        assert (await gw.told("media:ended"))["frames"] == 3


async def test_a_new_publish_after_the_end_is_another_session() -> None:
    async with gateway() as gw:
        for number in (1, 2):
            publisher = await Publisher(gw.publish_url).connect()
            await publisher.stream(Camera(), shots=3)
            publisher.connection.finish()
            await gw.told("session:ended", times=number)
        names = [event["session"] for event in gw.named("session:opened")]
        assert len(set(names)) == 2


async def test_a_viewer_that_reads_nothing_is_skipped_and_the_other_loses_nothing() -> None:
    async with gateway() as gw:
        camera = Camera(gop=10, frame_bytes=60_000)
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(camera, shots=1)
        good = await Player(gw.play_url).connect()
        deaf = await Player(gw.play_url).connect()
        await until("both to have begun", lambda: good.frames and deaf.frames)
        deaf.connection.transport.pause_reading()
        receiver = deaf.connection.transport.get_extra_info("socket")
        assert isinstance(receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), int)
        await publisher.stream(camera, shots=250, headers=False, pace=0.004)
        dropped = await gw.told("viewer:dropped")
        assert "skipped to the next IDR" in dropped["reason"]
        await until("the last picture", lambda: good.frames[-1] == 250)
        assert good.frames == list(range(251))
        deaf.connection.transport.resume_reading()
        await publisher.stream(camera, shots=5, headers=False)
        deadline = time.monotonic() + 5
        while len(deaf.frames) < 3 or deaf.frames[-1] != camera.frame - 1:
            assert time.monotonic() < deadline, "the slow viewer did not come back"
            await publisher.stream(camera, shots=1, headers=False, pace=0.01)
        assert len(deaf.frames) < len(good.frames)
        assert_one_stream(deaf)


async def test_a_stop_tells_the_viewers_and_leaves_nothing() -> None:
    async with gateway() as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        player = await Player(gw.play_url).connect()
        began = time.monotonic()
        gw.signal(signal.SIGTERM)
        assert await gw.ended() == 0
        assert time.monotonic() - began < 3
        await until("the viewer's end", lambda: player.lost)
        assert player.ended is not None
        ledger = await gw.told("ledger:told")
        assert (ledger["sessions"], ledger["connections"], ledger["viewers"], ledger["workers"]) == (0, 0, 0, 0)
        assert gw.named("session:ended")[0]["reason"] == "the gateway stops (SIGTERM)"
        assert await gw.told("program:stopped")


async def test_the_control_verbs_answer() -> None:
    async with gateway() as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        await Player(gw.play_url).connect()
        (session,) = (await gw.ask("status"))["sessions"]
        assert (session["stream"], session["state"], session["epoch"]) == ("live/cam1", "live", 1)
        ledger = await gw.ask("ledger")
        assert (ledger["sessions"], ledger["connections"], ledger["viewers"]) == (1, 2, 1)
        assert not (await gw.ask("end_session", stream="live/cam9"))["ok"]
        assert (await gw.ask("end_session", stream="live/cam1"))["ok"]
        assert (await gw.told("session:ended"))["reason"] == "user"
        assert (await gw.ask("stop"))["ok"]
        assert await gw.ended() == 0


async def test_what_the_gateway_holds_does_not_grow_with_reconnects() -> None:
    async with gateway() as gw:
        camera = Camera()
        counts = []
        for _ in range(25):
            publisher = await Publisher(f"{gw.publish_url}&client=phone").connect()
            await publisher.stream(camera, shots=3, pace=0)
            ledger = await gw.ask("ledger")
            counts.append((ledger["tasks"], ledger["descriptors"]))
        tasks, descriptors = zip(*counts, strict=True)
        assert max(tasks[5:]) <= max(tasks[:5])
        assert max(descriptors[5:]) <= max(descriptors[:5]) + 1


async def test_a_taken_port_and_an_unusable_state_directory_are_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    async with gateway() as gw:
        taken, unusable = f"127.0.0.1:{gw.port}", str(tmp_path / "file")
        for culprit, options in (str(gw.port), ("--listen", taken)), (unusable, ("--state", unusable)):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "reference_impl.gateway.serve", *options, stdout=-1, stderr=-1, cwd=ROOT
            )
            told, said = await asyncio.wait_for(process.communicate(), 10)
            assert process.returncode == 1
            assert b"program:failed" in told
            assert b"Traceback" not in said
            assert culprit.encode() in said


async def test_rubbish_on_the_port_disturbs_nobody() -> None:
    async with gateway() as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=2)
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x03" + bytes(3072) + b"\xff" * 500):
            _, writer = await asyncio.open_connection("127.0.0.1", gw.port)
            writer.write(rubbish)
            await writer.drain()
            writer.close()
        publisher.send([MediaMessage("video", 1, b"\x17"), MediaMessage("video", 2, b"\x17\x01\0\0\0\xff\xff\xff\xff")])
        await publisher.stream(Camera(start_ms=100), shots=2)
        player = await Player(gw.play_url).connect()
        assert player.started
        assert (await gw.ask("ledger"))["sessions"] == 1
