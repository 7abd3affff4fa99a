"""The publisher over loopback against a tiny RTMP server: what is done to it, and what it does."""

from __future__ import annotations

import asyncio

import pytest
from rtmp_bed import Accepted, Bed

from reference_impl.rtmp.tcp_state import TcpOptions, abort
from reference_impl.telemetry import verify


def refuse(code: str, *, close: bool = False, times: int = 10**9) -> object:
    """An answer that refuses the first ``times`` publishes."""
    refused = 0

    def answer(accepted: Accepted) -> None:
        nonlocal refused
        refused += 1
        if refused <= times:
            accepted.connection.refuse_publish(code, "no", close)
        else:
            accepted.connection.accept_publish()

    return answer


async def test_the_stream_begins_with_metadata_headers_and_an_idr() -> None:
    async with Bed() as bed:
        accepted = await bed.live()
        await bed.until(lambda: len(accepted.videos()) > 10)
        assert accepted.stream == "cam1?key=k"
        assert accepted.media[0].kind == "script"
        assert accepted.videos()[:3] == [b"avcC", b"idr", b"p"]
        assert bed.statuses() == ["connecting", "live"]
        assert bed.told.named("frames:dropped") == []
        assert bed.told.named("reconnect:started") == []


async def test_tcp_is_sampled_four_times_a_second_with_counters_that_move() -> None:
    async with Bed() as bed:
        await bed.live()
        await bed.until_told("tcp:sampled", times=5)
        samples = bed.told.named("tcp:sampled")
        assert samples[-1]["acked_bytes"] > samples[1]["acked_bytes"] > 0
        moments = [t_ns / 1e9 for t_ns, name, _ in bed.told.events if name == "tcp:sampled"]
        assert 0.2 < (moments[4] - moments[1]) / 3 < 0.5


async def test_a_reset_mid_stream_is_followed_by_a_reconnect_whose_first_picture_is_an_idr() -> None:
    async with Bed() as bed:
        first = await bed.live()
        abort(first.connection.transport)
        await bed.until_told("reconnect:completed")
        second = bed.server.accepted[-1]
        assert second is not first
        assert second.videos()[:2] == [b"avcC", b"idr"]
        assert second.media[0].timestamp >= first.media[-1].timestamp, "the media clock goes on"
        assert bed.moment("connect:attempted", last=True) - bed.moment("connection:lost") < 0.5
        assert [data["reason"] for data in bed.told.named("keyframe:requested")] == ["start", "reconnect"]
        [completed] = bed.told.named("reconnect:completed")
        assert (completed["reconnect"], completed["connection"], completed["attempts"]) == (1, 2, 2)
        assert bed.statuses() == ["connecting", "live", "reconnecting", "live"]


async def test_end_of_file_mid_stream_is_answered_like_a_reset() -> None:
    async with Bed() as bed:
        first = await bed.live()
        first.connection.transport.close()
        await bed.until_told("reconnect:completed")
        assert bed.server.accepted[-1].videos()[:2] == [b"avcC", b"idr"]


async def test_a_peer_that_stops_reading_is_left_for_a_new_connection_and_then_reset() -> None:
    """Zero window (catalogue row S10): detected although the peer's kernel answers every probe."""
    async with Bed(stall_after=0.6, tcp=TcpOptions(send_buffer=8192)) as bed:
        first = await bed.live()
        first.connection.transport.pause_reading()
        await bed.until_told("stall:detected")
        [stall] = bed.told.named("stall:detected")
        assert stall["connection"] == 1
        assert 600 <= stall["age_ms"] < 900
        await bed.until_told("reconnect:completed")
        assert bed.moment("connection:reset") >= bed.moment("connect:established", last=True)
        assert bed.server.accepted[-1].videos()[:2] == [b"avcC", b"idr"]
        [unacked, dropped] = bed.told.named("frames:dropped")
        assert unacked["reason"] == "not acknowledged on connection 1"
        assert dropped["reason"] == "connection 2 is up"
        assert dropped["first"] == unacked["last"] + 1
        assert bed.publisher.status()["queued_bytes"] < 200_000
        assert "stopped" not in bed.statuses()


async def test_the_held_connection_that_delivers_first_stays() -> None:
    async with Bed(stall_after=0.6) as bed:
        first = await bed.live()
        bed.server.stop_listening()
        bed.server.at_once = lambda accepted: abort(accepted.connection.transport)
        first.connection.transport.pause_reading()
        await bed.until_told("stall:detected")
        first.connection.transport.resume_reading()
        await bed.until_told("stall:cleared")
        count = len(first.media)
        await bed.until(lambda: len(first.media) > count + 20)
        assert bed.told.named("reconnect:abandoned") == [{"reason": "the held connection delivers"}]
        assert bed.told.named("connection:reset") == bed.told.named("reconnect:completed") == []
        assert bed.statuses() == ["connecting", "live", "reconnecting", "live"]


async def test_a_blip_of_300_ms_is_not_answered_at_all() -> None:
    async with Bed() as bed:
        first = await bed.live()
        first.connection.transport.pause_reading()
        await asyncio.sleep(0.3)
        first.connection.transport.resume_reading()
        await asyncio.sleep(0.8)
        assert bed.told.named("stall:detected") == bed.told.named("reconnect:started") == []
        assert len(bed.server.accepted) == 1
        assert bed.told.named("frames:dropped") == []


