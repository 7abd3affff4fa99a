"""NAL units, parameter sets and the AVC configuration record."""

from __future__ import annotations

import contextlib
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_bed import SMALL, join_annexb

from reference_impl.media import h264
from reference_impl.media.encoder import H264Encoder, SourceSettings
from reference_impl.media.errors import MediaError

# Bytes that are often zero or small, so that emulation of start codes is the rule and not the exception.
rbsp = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 0x80, 0xFF]), min_size=1, max_size=60).map(bytes)
nal = rbsp.map(lambda payload: bytes((0x65,)) + h264.escape(payload + b"\x80"))


@given(rbsp)
def test_escaping_is_undone_by_unescaping(payload: bytes) -> None:
    assert h264.unescape(h264.escape(payload)) == payload


@given(rbsp)
def test_no_start_code_can_occur_in_an_escaped_payload(payload: bytes) -> None:
    escaped = h264.escape(payload)
    assert not any(pattern in escaped for pattern in (b"\0\0\0", b"\0\0\1", b"\0\0\2"))


@given(st.lists(nal, max_size=6))
def test_annexb_and_avcc_carry_the_same_nal_units(nals: list[bytes]) -> None:
    assert h264.split_annexb(join_annexb(nals)) == nals
    assert h264.split_avcc(h264.join_avcc(nals)) == nals


def test_annexb_takes_three_byte_start_codes_and_drops_padding() -> None:
    assert h264.split_annexb(b"\0\0\0\1\x67\x01\0\0\1\x68\x02\0\0\0\0\1\x65\x03\0\0") == [
        b"\x67\x01",
        b"\x68\x02",
        b"\x65\x03",
    ]


def test_avcc_that_is_cut_short_names_the_place() -> None:
    with pytest.raises(MediaError, match="NAL unit at byte 0 claims 9 bytes, 3 are left"):
        h264.split_avcc(b"\0\0\0\x09abc")


@given(st.binary(max_size=60))
def test_reading_any_bytes_raises_nothing_but_media_errors(data: bytes) -> None:
    for read in (h264.split_annexb, h264.split_avcc, h264.AvcConfig.parse, lambda b: h264.parse_sps(b"\x67" + b)):
        with contextlib.suppress(MediaError):
            read(data)


@pytest.mark.parametrize(("width", "height"), [(640, 360), (160, 96), (322, 182), (1920, 1080)])
def test_picture_size_in_the_sps_is_the_encoders(width: int, height: int) -> None:
    config = H264Encoder(SourceSettings(width=width, height=height)).config
    sps = h264.parse_sps(config.sps[0])
    assert (sps.width, sps.height, sps.profile) == (width, height, 66)


@pytest.mark.parametrize(
    ("pixels", "profile", "chroma", "depth"),
    [("yuv420p", 100, 1, 8), ("yuv422p", 122, 2, 8), ("yuv444p", 244, 3, 8), ("yuv420p10le", 110, 1, 10)],
)
def test_sps_of_high_profiles_agrees_with_ffmpeg(pixels: str, profile: int, chroma: int, depth: int) -> None:
    config = _config(pixels, width=326, height=246)
    sps = h264.parse_sps(config.sps[0])
    assert (sps.width, sps.height) == (326, 246)
    assert (sps.profile, sps.chroma_format, sps.bit_depth_luma) == (profile, chroma, depth)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_our_configuration_record_is_byte_for_byte_what_ffmpegs_muxer_writes(pixels: str, tmp_path: Path) -> None:
    config = _config(pixels, width=320, height=240)
    path = tmp_path / "one.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"x264-params": "keyint=30"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, pixels
        container.mux(stream.encode(av.VideoFrame(320, 240, pixels)))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        theirs = container.streams.video[0].codec_context.extradata or b""
    parsed = h264.AvcConfig.parse(theirs)
    assert parsed.to_bytes() == theirs
    assert h264.parse_sps(parsed.sps[0]).profile == h264.parse_sps(config.sps[0]).profile


def test_configuration_record_survives_writing_and_reading() -> None:
    config = H264Encoder(SMALL).config
    assert h264.AvcConfig.parse(config.to_bytes()) == config


@pytest.mark.parametrize("data", [b"", b"\x02" + bytes(9), b"\x01\x42\xc0\x1e\xff\xe1\x00\x09abc"])
def test_a_broken_configuration_record_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match="avcC"):
        h264.AvcConfig.parse(data)


def test_what_is_not_an_sps_is_refused_with_its_type() -> None:
    with pytest.raises(MediaError, match="got type 8"):
        h264.parse_sps(b"\x68\xce\x3c\x80")


def _config(pixels: str, *, width: int, height: int) -> h264.AvcConfig:
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt, context.framerate = width, height, pixels, 30  # type: ignore[assignment]
    context.time_base = 1 / context.framerate
    context.flags |= av.codec.context.Flags.global_header
    context.open()
    return h264.AvcConfig.from_nals(h264.split_annexb(context.extradata or b""))
