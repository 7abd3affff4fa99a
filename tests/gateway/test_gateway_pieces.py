"""The gateway's small parts by themselves: settings, credentials, frames of the feed, records, one viewer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_stage import Camera, Publisher, free_port, gateway
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.gateway.credentials import Request, StreamKeys, read_request
from reference_impl.gateway.feed import FeedError, FrameKind, FrameReader, MediaFrame, TextFrame, pack_media, pack_text
from reference_impl.gateway.packets import GopCache, Headers, Packet
from reference_impl.gateway.records import Records, WorkerRecord, end_leftover, start_time_of
from reference_impl.gateway.serve import main
from reference_impl.gateway.settings import Output, ViewerSettings, build_parser, read_settings, redacted
from reference_impl.gateway.viewer import Viewer
from reference_impl.machines.keyframe_gate import JoinGate, PacketKind
from reference_impl.rtmp.messages import MediaKind, MediaMessage


def packet(kind: PacketKind, timestamp: int, size: int = 10) -> Packet:
    media: MediaKind = "audio" if kind in (PacketKind.AUDIO, PacketKind.AUDIO_HEADER) else "video"
    return Packet(kind, MediaMessage(media, timestamp, bytes(size)))


# --- command line --------------------------------------------------------------------------------------------------


def test_the_command_line_becomes_settings() -> None:
    words = "--listen 127.0.0.1:1936 --stream live/cam1=secret --reconnect-window 5s --egress rtmp://p.test/live/key"
    settings = read_settings(build_parser().parse_args(words.split()))
    assert (settings.host, settings.port) == ("127.0.0.1", 1936)
    assert settings.streams == {"live/cam1": "secret"}
    assert settings.session.reconnect_window == 5.0
    assert settings.outputs == (Output("rtmp://p.test:1935/live/key"),)


def test_an_output_may_belong_to_one_stream_and_have_its_own_policy() -> None:
    output = Output.parse("live/cam1=rtmp://p.test/live/key?a=b#source_lost=stop")
    assert output == Output("rtmp://p.test:1935/live/key?a=b", "live/cam1", "stop")
    assert Output.parse("rtmp://p.test/live/k?u=rtmp://x").stream == ""


@pytest.mark.parametrize(
    "words",
    [
        "--stream cam1=secret",
        "--stream live/cam1",
        "--listen gateway.test",
        "--reconnect-window 60",
        "--egress p.test/live/k",
    ],
)
def test_a_wrong_option_is_refused_with_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert "write" in capsys.readouterr().err


def test_streams_and_outputs_can_stand_in_files_where_ps_does_not_see_their_keys(tmp_path: Path) -> None:
    (tmp_path / "streams").write_text("# cameras\nlive/cam1=secret\n\nlive/cam2=other\n")
    (tmp_path / "outputs").write_text("rtmp://p.test/live/key#source_lost=stop\n")
    words = ["--stream-file", f"{tmp_path}/streams", "--egress-file", f"{tmp_path}/outputs", "--stream", "live/x=y"]
    settings = read_settings(build_parser().parse_args(words))
    assert settings.streams == {"live/x": "y", "live/cam1": "secret", "live/cam2": "other"}
    assert settings.outputs == (Output("rtmp://p.test:1935/live/key", "", "stop"),)


@pytest.mark.parametrize("option", ["--stream-file", "--egress-file"])
def test_a_wrong_line_of_such_a_file_is_told_by_its_number_and_not_repeated(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("\np.test/hush\n")
    with pytest.raises(SystemExit):
        main([option, f"{tmp_path}/file"])
    told = capsys.readouterr().err
    assert f"{option} {tmp_path}/file, line 2: write it as for {option.removesuffix('-file')}" in told
    assert "hush" not in told
    with pytest.raises(SystemExit):
        main([option, f"{tmp_path}/missing"])
    assert "missing cannot be read" in capsys.readouterr().err


def test_a_url_is_told_without_its_key() -> None:
    assert redacted("rtmp://p.test/live/sub/key?auth=x") == "rtmp://p.test:1935/live/sub/***"


async def test_a_gateway_tells_and_remembers_no_stream_key(tmp_path: Path) -> None:
    port = free_port()
    async with gateway("--egress", f"rtmp://127.0.0.1:{port}/live/hush?auth=hush", state=tmp_path) as gw:
        publisher = await Publisher(gw.publish_url).connect()
        publisher.send(Camera().headers())
        started = await gw.told("egress:started")
        status = await gw.ask("status")
        records = [path.read_text() for path in (tmp_path / "egress").iterdir()]
        assert started["url"] == f"rtmp://127.0.0.1:{port}/live/***"
        assert len(records) == 1
        assert not [text for text in (json.dumps(status), json.dumps(gw.events), *records) if "hush" in text]


def test_records_are_for_their_owner_only(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(WorkerRecord(1, 2, "x", "rtmp://p.test/live/***"))
    records.next_incarnation()
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}


# --- credentials ---------------------------------------------------------------------------------------------------


def test_the_key_is_always_needed_and_so_is_a_known_stream() -> None:
    keys = StreamKeys({"live/cam1": "secret"})
    assert keys.admits(read_request("live", "cam1?key=secret"))
    assert not keys.admits(read_request("live", "cam1"))
    assert not keys.admits(read_request("live", "cam1?key=Secret"))
    assert not keys.admits(read_request("live", "cam2?key=secret"))
    assert not keys.admits(read_request("live", "cam2"))


def test_a_request_is_read_with_the_clients_token_wherever_the_query_stands() -> None:
    assert read_request("live", "cam1?key=a%20b&client=phone") == Request("live/cam1", "a b", "phone")
    assert read_request("live?key=k", "cam1") == Request("live/cam1", "k", "")


# --- feed ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(min_value=1, max_value=30))
def test_frames_survive_any_cutting(payloads: list[bytes], step: int) -> None:
    frames = [MediaFrame(PacketKind.IDR, MediaMessage("video", 7 * i, data)) for i, data in enumerate(payloads)]
    wire = b"".join(pack_media(frame.packet, frame.message) for frame in frames)
    wire += pack_text(FrameKind.STOP, {"reason": "over"})
    reader, read = FrameReader(), []
    for at in range(0, len(wire), step):
        read += list(reader.read(wire[at : at + step]))
    assert read == [*frames, TextFrame(FrameKind.STOP, {"reason": "over"})]


@pytest.mark.parametrize(
    "wire", [bytes([99, 0, *bytes(12)]), bytes([4, 0, *bytes(8), 0, 0, 0, 1]) + b"{", b"\xff" * 14]
)
def test_what_is_no_frame_is_an_error(wire: bytes) -> None:
    with pytest.raises(FeedError):
        list(FrameReader().read(wire))


# --- late joiners --------------------------------------------------------------------------------------------------


def test_the_cache_holds_the_last_gop_and_never_a_part_of_one() -> None:
    cache = GopCache(limit_bytes=100)
    cache.keep(packet(PacketKind.PICTURE, 0))
    assert cache.packets == []
    for stamp in range(3):
        cache.keep(packet(PacketKind.IDR if stamp == 0 else PacketKind.PICTURE, stamp, 40))
    assert cache.packets == [], "a GOP beyond the limit is dropped as a whole"
    cache.keep(packet(PacketKind.IDR, 9))
    assert [p.message.timestamp for p in cache.packets] == [9]


class Transport:
    """A viewer's connection that can be clogged."""

    def __init__(self) -> None:
        self.sent: list[MediaMessage] = []
        self.queued_bytes = 0

    def send(self, message: MediaMessage) -> None:
        self.sent.append(message)


