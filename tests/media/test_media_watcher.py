"""Conversations with a watcher: what is shown to it, and what it then tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from media_bed import Screening, Tape

from reference_impl.media import flv
from reference_impl.media.album import Album
from reference_impl.media.decode import Decoder
from reference_impl.media.h264 import NalType, nal_type
from reference_impl.media.sequence import Sequence
from reference_impl.media.stamp import STAMP_UUID, FrameStamp
from reference_impl.media.watcher import MediaWatcher, View, WatcherSettings
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import TelemetryRecorder

Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def tape() -> Tape:
    """Seven seconds; IDRs are frames 0, 60, 100 (requested), 160."""
    tape = Tape().record(3.3)
    tape.source.request_keyframe("reconnect")
    return tape.record(3.7)


class Case:
    """A watcher, its telemetry and a screening."""

    def __init__(self, tape: Tape, *, decode: bool = True, album: Path | None = None) -> None:
        self.telemetry = TelemetryRecorder()
        pictures = Album(album, self.telemetry) if album is not None else None
        decoder = Decoder() if decode else None
        self.watcher = MediaWatcher(self.telemetry, decoder=decoder, album=pictures)
        self.screening = Screening(self.watcher)
        self.headers = tape.headers
        self.screening.connect(self.headers)

    def told(self, *names: str) -> Told:
        return [(name, data) for _, name, data in self.telemetry.events if name in names]

    def names(self) -> list[str]:
        return [name for _, name, _ in self.telemetry.events if name != "media:progressed"]


def test_the_tape_is_what_the_tests_say(tape: Tape) -> None:
    assert [message.frame for message in tape.video if message.idr][:4] == [0, 60, 100, 160]


# --- the ordinary course ---------------------------------------------------------------------------------------------


def test_an_undisturbed_stream_starts_progresses_and_ends(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:45])
    case.watcher.close("done")
    case.watcher.close("again")
    assert case.names() == ["keyframe:received", "media:started", "media:ended"]
    progress = [data for _, data in case.told("media:progressed")]
    assert [data["frames"] for data in progress] == [16, 31]
    assert progress[1]["longest_gap_ms"] == pytest.approx(33.3, abs=0.1)
    assert case.told("media:ended") == [("media:ended", {"frames": 45, "last_frame": 44, "reason": "done"})]


def test_delay_counts_from_the_moment_of_capture(tape: Tape) -> None:
    case = Case(tape)
    case.screening.now = 1000.120
    case.screening.show(*tape.video[:20])
    (started,) = case.told("media:started")
    assert started[1]["delay_ms"] == pytest.approx(120, abs=0.1)
    assert case.told("media:progressed")[0][1]["delay_max_ms"] == pytest.approx(120, abs=0.1)


def test_sound_and_bytes_are_counted_and_headers_are_no_sound(tape: Tape) -> None:
    case = Case(tape)
    some = tape.messages[:20]
    case.screening.show(*some, every=0.01)
    status = case.watcher.status()
    assert status["audio_packets"] == sum(message.kind == "audio" for message in some)
    video = [tape.headers[1], *(message for message in some if message.kind == "video")]
    assert status["video_bytes"] == sum(len(message.payload) for message in video)


def test_key_frames_are_told_with_idr_parameter_sets_and_being_first(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:61])
    case.screening.connect(case.headers)
    case.screening.show(*tape.video[61:101])
    case.screening.connect(case.headers)
    case.screening.show(*tape.video[160:162])
    told = [(data["frame"], data["first"]) for _, data in case.told("keyframe:received")]
    assert told == [(0, True), (60, False), (100, False), (160, True)]
    assert all(data["idr"] and data["parameter_sets"] for _, data in case.told("keyframe:received"))


def test_an_idr_without_parameter_sets_anywhere_is_told_so(tape: Tape) -> None:
    case = Case(tape, decode=False)
    case.watcher.connection_started()
    nals = [nal for nal in flv.parse_video(tape.video[0].payload).nals() if nal_type(nal) not in (7, 8)]
    case.screening.show(MediaMessage("video", 0, flv.video_frame(nals, keyframe=True)))
    ((_, told),) = case.told("keyframe:received")
    assert told["idr"] and not told["parameter_sets"]


def test_a_key_flag_on_a_delta_frame_makes_no_idr(tape: Tape) -> None:
    case = Case(tape, decode=False)
    nals = flv.parse_video(tape.video[5].payload).nals()
    case.screening.show(MediaMessage("video", 0, flv.video_frame(nals, keyframe=True)))
    ((_, told),) = case.told("keyframe:received")
    assert not told["idr"]
    assert not case.told("media:started")[0][1]["idr"]


# --- freezes ---------------------------------------------------------------------------------------------------------


def test_a_freeze_is_told_when_the_last_picture_is_500_ms_old_and_names_the_setting(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10], every=1 / 30)
    case.screening.wait(0.46)
    assert not case.told("media:frozen")
    case.screening.wait(0.01)
    ((_, frozen),) = case.told("media:frozen")
    assert frozen == {"last_frame": 9, "after_ms": 500.0, "setting": "freeze_after=500 ms"}


def test_a_late_stream_without_loss_resumes_on_a_delta_frame_and_says_so(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10])
    case.screening.wait(2.0)
    case.screening.show(*tape.video[10:12])
    ((_, resumed),) = case.told("media:resumed")
    assert (resumed["last_frame"], resumed["frame"], resumed["missing"]) == (9, 10, 0)
    assert resumed["idr"] is False and resumed["decoded"] is True and resumed["parameter_sets"] is True
    assert resumed["gap_ms"] == pytest.approx(2033, abs=1)
    assert resumed["method"] == "sei"
    assert not case.told("media:undecodable", "media:skipped")


def test_a_reconnect_with_an_idr_resumes_at_once_and_counts_what_is_missing(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:70])
    case.screening.wait(1.0)
    case.screening.connect(case.headers)
    case.screening.show(*tape.video[100:104])
    ((_, resumed),) = case.told("media:resumed")
    assert (resumed["last_frame"], resumed["frame"], resumed["missing"], resumed["idr"]) == (69, 100, 30, True)
    assert case.told("media:skipped") == [("media:skipped", {"first": 70, "last": 99, "method": "sei"})]
    assert not case.told("media:undecodable")


def test_delta_frames_after_a_lost_idr_are_not_seen_by_who_decodes(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:70])
    case.screening.wait(1.0)
    case.screening.show(*tape.video[80:104])
    ((_, undecodable),) = case.told("media:undecodable")
    assert undecodable == {"frame": 80, "error": "10 frames are missing before it"}
    ((_, resumed),) = case.told("media:resumed")
    assert (resumed["frame"], resumed["idr"], resumed["missing"], resumed["decoded"]) == (100, True, 30, True)
    assert resumed["gap_ms"] == pytest.approx(1000 + 21 * 1000 / 30, abs=1)


def test_who_does_not_decode_resumes_on_the_delta_frame_and_says_idr_false(tape: Tape) -> None:
    case = Case(tape, decode=False)
    case.screening.show(*tape.video[:70])
    case.screening.wait(1.0)
    case.screening.show(*tape.video[80:82])
    ((_, resumed),) = case.told("media:resumed")
    assert (resumed["frame"], resumed["missing"]) == (80, 10)
    assert resumed["idr"] is False and resumed["decoded"] is False


def test_a_new_connection_that_begins_with_delta_frames_shows_nothing_until_its_idr(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:70])
    case.screening.connect(case.headers)
    case.screening.show(*tape.video[70:102])
    ((_, undecodable),) = case.told("media:undecodable")
    assert undecodable == {"frame": 70, "error": "no IDR since the connection began"}
    assert case.told("media:resumed")[0][1]["frame"] == 100


def test_a_loss_of_exactly_as_many_frames_as_the_decoder_cannot_notice_is_noticed(tape: Tape) -> None:
    """libx264's frame counter wraps at 16; FFmpeg decodes on over such a hole, with a wrong picture."""
    case = Case(tape)
    case.screening.show(*tape.video[:20], *tape.video[36:50])
    assert case.told("media:undecodable")[0][1]["frame"] == 36
    assert case.watcher.counts.last_frame == 19


