"""The live source: on time, at its rate, an IDR when it is asked for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import mean

import av
import pytest
from media_bed import SMALL, Tape, VirtualLoop

from reference_impl.media import flv
from reference_impl.media.decode import Decoder
from reference_impl.media.encoder import H264Encoder, SourceSettings
from reference_impl.media.errors import MediaError
from reference_impl.media.file_source import media_file_source
from reference_impl.media.h264 import NalType, has_parameter_sets, nal_type
from reference_impl.media.picture import ClockPicture, clock_text
from reference_impl.media.source import SourceMessage


def test_thirty_pictures_a_second_and_one_idr_every_two_seconds() -> None:
    tape = Tape().record(10.0)
    assert len(tape.video) == 301
    assert [message.frame for message in tape.video if message.idr] == [0, 60, 120, 180, 240, 300]


@pytest.mark.parametrize("bitrate", [600_000, 2_000_000, 6_000_000])
def test_the_bit_rate_is_within_15_percent_of_what_was_asked_over_every_4_seconds(bitrate: int) -> None:
    tape = Tape(SourceSettings(bitrate=bitrate)).record(12.0)
    sizes = [8 * len(message.payload) for message in tape.video]
    for start in range(0, len(sizes) - 120, 30):
        assert sum(sizes[start : start + 120]) / 4 == pytest.approx(bitrate, rel=0.15)


def test_the_bit_rate_is_honest_for_the_easiest_picture_too() -> None:
    encoder = H264Encoder(SourceSettings())
    black = av.VideoFrame(640, 360, "yuv420p")
    for plane, value in zip(black.planes, (16, 128, 128), strict=True):
        plane.update(bytes((value,)) * plane.buffer_size)
    sizes = [sum(map(len, encoder.encode(black, tick=tick, idr=False))) for tick in range(150)]
    assert 8 * sum(sizes[30:]) / 4 == pytest.approx(2_000_000, rel=0.15)


def test_the_very_next_picture_is_an_idr_with_parameter_sets_when_one_is_requested() -> None:
    tape = Tape().record(0.7)
    before = len(tape.video)
    tape.source.request_keyframe("reconnect")
    tape.source.request_keyframe("later")
    tape.loop.run_for(0.1)
    first, second = tape.video[before : before + 2]
    tag = flv.parse_video(first.payload)
    assert first.idr and first.reason == "reconnect"
    assert tag.idr and tag.keyframe and has_parameter_sets(tag.nals())
    assert not second.idr and second.reason == ""


def test_the_gop_counts_anew_from_a_requested_idr() -> None:
    tape = Tape().record(0.5)
    tape.source.request_keyframe("control")
    tape.loop.run_for(3.0)
    assert [message.frame for message in tape.video if message.idr] == [0, 16, 76]


def test_parameter_sets_in_the_sequence_header_are_those_in_front_of_the_idr() -> None:
    tape = Tape().record(0.1)
    nals = flv.parse_video(tape.video[0].payload).nals()
    config = tape.source.sequence_headers()[1].payload
    for nal in nals:
        if nal_type(nal) in (NalType.SPS, NalType.PPS):
            assert nal in config


def test_time_stamps_grow_over_requests_and_are_those_of_the_clock() -> None:
    tape = Tape()
    for _ in range(8):
        tape.record(0.4)
        tape.source.request_keyframe("again")
    stamps = [message.timestamp for message in tape.messages]
    assert stamps == sorted(stamps)
    times = [message.timestamp for message in tape.video]
    assert times == sorted(set(times))
    assert times[30] - times[0] == 1000 and times[90] - times[0] == 3000


def test_sound_keeps_step_with_the_picture() -> None:
    tape = Tape().record(20.0)
    assert len(tape.audio) == pytest.approx(20 * 48000 / 1024, abs=2)
    steps = {later.timestamp - former.timestamp for former, later in zip(tape.audio, tape.audio[1:], strict=False)}
    assert steps == {21, 22}


def test_the_media_clock_goes_on_where_a_stopped_source_starts_again() -> None:
    tape = Tape().record(1.0)
    tape.source.stop()
    tape.loop.run_for(2.0)
    quiet = len(tape.messages)
    tape.record(1.0)
    first = next(message for message in tape.messages[quiet:] if message.kind == "video")
    assert (first.frame, first.timestamp) == (31, 3000)
    assert tape.source.counts.skipped == 0


def test_a_late_loop_skips_pictures_counts_them_and_does_not_drift() -> None:
    tape = Tape().record(1.0)
    tape.loop.busy(0.5)
    tape.loop.run_for(1.0)
    frames = [message.frame for message in tape.video]
    assert frames == list(range(len(frames)))
    assert tape.source.counts.skipped == 14
    assert tape.source.counts.frames + tape.source.counts.skipped == 76
    assert tape.video[-1].timestamp == 2500


def test_a_loop_that_is_late_by_less_than_a_picture_skips_none() -> None:
    tape = Tape()
    tape.source.start()
    for _ in range(60):
        tape.loop.busy(0.020)
        tape.loop.run_for(1 / 30 - 0.020)
    assert tape.source.counts.skipped == 0
    assert tape.video[-1].timestamp == 1966


def test_skipped_time_is_skipped_in_sound_too() -> None:
    tape = Tape().record(1.0)
    before = len(tape.audio)
    tape.loop.busy(3.0)
    tape.loop.run_for(0.0)
    assert len(tape.audio) - before <= 3


def test_a_source_without_sound_says_so_in_its_headers() -> None:
    tape = Tape(SourceSettings(width=160, height=96, audio=False)).record(0.5)
    assert [header.kind for header in tape.headers] == ["script", "video"]
    assert not tape.audio


def test_every_picture_can_be_another_access_unit_maker() -> None:
    class Prepared:
        config = Tape().source._video.config

        def make(self, tick: int, *, frame: int, idr: bool) -> list[bytes]:
            return [b"\x65\x01" if idr else b"\x41\x01"] if tick % 2 == 0 else []

    tape = Tape(video=Prepared()).record(1.0)
    assert [message.frame for message in tape.video] == list(range(16))
    assert [message.timestamp for message in tape.video][:3] == [0, 66, 133]


def test_pictures_show_clock_number_and_motion() -> None:
    picture = ClockPicture(640, 360, strides=(640, 320, 320), label="deadair")
    one, two = bytearray(640 * 360), bytearray(640 * 360)
    picture.draw(memoryview(one), frame=1, media_ms=33)
    picture.draw(memoryview(two), frame=2, media_ms=66)
    assert sum(a != b for a, b in zip(one, two, strict=True)) > len(one) // 2
    assert {235, 16} <= set(one[20 * 640 + 16 : 20 * 640 + 300])


def test_clock_text() -> None:
    assert clock_text(0) == "0:00:00.000"
    assert clock_text(3_723_004) == "1:02:03.004"


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"width": 641}, "641x360"),
        ({"fps": 0}, "0 pictures per second"),
        ({"bitrate": 10}, "10 bit/s"),
        ({"gop_s": 0.0}, "GOP of 0.0 s"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, int | float], names: str) -> None:
    with pytest.raises(MediaError, match=names):
        SourceSettings(**wrong)  # type: ignore[arg-type]


# --- a media file as the source ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 320x240 at 25 pictures a second, grey from dark to bright, with 1 s of sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="mono")
        for number in range(50):
            frame = av.VideoFrame(320, 240, "yuv420p")
            for plane, value in zip(frame.planes, (20 + 4 * number, 128, 128), strict=True):
                plane.update(bytes((value,)) * plane.buffer_size)
            container.mux(video.encode(frame))
        for _ in range(43):
            sound = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            sound.rate = 44100
            sound.planes[0].update(bytes(4096))
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def play_file(clip: Path, seconds: float) -> tuple[list[SourceMessage], VirtualLoop, SourceSettings]:
    loop, messages = VirtualLoop(), list[SourceMessage]()
    source = media_file_source(SMALL, clip, messages.append, loop=loop.as_loop)
    source.start()
    loop.run_for(seconds)
    return [*messages], loop, source.settings


def test_a_media_file_is_fitted_stamped_and_looped(clip: Path) -> None:
    messages, _, settings = play_file(clip, 5.0)
    assert (settings.width, settings.height) == (128, 96)
    video = [message for message in messages if message.kind == "video"]
    stamps = [flv.parse_video(message.payload).stamp() for message in video]
    assert [stamp.frame for stamp in stamps if stamp] == list(range(151))
    config = next(message for message in messages if message.kind == "video")
    assert flv.parse_video(config.payload).idr
    assert len(messages) - len(video) == pytest.approx(5 * 46.875, abs=3)


def test_a_looped_file_begins_again_with_its_first_picture(clip: Path) -> None:
    messages, _, settings = play_file(clip, 4.5)
    decoder = Decoder()
    source = media_file_source(settings, clip, lambda _: None, loop=VirtualLoop().as_loop)
    decoder.feed(flv.parse_video(source.sequence_headers()[1].payload))
    greys = []
    for message in messages:
        if message.kind == "video":
            (picture,) = decoder.feed(flv.parse_video(message.payload))
            greys.append(mean(bytes(picture.image.planes[0])[:64]))
    assert greys[5] < 60 < 180 < greys[58] and greys[66] < 60 < 180 < greys[118]


@pytest.mark.parametrize("name", ["nothing.mp4", "text.mp4"])
def test_a_file_that_cannot_be_played_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "text.mp4":
        path.write_text("not a film")
    with pytest.raises(MediaError, match=name):
        media_file_source(SMALL, path, lambda _: None, loop=VirtualLoop().as_loop)


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    path.write_bytes(
        b"RIFF\x24\x20\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\0\x20\0\0" + bytes(8192)
    )
    with pytest.raises(MediaError, match="has no video track"):
        media_file_source(SMALL, path, lambda _: None, loop=VirtualLoop().as_loop)


def test_importing_the_source_starts_no_thread() -> None:
    code = "import threading, reference_impl.media.source as s; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "1"