class Seat:
    """A viewer and what became of it."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.skipped: list[str] = []
        self.hopeless: list[str] = []
        self.viewer = Viewer(
            "v",
            self.transport,
            JoinGate(),
            ViewerSettings(queue_bytes=1000, give_up_after=30.0),
            on_skipped=lambda _, reason: self.skipped.append(reason),
            on_hopeless=lambda _, reason: self.hopeless.append(reason),
        )

    def give(self, kind: PacketKind, stamp: int) -> bool:
        before = len(self.transport.sent)
        self.viewer.give([packet(kind, stamp)], has_video=True, now=stamp / 1000)
        return len(self.transport.sent) > before


def test_a_late_joiner_gets_headers_and_the_gop_so_far() -> None:
    seat, cache, headers = Seat(), GopCache(), Headers()
    headers.keep(packet(PacketKind.VIDEO_HEADER, 0))
    for kind, stamp in ((PacketKind.IDR, 100), (PacketKind.PICTURE, 133)):
        cache.keep(packet(kind, stamp))
    seat.viewer.join(headers, cache, timestamp=133)
    assert [message.timestamp for message in seat.transport.sent] == [100, 100, 133]
    assert seat.give(PacketKind.PICTURE, 166)


def test_a_slow_viewer_is_skipped_to_the_next_idr() -> None:
    seat = Seat()
    assert seat.give(PacketKind.IDR, 0)
    seat.transport.queued_bytes = 1001
    assert not seat.give(PacketKind.PICTURE, 33)
    assert len(seat.skipped) == 1
    seat.transport.queued_bytes = 600
    assert not seat.give(PacketKind.IDR, 66), "more than half full: not yet"
    seat.transport.queued_bytes = 0
    assert not seat.give(PacketKind.PICTURE, 99)
    assert seat.give(PacketKind.IDR, 133)
    assert len(seat.skipped) == 1


def test_a_viewer_that_takes_nothing_is_given_up() -> None:
    seat = Seat()
    seat.transport.queued_bytes = 5000
    seat.give(PacketKind.PICTURE, 0)
    seat.give(PacketKind.PICTURE, 29_999)
    assert seat.hopeless == []
    seat.give(PacketKind.PICTURE, 30_000)
    assert len(seat.hopeless) == 1


# --- records -------------------------------------------------------------------------------------------------------


@contextmanager
def sleeper(code: str = "import time; time.sleep(60)") -> Iterator[subprocess.Popen[bytes]]:
    """A process that would sleep for a minute."""
    process = subprocess.Popen([sys.executable, "-c", f"print(flush=True);{code}"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def record_of(process: subprocess.Popen[bytes]) -> WorkerRecord:
    pidfd = os.pidfd_open(process.pid)
    try:
        start_time = start_time_of(pidfd)
    finally:
        os.close(pidfd)
    assert start_time is not None
    return WorkerRecord(process.pid, start_time, "live/cam1#1.1>p.test/1", "rtmp://p.test/live/key")


async def test_a_leftover_is_terminated() -> None:
    with sleeper() as process:
        assert await end_leftover(record_of(process), terminate_for=5.0) == "terminated"
        assert process.wait(1) == -signal.SIGTERM


async def test_a_leftover_that_ignores_the_signal_is_killed() -> None:
    with sleeper("import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert await end_leftover(record_of(process), terminate_for=0.2) == "killed"
        assert process.wait(1) == -signal.SIGKILL


async def test_a_process_that_only_has_the_same_number_is_left_alone() -> None:
    with sleeper() as process:
        record = record_of(process)
        recycled = WorkerRecord(record.pid, record.start_time - 1, record.egress, record.url)
        assert await end_leftover(recycled, terminate_for=0.2) == ""
        unknown = WorkerRecord(record.pid, -1, record.egress, record.url)
        assert await end_leftover(unknown, terminate_for=0.2) == ""
        await asyncio.sleep(0.05)
        assert process.poll() is None


async def test_a_record_of_a_process_that_is_gone_ends_nothing() -> None:
    with sleeper() as process:
        record = record_of(process)
    assert await end_leftover(record, terminate_for=0.2) == ""


def test_records_are_remembered_removed_and_survive_rubbish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = Records(tmp_path)
    record = WorkerRecord(4711, 12, "e", "rtmp://p.test/live/key")
    records.add(record)
    (tmp_path / "egress" / "1.json").write_text("{half")
    (tmp_path / "egress" / "2.json").write_text(json.dumps({"pid": 2}))
    assert list(Records(tmp_path).leftovers()) == [record]
    assert capsys.readouterr().err.count("unreadable") == 2
    records.remove(4711)
    records.remove(4711)
    assert list(records.leftovers()) == []


def test_each_gateway_on_a_state_directory_has_its_own_number(tmp_path: Path) -> None:
    assert [Records(tmp_path).next_incarnation() for _ in range(3)] == [1, 2, 3]
    (tmp_path / "incarnation").write_text("rubbish")
    assert Records(tmp_path).next_incarnation() == 1
    assert Records(None).next_incarnation() == 1
