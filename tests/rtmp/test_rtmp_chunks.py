"""The chunk stream, judged by an encoder of its own that takes every freedom the specification gives."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.rtmp.chunks import ABORT, MAX_CHUNK_STREAM, SET_CHUNK_SIZE, ChunkReader, ChunkWriter, Message
from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError
from reference_impl.rtmp.limits import Limits

EXTENDED = 0xFF_FFFF
WRAP = 1 << 32

TIMESTAMPS = st.one_of(
    st.integers(0, 1000),
    st.integers(EXTENDED - 3, EXTENDED + 3),
    st.integers(WRAP - 50, WRAP - 1),
    st.integers(0, WRAP - 1),
)
MESSAGES = st.builds(
    Message,
    type_id=st.sampled_from([3, 4, 8, 9, 18, 20]),
    stream_id=st.sampled_from([0, 1, 1, 1, 77, 0xFFFF_FFFF]),
    timestamp=TIMESTAMPS,
    payload=st.one_of(
        st.binary(max_size=40), st.integers(0, 3000).map(lambda size: random.Random(size).randbytes(size))
    ),
)
CHUNK_STREAMS = st.one_of(st.integers(3, 8), st.sampled_from([63, 64, 319, 320, MAX_CHUNK_STREAM]))
SENDINGS = st.lists(st.tuples(CHUNK_STREAMS, MESSAGES), max_size=12)


class FreeEncoder:
    """Encodes as the specification allows, choosing header form and basic header length at random."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: dict[int, tuple[int, int, int, int, int]] = {}
        self.forms: set[int] = set()
        self.chunk_size = 128

    def chunks(self, chunk_stream: int, message: Message) -> Iterator[bytes]:
        """One after the other; the chunk size may change while the message is under way."""
        header, extension = self._first_header(chunk_stream, message)
        at = 0
        while True:
            part = message.payload[at : at + self.chunk_size]
            at += len(part)
            yield header + extension + part
            if at >= len(message.payload):
                return
            header = self._basic(3, chunk_stream)

    def _first_header(self, chunk_stream: int, message: Message) -> tuple[bytes, bytes]:
        form, field = self._choose(chunk_stream, message)
        self.forms.add(form)
        self._last[chunk_stream] = (
            message.timestamp,
            field,
            len(message.payload),
            message.type_id,
            message.stream_id,
        )
        header = min(field, EXTENDED).to_bytes(3, "big") if form < 3 else b""
        if form < 2:
            header += len(message.payload).to_bytes(3, "big") + bytes([message.type_id])
        if form == 0:
            header += struct.pack("<I", message.stream_id)
        extension = struct.pack(">I", field) if field >= EXTENDED else b""
        return self._basic(form, chunk_stream) + header, extension

    def _choose(self, chunk_stream: int, message: Message) -> tuple[int, int]:
        legal = [(0, message.timestamp)]
        last = self._last.get(chunk_stream)
        if last is not None and last[4] == message.stream_id:
            delta = (message.timestamp - last[0]) % WRAP
            legal.append((1, delta))
            if last[2:4] == (len(message.payload), message.type_id):
                legal.append((2, delta))
                if last[1] == delta:
                    legal.append((3, delta))
        return self._rng.choice(legal)

    def _basic(self, form: int, chunk_stream: int) -> bytes:
        shapes = []
        if chunk_stream < 64:
            shapes.append(bytes([form << 6 | chunk_stream]))
        if 64 <= chunk_stream < 320:
            shapes.append(bytes([form << 6, chunk_stream - 64]))
        if chunk_stream >= 64:
            shapes.append(bytes([form << 6 | 1, (chunk_stream - 64) & 255, (chunk_stream - 64) >> 8]))
        return self._rng.choice(shapes)


def feed_in_slices(reader: ChunkReader, data: bytes, rng: random.Random) -> list[Message]:
    messages: list[Message] = []
    at = 0
    while at < len(data):
        size = rng.choice([1, 2, 3, 7, 64, 1448, 100_000])
        messages += reader.feed(data[at : at + size])
        at += size
    return messages