def test_a_freeze_is_told_even_if_the_loop_was_too_late_to_tick(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10])
    case.watcher.feed(tape.video[10], now=case.screening.now + 3.0)
    names = [name for name in case.names() if name.startswith("media:")]
    assert names == ["media:started", "media:frozen", "media:resumed"]
    assert case.told("media:frozen")[0][1]["after_ms"] == case.told("media:resumed")[0][1]["gap_ms"]


def test_progress_is_told_during_a_freeze_with_the_open_gap(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10])
    case.screening.wait(3.0)
    gaps = [data["longest_gap_ms"] for _, data in case.told("media:progressed")]
    assert gaps == sorted(gaps) and len(gaps) == 6 and gaps[-1] > 2500
    assert case.told("media:progressed")[-1][1]["delay_ms"] is None


def test_the_longest_gap_is_that_of_the_time_since_the_event_before(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10])
    case.screening.wait(0.3)
    case.screening.show(*tape.video[10:50])
    gaps = [data["longest_gap_ms"] for _, data in case.told("media:progressed")]
    assert gaps[:3] == pytest.approx([200, 333, 33], abs=1)


def test_a_loop_that_was_late_by_seconds_tells_progress_once_and_goes_on_in_step(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:3])
    case.watcher.tick(now=1007.1)
    assert len(case.told("media:progressed")) == 1
    assert case.watcher.deadline == pytest.approx(1007.5)


