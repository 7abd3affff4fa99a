"""AMF0 there and back, and what it does with rubbish."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.rtmp.amf0 import UNDEFINED, Date, EcmaArray, TypedObject, Value, decode_all, encode
from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError

NAMES = st.text(max_size=12).filter(bool)
NUMBERS = st.floats(allow_nan=False)
SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=30),
    st.just(UNDEFINED),
    st.builds(Date, NUMBERS, st.integers(-720, 720)),
)


def _containers(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    objects = st.dictionaries(NAMES, inner, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=4),
        objects,
        objects.map(EcmaArray),
        st.builds(TypedObject, NAMES, objects),
    )


VALUES = st.recursive(SIMPLE, _containers, max_leaves=12)


@given(st.lists(VALUES, max_size=4))
def test_values_come_back_as_they_were(values: list[Value]) -> None:
    decoded = decode_all(encode(*values))
    assert decoded == values
    assert [type(value) for value in decoded] == [type(value) for value in values]


@given(st.binary(max_size=300))
def test_rubbish_raises_nothing_but_the_protocol_error(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_all(data)


@given(st.lists(VALUES, min_size=1, max_size=3), st.data())
def test_a_message_cut_short_never_decodes_to_the_whole(values: list[Value], data: st.DataObject) -> None:
    whole = encode(*values)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with contextlib.suppress(RemoteProtocolError):
        assert decode_all(whole[:cut]) != values


def test_integers_are_written_as_numbers_and_tuples_as_arrays() -> None:
    assert decode_all(encode(3, (1, 2))) == [3.0, [1.0, 2.0]]


def test_a_string_above_65535_bytes_takes_the_long_form() -> None:
    text = "ä" * 40_000
    data = encode(text)
    assert data[0] == 0x0C
    assert decode_all(data) == [text]


@pytest.mark.parametrize("count", [0, 1, 7, 0xFFFF_FFFF])
def test_the_count_of_an_ecma_array_is_not_trusted(count: int) -> None:
    data = b"\x08" + struct.pack(">I", count) + encode({"width": 1280, "height": 720})[1:]
    assert decode_all(data) == [EcmaArray(width=1280.0, height=720.0)]


def test_a_reference_is_the_object_itself() -> None:
    first = encode({"x": 1})
    outer = b"\x0a\x00\x00\x00\x02" + first + b"\x07\x00\x01"
    (values,) = decode_all(outer)
    assert values[0] is values[1]


def test_an_empty_name_is_a_name_unless_the_end_marker_follows() -> None:
    data = b"\x03" + b"\x00\x00" + encode("nameless") + b"\x00\x00\x09"
    assert decode_all(data) == [{"": "nameless"}]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x02\x00\x05abc", "ends after 6 bytes where 8"),
        (b"\x02\x00\x02\xff\xfe", "not UTF-8"),
        (b"\x07\x00\x00", "only 0 objects"),
        (b"\x11", "marker 17 at byte 0"),
        (b"\x0a\x00\x00\x00\x01" * 40, "deeper than 32"),
        (b"\x0a\xff\xff\xff\xff" + b"\x05" * 20_000, "more than 10000 values"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        decode_all(data)


def test_an_announced_array_of_four_billion_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_all(b"\x0a\xff\xff\xff\xff" + b"\x05" * 100)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_what_amf0_cannot_hold_is_our_error() -> None:
    endless: list[Value] = []
    endless.append(endless)
    for value in (object(), b"bytes", endless, {"n" * 70_000: 1}):
        with pytest.raises(LocalProtocolError):
            encode(value)