async def test_a_busy_stream_key_is_asked_for_again_until_it_is_free() -> None:
    async with Bed() as bed:
        bed.server.answer = refuse("NetStream.Publish.BadName", times=3)  # type: ignore[assignment]
        bed.publish()
        await bed.until(lambda: bed.statuses()[-1:] == ["live"])
        assert len(bed.told.named("publish:refused")) == 3
        assert len(bed.told.named("reconnect:scheduled")) == 3
        assert bed.finished == []


@pytest.mark.parametrize("close", [False, True])
async def test_a_bad_key_ends_it_at_once_without_a_retry(close: bool) -> None:
    async with Bed() as bed:
        bed.server.answer = refuse("NetStream.Publish.Unauthorized", close=close)  # type: ignore[assignment]
        bed.publish()
        await bed.until(lambda: bed.finished, within=5)
        await asyncio.sleep(0.3)
        assert bed.finished == [("refused: NetStream.Publish.Unauthorized no", True)]
        assert len(bed.told.named("connect:attempted")) == 1
        assert bed.statuses() == ["connecting", "failed"]


async def test_a_name_that_does_not_exist_ends_it_at_once() -> None:
    async with Bed() as bed:
        bed.publish(host="no-such-host.invalid")
        await bed.until(lambda: bed.finished or bed.told.named("connect:failed"), within=5)
        failed = bed.told.named("connect:failed")[0]["reason"]
        if not failed.startswith("no such host"):
            pytest.skip(f"this machine's resolver cannot say that a name does not exist: {failed}")
        assert bed.finished == [("no such host: no-such-host.invalid", True)]


async def test_a_server_that_says_start_and_hangs_up_is_not_called_a_success() -> None:
    def start_then_end(accepted: Accepted) -> None:
        accepted.connection.accept_publish()
        if len(bed.server.accepted) in (2, 3):
            accepted.connection.transport.close()

    async with Bed() as bed:
        bed.server.answer = start_then_end
        first = await bed.live()
        abort(first.connection.transport)
        await bed.until_told("reconnect:completed")
        [completed] = bed.told.named("reconnect:completed")
        assert completed["connection"] == 4
        assert completed["attempts"] >= 3
        assert len(bed.told.named("reconnect:scheduled")) == 2
        assert bed.statuses() == ["connecting", "live", "reconnecting", "live"]


async def test_it_gives_up_when_nobody_listens_for_the_give_up_time() -> None:
    async with Bed(reconnect={"give_up_after": 0.8}) as bed:
        first = await bed.live()
        bed.server.stop_listening()
        abort(first.connection.transport)
        await bed.until(lambda: bed.finished)
        assert bed.finished == [("gave up: --give-up-after 0.8 s", True)]
        assert len(bed.told.named("reconnect:gave_up")) == 1
        assert bed.statuses() == ["connecting", "live", "reconnecting", "failed"]


async def test_a_server_that_comes_back_later_is_found() -> None:
    async with Bed() as bed:
        first = await bed.live()
        bed.server.stop_listening()
        abort(first.connection.transport)
        await bed.until_told("reconnect:scheduled", times=2)
        await bed.server.start(port=bed.port)
        await bed.until_told("reconnect:completed")
        assert bed.server.accepted[-1].videos()[:2] == [b"avcC", b"idr"]


async def test_a_stop_says_goodbye_and_leaves_nothing() -> None:
    async with Bed() as bed:
        accepted = await bed.live()
        await bed.publisher.stop("control")
        await bed.until(lambda: accepted.lost)
        assert accepted.ended
        assert bed.statuses()[-1] == "stopped"
        assert bed.told.named("connection:lost") == []
        ledger = bed.publisher.ledger()
        assert (ledger["sessions"], ledger["connections"]) == (0, 0)
        count = len(bed.told.events)
        await asyncio.sleep(0.3)
        assert len(bed.told.events) == count, "nothing is told after the end"


async def test_a_stop_during_a_stall_is_bounded() -> None:
    async with Bed(stall_after=0.6) as bed:
        first = await bed.live()
        bed.server.stop_listening()
        first.connection.transport.pause_reading()
        await bed.until_told("stall:detected")
        await asyncio.wait_for(bed.publisher.stop("control"), 2)
        assert bed.statuses()[-1] == "stopped"
        assert bed.publisher.ledger()["connections"] == 0


async def test_an_idr_can_be_asked_for_at_any_time() -> None:
    async with Bed() as bed:
        accepted = await bed.live()
        before = accepted.videos().count(b"idr")
        bed.publisher.request_keyframe("control")
        await bed.until(lambda: accepted.videos().count(b"idr") == before + 1)
        assert bed.told.named("keyframe:encoded")[-1]["reason"] == "control"


async def test_every_attempt_is_told_with_its_end_and_all_events_fit_the_table() -> None:
    async with Bed() as bed:
        first = await bed.live()
        abort(first.connection.transport)
        await bed.until_told("reconnect:completed")
        attempted = [data["connection"] for data in bed.told.named("connect:attempted")]
        ended = [d["connection"] for name in ("connect:established", "connect:failed") for d in bed.told.named(name)]
        assert sorted(ended) == sorted(attempted) == list(range(1, len(attempted) + 1))
        for _, name, data in bed.told.events:
            verify(name, data)