def test_the_threshold_is_a_setting() -> None:
    watcher = MediaWatcher(TelemetryRecorder(), settings=WatcherSettings(freeze_after=2.0))
    tape = Tape().record(0.1)
    watcher.feed(tape.video[0], now=10.0)
    watcher.tick(now=11.9)
    assert watcher.counts.freezes == 0
    watcher.tick(now=12.0)
    assert watcher.counts.freezes == 1 and watcher.view is View.FROZEN


def test_an_owner_that_wakes_exactly_at_the_deadline_is_never_asked_for_the_same_moment_twice(tape: Tape) -> None:
    case = Case(tape, decode=False)
    for offset in (0.1, 0.3, 1e-7):
        case.screening.now += offset
        case.screening.show(tape.video[0], every=3.3)
    assert case.watcher.deadline is not None and case.watcher.deadline > case.screening.now


# --- order -----------------------------------------------------------------------------------------------------------


def test_a_short_gap_is_skipped_frames_without_a_freeze(tape: Tape) -> None:
    case = Case(tape, decode=False)
    case.screening.show(*tape.video[:10], *tape.video[13:20])
    assert case.told("media:skipped") == [("media:skipped", {"first": 10, "last": 12, "method": "sei"})]
    assert not case.told("media:frozen", "media:resumed")
    assert case.watcher.counts.missing == 3


def test_a_duplicate_and_an_old_frame_are_disordered_and_not_seen_again(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10], tape.video[9], tape.video[4], *tape.video[10:12])
    told = [(data["previous"], data["frame"]) for _, data in case.told("media:disordered")]
    assert told == [(9, 9), (9, 4)]
    assert case.watcher.counts.frames == 12


def test_duplicates_do_not_hide_a_freeze(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:10])
    case.screening.show(*[tape.video[9]] * 30)
    assert len(case.told("media:frozen")) == 1


def test_a_cached_gop_on_a_new_connection_is_no_disorder(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:80])
    case.screening.connect(case.headers)
    case.screening.show(*tape.video[60:90])
    assert not case.told("media:disordered", "media:skipped", "media:undecodable")
    assert case.watcher.counts.last_frame == 89


def test_a_publisher_that_started_anew_is_another_source_and_no_loss(tape: Tape) -> None:
    case = Case(tape)
    other = Tape(source_id=b"source-2").record(0.5)
    case.screening.show(*tape.video[:70])
    case.screening.wait(1.0)
    case.screening.connect(other.headers)
    case.screening.show(*other.video[:3])
    assert case.told("media:source_changed") == [("media:source_changed", {"previous": b"source-1".hex(), "frame": 0})]
    ((_, resumed),) = case.told("media:resumed")
    assert (resumed["frame"], resumed["missing"], resumed["idr"]) == (0, 0, True)
    assert not case.told("media:skipped", "media:disordered")


# --- streams without stamps ------------------------------------------------------------------------------------------