def interleave(
    encoder: FreeEncoder, sendings: list[tuple[int, Message]], rng: random.Random
) -> tuple[bytes, list[Message]]:
    """All messages at once, chunk by chunk at random, in order within each chunk stream; bytes, order of completion."""
    waiting: dict[int, list[Message]] = {}
    for chunk_stream, message in sendings:
        waiting.setdefault(chunk_stream, []).append(message)
    running: dict[int, tuple[Message, Iterator[bytes]]] = {}
    out, completed = bytearray(), []
    while waiting or running:
        chunk_stream = rng.choice([*waiting, *(key for key in running if key not in waiting)])
        if chunk_stream not in running:
            message = waiting[chunk_stream].pop(0)
            if not waiting[chunk_stream]:
                del waiting[chunk_stream]
            running[chunk_stream] = (message, encoder.chunks(chunk_stream, message))
        message, chunks = running[chunk_stream]
        chunk = next(chunks)
        out += chunk
        if rng.random() < 0.2:
            size = rng.choice([1, 5, 128, 4096])
            out += b"".join(encoder.chunks(2, Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", size))))
            encoder.chunk_size = size
        finished = _is_finished(message, chunks)
        if finished is None:
            completed.append(message)
            del running[chunk_stream]
        else:
            running[chunk_stream] = (message, finished)
    return bytes(out), completed


def _is_finished(message: Message, chunks: Iterator[bytes]) -> Iterator[bytes] | None:
    """The iterator if more chunks follow, None otherwise. The payload decides, so nothing is encoded ahead of time."""
    frame = getattr(chunks, "gi_frame", None)
    assert frame is not None
    return chunks if frame.f_locals["at"] < len(message.payload) else None


@given(sendings=SENDINGS, chunk_size=st.sampled_from([1, 2, 128, 4096]), seed=st.integers(0, 2**32))
def test_what_the_writer_writes_the_reader_reads_wherever_it_is_cut(
    sendings: list[tuple[int, Message]], chunk_size: int, seed: int
) -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    data = b"".join(writer.write(Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", chunk_size)), chunk_stream=2))
    for chunk_stream, message in sendings:
        data += b"".join(writer.write(message, chunk_stream=chunk_stream))
    received = feed_in_slices(reader, data, random.Random(seed))
    assert received[1:] == [message for _, message in sendings]
    assert reader.held_bytes == 0


@settings(max_examples=300)
@given(sendings=SENDINGS, seed=st.integers(0, 2**32))
def test_any_legal_encoding_is_read_interleaved_and_with_changing_chunk_sizes(
    sendings: list[tuple[int, Message]], seed: int
) -> None:
    rng = random.Random(seed)
    data, completed = interleave(FreeEncoder(rng), sendings, rng)
    # All that is new in this reader: messages complete in the order of their last chunk.
    received = [message for message in feed_in_slices(ChunkReader(), data, rng) if message.type_id != SET_CHUNK_SIZE]
    assert received == completed


def test_the_free_encoder_uses_all_four_forms() -> None:
    rng = random.Random(1)
    encoder = FreeEncoder(rng)
    for number in range(200):
        list(encoder.chunks(3, Message(9, 1, number * 40, bytes(10))))
    assert encoder.forms == {0, 1, 2, 3}


@given(sendings=SENDINGS, seed=st.integers(0, 2**32))
def test_messages_of_the_writer_can_be_interleaved_chunk_by_chunk(
    sendings: list[tuple[int, Message]], seed: int
) -> None:
    rng = random.Random(seed)
    writer, reader = ChunkWriter(), ChunkReader()
    once = list(dict(sendings).items())
    queues = [writer.write(message, chunk_stream=chunk_stream) for chunk_stream, message in once]
    received: list[Message] = []
    while queues:
        queue = rng.choice(queues)
        received += reader.feed(queue.pop(0))
        if not queue:
            queues.remove(queue)
    assert sorted(received) == sorted(message for _, message in once)


def test_time_goes_on_over_the_roll_over_of_32_bits() -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    times = [WRAP - 60, WRAP - 20, WRAP + 20, WRAP + 60]
    data = b"".join(b"".join(writer.write(Message(9, 1, t, b"frame"), chunk_stream=6)) for t in times)
    assert [message.timestamp for message in reader.feed(data)] == [t % WRAP for t in times]


def test_the_writer_shortens_headers_as_far_as_they_repeat() -> None:
    writer = ChunkWriter()
    sizes = [
        len(writer.write(Message(9, 1, t, payload), chunk_stream=6)[0]) - len(payload)
        for t, payload in [(0, b"aa"), (40, b"bbb"), (80, b"ccc"), (130, b"ddd"), (180, b"eee")]
    ]
    # type 0, type 1 (new length), type 3 (all as before), type 2 (new delta), type 3
    assert sizes == [12, 8, 1, 4, 1]


@pytest.mark.parametrize("step", [EXTENDED, -1])
def test_a_step_too_long_or_backwards_is_written_as_an_absolute_time(step: int) -> None:
    writer = ChunkWriter()
    writer.write(Message(9, 1, 1000, b"x"), chunk_stream=6)
    (chunk,) = writer.write(Message(9, 1, 1000 + step, b"x"), chunk_stream=6)
    assert chunk[0] >> 6 == 0


def test_a_type_3_start_after_a_type_0_chunk_repeats_the_timestamp_as_delta() -> None:
    reader = ChunkReader()
    data = b"\x06\x00\x00\x28\x00\x00\x01\x09\x01\x00\x00\x00x" + b"\xc6y"
    assert [message.timestamp for message in reader.feed(data)] == [40, 80]


def test_an_extended_timestamp_left_out_of_continuations_is_noticed() -> None:
    payload = bytes(range(200)) + bytes(100)
    first = b"\x06\xff\xff\xff" + len(payload).to_bytes(3, "big") + b"\x09\x01\x00\x00\x00" + b"\x01\x00\x00\x00"
    with_it = (
        first + payload[:128] + b"\xc6\x01\x00\x00\x00" + payload[128:256] + b"\xc6\x01\x00\x00\x00" + payload[256:]
    )
    without = first + payload[:128] + b"\xc6" + payload[128:256] + b"\xc6" + payload[256:]
    expected = [Message(9, 1, 0x0100_0000, payload)]
    assert list(ChunkReader().feed(with_it)) == expected
    assert list(ChunkReader().feed(without)) == expected


def test_an_extended_delta_adds_to_the_time_before() -> None:
    start = b"\x06\x00\x00\x10\x00\x00\x01\x09\x01\x00\x00\x00x"
    later = b"\x86\xff\xff\xff\x01\x00\x00\x00y"
    again = b"\xc6\x01\x00\x00\x00z"
    times = [message.timestamp for message in ChunkReader().feed(start + later + again)]
    assert times == [0x10, 0x0100_0010, 0x0200_0010]


def test_an_aborted_message_is_forgotten_and_the_next_one_is_whole() -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    cut = writer.write(Message(9, 1, 0, bytes(300)), chunk_stream=6)[:2]
    abort = writer.write(Message(ABORT, 0, 0, struct.pack(">I", 6)), chunk_stream=2)
    whole = writer.write(Message(9, 1, 40, b"whole"), chunk_stream=6)
    received = list(reader.feed(b"".join(cut + abort + whole)))
    assert [message.payload for message in received if message.type_id == 9] == [b"whole"]
    assert reader.held_bytes == 0


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x86\x00\x00\x00", "opens with a type 2 chunk"),
        (b"\xc6", "opens with a type 3 chunk"),
        (b"\x06\x00\x00\x00\x00\x03\x09\x09\x01\x00\x00\x00" + bytes(128) + b"\x06" + bytes(11), "are missing"),
        (b"\x06\x00\x00\x00\xff\xff\xff\x09\x01\x00\x00\x00", "16777215 bytes, the limit is"),
        (b"\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x00\x00", "chunk size 0"),
        (b"\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x80\x00\x00\x01", "chunk size 2147483649"),
        (b"\x02\x00\x00\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x01", "2 bytes, not 4"),
    ],
)
def test_what_is_no_chunk_stream_is_the_peers_error(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        list(ChunkReader().feed(data))


def test_more_chunk_streams_than_the_limit_are_refused() -> None:
    reader = ChunkReader(limits=Limits(chunk_streams=3))
    with pytest.raises(RemoteProtocolError, match="limit of 3"):
        for chunk_stream in range(2, 10):
            list(reader.feed(bytes([chunk_stream]) + bytes(6) + b"\x09" + bytes(4)))


def test_unfinished_messages_together_are_limited() -> None:
    reader = ChunkReader(limits=Limits(message_bytes=1000, unfinished_bytes=1500, chunk_streams=10))
    with pytest.raises(RemoteProtocolError, match="the limit is 1500"):
        for chunk_stream in range(3, 10):
            header = bytes([chunk_stream, 0, 0, 0]) + (1000).to_bytes(3, "big") + b"\x09\x01\x00\x00\x00"
            for at in range(0, 896, 128):
                list(reader.feed((header if at == 0 else bytes([0xC0 | chunk_stream])) + bytes(128)))
                assert reader.held_bytes <= 1500


@given(data=st.binary(max_size=4000), seed=st.integers(0, 2**32))
def test_arbitrary_bytes_raise_nothing_but_the_protocol_error_and_hold_no_more_than_came(
    data: bytes, seed: int
) -> None:
    reader = ChunkReader(limits=Limits(message_bytes=2000, unfinished_bytes=3000))
    rng, at = random.Random(seed), 0
    with contextlib.suppress(RemoteProtocolError):
        while at < len(data):
            size = rng.randint(1, 200)
            list(reader.feed(data[at : at + size]))
            at += size
            assert reader.held_bytes <= min(at, 3000 + 18)


def test_messages_that_were_not_iterated_are_not_lost() -> None:
    writer, reader = ChunkWriter(), ChunkReader()
    first, second = (writer.write(Message(9, 1, t, b"x%d" % t), chunk_stream=6)[0] for t in (1, 2))
    reader.feed(first)
    assert [message.payload for message in reader.feed(second)] == [b"x1", b"x2"]


@pytest.mark.parametrize("chunk_stream", [-1, 0, 1, MAX_CHUNK_STREAM + 1])
def test_a_chunk_stream_id_that_has_no_encoding_is_our_error(chunk_stream: int) -> None:
    with pytest.raises(LocalProtocolError, match="not in 2"):
        ChunkWriter().write(Message(9, 1, 0, b""), chunk_stream=chunk_stream)


def test_a_message_over_24_bits_of_length_is_our_error() -> None:
    with pytest.raises(LocalProtocolError, match="24 bits"):
        ChunkWriter().write(Message(9, 1, 0, bytes(1 << 24)), chunk_stream=6)


def test_reading_is_fast_enough_for_a_gateway() -> None:
    # Measured: 1.3 GB/s at chunk size 4096 on a 2-core VM; the limit leaves room for a busy machine.
    writer = ChunkWriter()
    head = writer.write(Message(SET_CHUNK_SIZE, 0, 0, struct.pack(">I", 4096)), chunk_stream=2)
    frames = [writer.write(Message(9, 1, number * 33, bytes(8300)), chunk_stream=6) for number in range(2000)]
    data = b"".join(head + [chunk for frame in frames for chunk in frame])
    best = 0.0
    for _ in range(5):
        began, reader = time.perf_counter(), ChunkReader()
        count = sum(1 for at in range(0, len(data), 65_536) for _ in reader.feed(data[at : at + 65_536]))
        assert count == 2001
        best = max(best, len(data) / (time.perf_counter() - began))
    assert best > 100e6, f"{best / 1e6:.0f} MB/s"
