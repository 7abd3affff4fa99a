"""Handshake, addresses and timestamps."""

from __future__ import annotations

import contextlib
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.rtmp.errors import RemoteProtocolError
from reference_impl.rtmp.handshake import PACKET_BYTES, ClientHandshake, Handshake, ServerHandshake
from reference_impl.rtmp.timestamps import TimestampUnwrapper, wrap
from reference_impl.rtmp.url import RtmpUrl, RtmpUrlError


def talk(handshake: Handshake, data: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    reply, rest, at = b"", b"", 0
    while at < len(data) and not handshake.done:
        size = rng.choice([1, 100, 1536, 5000])
        answer, rest = handshake.receive(data[at : at + size])
        reply += answer
        at += size
    return reply, rest + data[at:]


@given(seed=st.integers(0, 2**32), extra=st.binary(max_size=20))
def test_both_sides_come_through_wherever_the_bytes_are_cut(seed: int, extra: bytes) -> None:
    rng = random.Random(seed)
    client, server = ClientHandshake(), ServerHandshake()
    answer, _ = talk(server, client.opening, rng)
    assert len(answer) == 1 + 2 * PACKET_BYTES
    assert not server.done
    last, rest = talk(client, answer + extra, rng)
    assert client.done
    assert rest == extra
    _, rest = talk(server, last + extra, rng)
    assert server.done
    assert rest == extra


def test_each_side_echoes_the_other() -> None:
    client, server = ClientHandshake(), ServerHandshake()
    hello = bytes([3]) + os.urandom(PACKET_BYTES)
    answer, _ = server.receive(hello)
    assert answer[1 + PACKET_BYTES :] == hello[1:]
    last, _ = client.receive(answer)
    assert last == answer[1 : 1 + PACKET_BYTES]


def test_a_complex_handshake_is_answered_in_the_simple_form_and_its_digest_accepted() -> None:
    server = ServerHandshake()
    answer, _ = server.receive(b"\x03" + bytes(4) + b"\x80\x00\x07\x02" + os.urandom(PACKET_BYTES - 8))
    assert answer[5:9] == bytes(4), "version 0 tells the client to fall back"
    assert server.receive(os.urandom(PACKET_BYTES) + b"chunks") == (b"", b"chunks")
    assert server.done


@pytest.mark.parametrize("first", [b"G", b"\x16", b"\x06", b"\x00"])
def test_http_tls_and_encrypted_rtmp_are_told_at_the_first_byte(first: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not RTMP"):
        ServerHandshake().receive(first)


def test_an_address_is_taken_apart() -> None:
    url = RtmpUrl.parse("rtmp://gateway.test/live/cam1?key=s/e?cret")
    assert url == RtmpUrl("gateway.test", 1935, "live", "cam1?key=s/e?cret")
    assert (url.name, url.tc_url) == ("cam1", "rtmp://gateway.test:1935/live")


def test_the_application_may_have_several_parts_and_the_host_may_be_ipv6() -> None:
    url = RtmpUrl.parse("rtmp://[::1]:2000/app/instance/stream")
    assert url == RtmpUrl("::1", 2000, "app/instance", "stream")
    assert RtmpUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http://host/app/key", "scheme is 'http'"),
        ("rtmps://host/app/key", "scheme is 'rtmps'"),
        ("rtmp:///app/key", "no host"),
        ("rtmp://host/app", "needs an application and a stream"),
        ("rtmp://host", "needs an application and a stream"),
        ("rtmp://host:99999/app/key", "[Pp]ort"),
        ("rtmp://host:0/app/key", "port 0"),
        ("rtmp://me:secret@host/app/key", "credentials"),
        ("rtmp://[::1/app/key", "IPv6"),
        ("", "scheme is ''"),
    ],
)
def test_a_wrong_address_is_refused_with_the_part_that_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(RtmpUrlError, match=complaint):
        RtmpUrl.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    for candidate in (text, f"rtmp://{text}", f"rtmp://host/{text}"):
        with contextlib.suppress(RtmpUrlError):
            RtmpUrl.parse(candidate)


@given(start=st.integers(1, 2**34), steps=st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=30))
def test_unwrapped_time_follows_the_true_time_over_any_number_of_roll_overs(start: int, steps: list[int]) -> None:
    unwrapper = TimestampUnwrapper()
    base = unwrapper.unwrap(wrap(start))
    if base == 0:
        return
    now, last = start, base
    for step in steps:
        now += step
        value = unwrapper.unwrap(wrap(now))
        assert value - base == now - start or last == 0
        last = value
        if last == 0:
            return


def test_zeros_at_the_beginning_say_nothing_about_the_epoch() -> None:
    unwrapper = TimestampUnwrapper()
    assert [unwrapper.unwrap(t) for t in (0, 0, 0x9000_0000, 0x9000_0028)] == [0, 0, 0x9000_0000, 0x9000_0028]


def test_time_may_go_back_over_the_roll_over_too() -> None:
    unwrapper = TimestampUnwrapper()
    assert [unwrapper.unwrap(t) for t in (2**32 - 5, 3, 2**32 - 2, 10)] == [2**32 - 5, 2**32 + 3, 2**32 - 2, 2**32 + 10]