def unstamped(message: MediaMessage) -> MediaMessage:
    tag = flv.parse_video(message.payload)
    nals = [nal for nal in tag.nals() if nal_type(nal) != NalType.SEI or STAMP_UUID not in nal]
    return MediaMessage("video", message.timestamp, flv.video_frame(nals, keyframe=tag.keyframe))


def test_without_stamps_decode_times_judge(tape: Tape) -> None:
    case = Case(tape)
    foreign = [unstamped(message) for message in tape.video]
    case.screening.show(*foreign[:70])
    case.screening.wait(1.0)
    case.screening.show(*foreign[100:110])
    ((_, resumed),) = case.told("media:resumed")
    assert (resumed["frame"], resumed["missing"], resumed["method"], resumed["delay_ms"]) == (-1, 30, "dts", None)
    assert resumed["idr"] and resumed["decoded"]


def test_without_stamps_the_decoder_decides_what_is_seen(tape: Tape) -> None:
    case = Case(tape)
    foreign = [unstamped(message) for message in tape.video]
    case.screening.show(*foreign[:70], *foreign[75:104])
    assert case.told("media:resumed")[0][1]["idr"]
    ((_, skipped),) = case.told("media:skipped")
    assert (skipped["first"], skipped["last"], skipped["method"]) == (70, 74, "dts")


def test_decode_times_that_start_again_on_a_new_connection_are_no_disorder() -> None:
    sequence = Sequence()
    for dts in range(0, 1000, 33):
        assert sequence.judge(None, dts_ms=dts).missing == 0
    sequence.connection_started()
    arrivals = [sequence.judge(None, dts_ms=dts) for dts in (0, 33, 66)]
    assert all(arrival.previous is None and arrival.missing == 0 for arrival in arrivals)
    assert sequence.judge(None, dts_ms=66).previous is not None


def test_uneven_but_complete_decode_times_miss_nothing() -> None:
    sequence = Sequence()
    for dts in (0, 40, 73, 100, 140, 166, 200, 240, 266, 300):
        assert sequence.judge(None, dts_ms=dts).missing == 0


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\x17", b"\x27\x01\x00", b"\x27\x01\x00\x00\x00\x00\x00\x09\x99abc"])
def test_messages_that_cannot_be_read_are_told_and_never_raised(payload: bytes, tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:5])
    case.screening.show(MediaMessage("video", 200, payload))
    assert len(case.told("media:undecodable")) == 1


def test_a_damaged_picture_is_told_and_nothing_is_seen_until_the_next_idr(tape: Tape) -> None:
    case = Case(tape)
    stamp = FrameStamp(10, 0, b"source-1").to_nal()
    damaged = MediaMessage("video", 333, flv.video_frame([stamp, b"\x41garbage"], keyframe=False))
    case.screening.show(*tape.video[:10], damaged, *tape.video[11:62])
    ((_, told),) = case.told("media:undecodable")
    assert told["frame"] == 10 and "frame_num" in told["error"]
    assert case.told("media:resumed")[0][1]["frame"] == 60


def test_a_broken_sequence_header_is_told(tape: Tape) -> None:
    case = Case(tape)
    header = replace(case.headers[1], payload=b"\x17\x00\x00\x00\x00\x01\x42")
    case.watcher.feed(header, now=1000.0)
    assert case.told("media:undecodable")[0][1]["error"].startswith("avcC")


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_kept_of_the_first_the_last_before_and_the_first_after_a_freeze(
    tape: Tape, tmp_path: Path
) -> None:
    case = Case(tape, album=tmp_path)
    case.screening.show(*tape.video[:70])
    case.screening.wait(1.0)
    case.screening.show(*tape.video[100:104])
    moments = [(data["moment"], data["frame"]) for _, data in case.told("picture:saved")]
    assert moments == [("first", 0), ("before_freeze", 69), ("after_freeze", 100)]
    assert len(list(tmp_path.iterdir())) == 3


def test_after_the_end_nothing_is_told_any_more(tape: Tape) -> None:
    case = Case(tape)
    case.screening.show(*tape.video[:5])
    case.watcher.close("stopped")
    told = len(case.telemetry.events)
    case.screening.show(*tape.video[5:10])
    case.screening.wait(5.0)
    assert len(case.telemetry.events) == told and case.watcher.deadline is None
