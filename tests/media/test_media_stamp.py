"""Frame stamps in SEI messages."""

from __future__ import annotations

import io

import av
from av.container import InputContainer
from hypothesis import given
from hypothesis import strategies as st
from media_bed import Tape, flv_file, join_annexb

from reference_impl.media import flv
from reference_impl.media.h264 import NalType, nal_type, split_annexb
from reference_impl.media.stamp import STAMP_UUID, FrameStamp, find_stamp, insert_stamp, stamp_of

u64 = st.integers(min_value=0, max_value=2**64 - 1)
# Numbers with many zero bytes, where emulation prevention has most to do.
sparse = st.one_of(u64, st.sampled_from([0, 1, 2, 3, 1 << 24, 1 << 56, 0x0300000300000003]))
stamps = st.builds(FrameStamp, sparse, sparse, st.binary(min_size=8, max_size=8))


@given(stamps)
def test_a_stamp_comes_back_as_it_was(stamp: FrameStamp) -> None:
    assert stamp_of(stamp.to_nal()) == stamp


@given(stamps)
def test_a_stamp_survives_annexb(stamp: FrameStamp) -> None:
    nals = [b"\x06\x01\x01\x80", stamp.to_nal(), b"\x65\x88\x84"]
    assert find_stamp(split_annexb(join_annexb(nals))) == stamp


def test_a_stamp_is_found_beside_another_message_in_the_same_sei() -> None:
    stamp = FrameStamp(7, 8, b"12345678")
    picture_timing = b"\x01\x02\x11\x22"
    nal = stamp.to_nal()
    assert stamp_of(nal[:1] + picture_timing + nal[1:]) == stamp


def test_somebody_elses_user_data_is_no_stamp() -> None:
    foreign = bytes((6, 5, 40)) + bytes(range(16, 56)) + b"\x80"
    assert stamp_of(foreign) is None
    assert stamp_of(bytes((6, 5, 40)) + STAMP_UUID + b"short\x80") is None


def test_the_stamp_goes_directly_in_front_of_the_first_slice() -> None:
    nals = [b"\x67\x01", b"\x68\x01", b"\x06\x00", b"\x65\x01", b"\x65\x02"]
    types = [nal_type(nal) for nal in insert_stamp(nals, FrameStamp(1, 2, bytes(8)))]
    assert types == [NalType.SPS, NalType.PPS, NalType.SEI, NalType.SEI, NalType.IDR, NalType.IDR]


def test_stamps_survive_encoding_and_the_flv_framing() -> None:
    tape = Tape().record(3.0)
    seen = [flv.parse_video(message.payload).stamp() for message in tape.video]
    assert [stamp.frame for stamp in seen if stamp] == list(range(len(tape.video)))
    assert {stamp.source for stamp in seen if stamp} == {b"source-1"}
    times = [stamp.captured_ns for stamp in seen if stamp]
    assert times[:3] == [1_000_000_000_000, 1_000_033_333_333, 1_000_066_666_667]


def test_stamps_survive_ffmpegs_own_demuxer() -> None:
    tape = Tape().record(1.0)
    file = flv_file([*tape.headers, *tape.messages])
    with av.open(io.BytesIO(file), format="flv") as container:
        assert isinstance(container, InputContainer)
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    tags = [flv.VideoTag("frame", "avc1", False, 0, packet) for packet in packets]
    assert [stamp.frame for tag in tags if (stamp := tag.stamp())] == [message.frame for message in tape.video]
