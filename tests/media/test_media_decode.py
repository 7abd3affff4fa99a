"""Decoding, damage, and pictures as files."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.container import InputContainer
from media_bed import Tape

from reference_impl.media import flv
from reference_impl.media.album import Album
from reference_impl.media.decode import Decoder, Picture
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.errors import MediaError
from reference_impl.media.h264 import AvcConfig, is_slice, split_annexb
from reference_impl.telemetry import TelemetryRecorder


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape().record(5.0)


def decoder_for(tape: Tape) -> Decoder:
    decoder = Decoder()
    assert decoder.feed(flv.parse_video(tape.headers[1].payload)) == []
    return decoder


def tags(tape: Tape) -> list[flv.VideoTag]:
    return [flv.parse_video(message.payload) for message in tape.video]


def test_every_frame_gives_its_picture_at_once(tape: Tape) -> None:
    decoder = decoder_for(tape)
    pictures = [decoder.feed(tag) for tag in tags(tape)]
    assert {len(each) for each in pictures} == {1}
    assert pictures[0][0].size == (160, 96)


@pytest.mark.parametrize("lost", [[30], [30, 31], list(range(30, 45)), [60]])
def test_nothing_is_shown_after_a_lost_frame_until_the_next_idr(tape: Tape, lost: list[int]) -> None:
    decoder = decoder_for(tape)
    shown = []
    for number, tag in enumerate(tags(tape)):
        if number == lost[-1] + 1:
            with pytest.raises(MediaError, match="reference pictures are missing"):
                decoder.feed(tag)
        elif number not in lost and decoder.feed(tag):
            shown.append(number)
    back = 60 if lost[-1] < 60 else 120
    assert shown == [*range(lost[0]), *range(back, len(tape.video))]


def test_lost_pictures_that_nothing_builds_on_interrupt_nothing() -> None:
    """B-frames of x264 without pyramid are no references."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 160, 96, "yuv420p"
    context.framerate, context.time_base, context.max_b_frames = Fraction(30), Fraction(1, 30), 2
    context.flags |= av.codec.context.Flags.global_header
    context.options = {"x264-params": "b-pyramid=none:scenecut=0:b-adapt=0:keyint=30"}
    context.open()
    packets = []
    for number in range(90):
        frame = av.VideoFrame(160, 96, "yuv420p")
        frame.pts = number
        for plane in frame.planes:
            plane.update(bytes((number,)) * plane.buffer_size)
        packets += context.encode(frame)
    decoder = Decoder()
    config = AvcConfig.from_nals(split_annexb(context.extradata or b""))
    decoder.feed(flv.VideoTag("sequence_header", "avc1", True, 0, config.to_bytes()))
    shown = 0
    for packet in packets:
        nals = split_annexb(bytes(packet))
        if any(is_slice(nal) and not nal[0] & 0x60 for nal in nals):
            continue
        shown += len(decoder.feed(flv.parse_video(flv.video_frame(nals, keyframe=packet.is_keyframe))))
    assert shown > 20


def test_nothing_is_shown_before_the_first_key_frame(tape: Tape) -> None:
    decoder = decoder_for(tape)
    shown = [number for number, tag in enumerate(tags(tape)) if number >= 10 and decoder.feed(tag)]
    assert shown[0] == 60


def test_a_damaged_frame_raises_once_and_what_builds_on_it_is_passed_over(tape: Tape) -> None:
    decoder = decoder_for(tape)
    stream = tags(tape)
    for tag in stream[:40]:
        decoder.feed(tag)
    with pytest.raises(MediaError, match="decoder: Invalid data"):
        decoder.feed(flv.VideoTag("frame", "avc1", False, 0, b"\x00\x00\x00\x04garb"))
    assert all(decoder.feed(tag) == [] for tag in stream[40:60])
    assert len(decoder.feed(stream[60])) == 1


def test_a_frame_that_is_cut_short_is_damage(tape: Tape) -> None:
    decoder = decoder_for(tape)
    stream = tags(tape)
    for tag in stream[:40]:
        decoder.feed(tag)
    *front, slice_nal = [nal for nal in stream[40].nals() if nal[0] & 0x1F != 12]
    cut = flv.parse_video(flv.video_frame([*front, slice_nal[: len(slice_nal) // 3]], keyframe=False))
    with pytest.raises(MediaError, match=r"damaged|Invalid data"):
        decoder.feed(cut)


def test_a_frame_before_any_header_and_an_unknown_codec_are_named() -> None:
    with pytest.raises(MediaError, match="before any sequence header"):
        Decoder().feed(flv.VideoTag("frame", "avc1", True, 0, b"\0\0\0\1\x65"))
    with pytest.raises(MediaError, match="no decoder for codec 'vvc1'"):
        Decoder().feed(flv.VideoTag("sequence_header", "vvc1", True, 0, b""))


def test_the_same_header_again_does_not_interrupt(tape: Tape) -> None:
    decoder = decoder_for(tape)
    stream = tags(tape)
    decoder.feed(stream[0])
    decoder.feed(flv.parse_video(tape.headers[1].payload))
    assert len(decoder.feed(stream[1])) == 1


def test_after_a_reset_header_and_key_frame_are_wanted_again(tape: Tape) -> None:
    decoder = decoder_for(tape)
    stream = tags(tape)
    decoder.feed(stream[0])
    decoder.reset()
    decoder.feed(flv.parse_video(tape.headers[1].payload))
    assert decoder.feed(stream[1]) == []
    assert len(decoder.feed(stream[60])) == 1


@pytest.fixture(scope="module")
def picture() -> Picture:
    tape = Tape(SourceSettings()).record(0.1)
    return decoder_for(tape).feed(tags(tape)[0])[0]


def test_a_picture_becomes_a_small_jpeg(picture: Picture) -> None:
    data = picture.encoded("jpeg")
    assert data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")
    assert len(data) < 15_000
    with av.open(io.BytesIO(data)) as container:
        assert isinstance(container, InputContainer)
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height) == (240, 134)


def test_a_picture_becomes_a_png_that_is_never_scaled_up(picture: Picture) -> None:
    data = picture.encoded("png", width=5000)
    with av.open(io.BytesIO(data)) as container:
        assert isinstance(container, InputContainer)
        frame = next(container.decode(video=0))
    assert data.startswith(b"\x89PNG") and (frame.width, frame.height) == (640, 360)


def test_an_album_saves_and_tells(picture: Picture, tmp_path: Path) -> None:
    telemetry = TelemetryRecorder()
    Album(tmp_path / "new", telemetry).save(picture, frame=12, moment="before_freeze")
    (told,) = telemetry.named("picture:saved")
    assert told == {"frame": 12, "path": str(tmp_path / "new" / "000-before_freeze-12.jpg"), "moment": "before_freeze"}
    assert Path(told["path"]).read_bytes().startswith(b"\xff\xd8")


def test_an_album_that_cannot_be_written_costs_the_picture_only(picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    telemetry = TelemetryRecorder()
    Album(tmp_path / "file" / "below", telemetry).save(picture, frame=1, moment="first")
    assert telemetry.events == []
