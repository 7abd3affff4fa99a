"""FLV tag bodies: legacy ones written and read, enhanced ones read."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import av
import pytest
from av.container import InputContainer
from hypothesis import given
from hypothesis import strategies as st
from media_bed import SMALL, Tape, flv_file

from reference_impl.media import flv
from reference_impl.media.aac import AudioConfig
from reference_impl.media.errors import MediaError

SLICE = b"\x41\x9a\x00"
IDR = b"\x65\x88\x84"


def test_a_frame_is_read_as_it_was_written() -> None:
    tag = flv.parse_video(flv.video_frame([SLICE], keyframe=False, composition_ms=-40))
    assert (tag.kind, tag.codec, tag.keyframe, tag.composition_ms) == ("frame", "avc1", False, -40)
    assert tag.nals() == [SLICE]
    assert not tag.idr


def test_idr_is_told_by_nal_type_and_not_by_the_containers_flag() -> None:
    liar = flv.parse_video(flv.video_frame([SLICE], keyframe=True))
    assert liar.keyframe and not liar.idr
    assert flv.parse_video(flv.video_frame([IDR], keyframe=False)).idr


@pytest.mark.parametrize(
    ("payload", "kind", "codec", "keyframe", "composition", "data"),
    [
        (b"\x90avc1" + b"cfg", "sequence_header", "avc1", True, 0, b"cfg"),
        (b"\xa1avc1\xff\xff\xfe" + b"nal", "frame", "avc1", False, -2, b"nal"),
        (b"\x93avc1" + b"nal", "frame", "avc1", True, 0, b"nal"),
        (b"\x91hvc1\x00\x00\x05" + b"nal", "frame", "hvc1", True, 5, b"nal"),
        (b"\x91av01" + b"obu", "frame", "av01", True, 0, b"obu"),
        (b"\x92avc1", "end", "avc1", True, 0, b""),
        (b"\x94hvc1" + b"hdr", "other", "hvc1", True, 0, b"hdr"),
        (b"\xd0\x00", "other", "", False, 0, b"\x00"),
        # ModEx: three bytes of nanosecond offset, then coded frames without composition time.
        (b"\x97\x02\x00\x00\x07\x03avc1" + b"nal", "frame", "avc1", True, 0, b"nal"),
        # ModEx with a 16-bit size.
        (b"\x97\xff\x01\x00" + bytes(257) + b"\x03avc1" + b"nal", "frame", "avc1", True, 0, b"nal"),
        # Multitrack: one track; then two tracks of one codec, of which the first is read; then of two codecs.
        (b"\x96\x03avc1\x05" + b"nal", "frame", "avc1", True, 0, b"nal"),
        (b"\x96\x13avc1\x00\x00\x00\x02aa\x01\x00\x00\x02bb", "frame", "avc1", True, 0, b"aa"),
        (b"\x96\x23hvc1\x00\x00\x00\x02aaavc1\x01\x00\x00\x02bb", "frame", "hvc1", True, 0, b"aa"),
        (b"\x22" + b"h263", "frame", "h263", False, 0, b"h263"),
        (b"\x57\x00", "other", "avc1", False, 0, b"\x00"),
    ],
)
def test_video_headers(payload: bytes, kind: str, codec: str, keyframe: bool, composition: int, data: bytes) -> None:
    tag = flv.parse_video(payload)
    assert (tag.kind, tag.codec, tag.keyframe, tag.composition_ms, tag.data) == (
        kind, codec, keyframe, composition, data,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "kind", "codec", "data"),
    [
        (b"\xaf\x00\x11\x90", "sequence_header", "mp4a", b"\x11\x90"),
        (b"\xaf\x01raw", "frame", "mp4a", b"raw"),
        (b"\x2fmp3", "frame", "mp3", b"mp3"),
        (b"\x90OpusHead", "sequence_header", "Opus", b"Head"),
        (b"\x91Opusraw", "frame", "Opus", b"raw"),
        (b"\x94Opuslay", "other", "Opus", b"lay"),
        (b"\x95\x01Opus\x00raw", "frame", "Opus", b"raw"),
    ],
)
def test_audio_headers(payload: bytes, kind: str, codec: str, data: bytes) -> None:
    tag = flv.parse_audio(payload)
    assert (tag.kind, tag.codec, tag.data) == (kind, codec, data)


@given(st.binary(max_size=40))
def test_reading_any_bytes_raises_nothing_but_media_errors(payload: bytes) -> None:
    for read in (flv.parse_video, flv.parse_audio):
        with contextlib.suppress(MediaError):
            read(payload)


@given(st.sampled_from([48000, 44100, 7350, 12345, 96000]), st.integers(1, 7))
def test_audio_specific_config_comes_back_as_it_was(rate: int, channels: int) -> None:
    config = AudioConfig(rate, channels)
    assert AudioConfig.parse(config.to_bytes()) == config


def test_audio_specific_config_is_what_ffmpegs_encoder_writes() -> None:
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = 48000, "stereo", "fltp"
    context.open()
    theirs = context.extradata or b""
    assert theirs[:2] == AudioConfig().to_bytes()


@pytest.mark.parametrize("data", [b"\x11", b"\x17\x80\x00", b"\x16\x80"])
def test_a_broken_audio_specific_config_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match="AudioSpecificConfig"):
        AudioConfig.parse(data)


def recording(tape: Tape) -> bytes:
    return flv_file([*tape.headers, *tape.messages])


def test_what_we_write_ffmpegs_library_reads_and_decodes() -> None:
    tape = Tape().record(2.0)
    with av.open(io.BytesIO(recording(tape)), format="flv") as container:
        assert isinstance(container, InputContainer)
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, audio.rate, audio.channels) == (160, 96, 48000, 2)
        assert container.metadata["encoder"] == "deadair"
        pictures = sum(isinstance(frame, av.VideoFrame) for frame in container.decode(video))
    assert pictures == len(tape.video)


@pytest.mark.peer
def test_what_we_write_the_ffmpeg_program_reads_without_a_complaint(tmp_path: Path) -> None:
    ffprobe = shutil.which("ffprobe")
    if ffprobe is None:
        pytest.skip("ffprobe is not installed")
    path = tmp_path / "tape.flv"
    path.write_bytes(recording(Tape().record(2.0)))
    command = [ffprobe, "-v", "warning", "-count_frames", "-show_streams", "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    streams = {stream["codec_type"]: stream for stream in json.loads(done.stdout)["streams"]}
    assert done.stderr == ""
    assert set(streams) == {"video", "audio"}
    assert (streams["video"]["codec_name"], int(streams["video"]["nb_read_frames"])) == ("h264", 61)
    assert (streams["audio"]["codec_name"], streams["audio"]["channels"]) == ("aac", 2)


def test_metadata_names_size_rate_and_codecs() -> None:
    script = Tape(SMALL).headers[0]
    assert script.kind == "script" and script.payload.startswith(b"\x02\x00\x0aonMetaData\x08")
    for name in (b"width", b"height", b"framerate", b"videocodecid", b"audiocodecid", b"audiosamplerate"):
        assert bytes((0, len(name))) + name in script.payload
