"""The capture's batch, without a lab: the disk must neither slow the forwarder down nor end it."""

from __future__ import annotations

import os

import pytest

from harness.engines.netns.capturing import CHUNK, Batch, open_pipe

RECORD = b"r" * 1000


def _drain(reader: int) -> bytes:
    os.set_blocking(reader, False)
    data = b""
    try:
        while more := os.read(reader, 1 << 20):
            data += more
    except BlockingIOError:
        pass
    return data


def test_all_records_arrive_in_order_however_little_the_pipe_takes() -> None:
    reader, writer = open_pipe()
    batch = Batch(writer)
    sent = b""
    got = b""
    for number in range(4000):
        record = number.to_bytes(4, "big") * 250
        sent += record
        batch.add(record)
        if number % 500 == 0:
            batch.flush()
        if number % 1700 == 0:
            got += _drain(reader)
    while len(got) < len(sent):
        batch.flush()
        got += _drain(reader)
    batch.close()
    os.close(reader)
    assert got == sent
    assert batch.left_out == 0


def test_a_write_into_a_full_pipe_offers_no_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole backlog in one string, each write into the full pipe would copy all of it."""
    reader, writer = open_pipe()
    batch = Batch(writer)
    offered: list[int] = []
    write = os.write

    def watched(descriptor: int, data: bytes) -> int:
        offered.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    for _ in range(20 * CHUNK // len(RECORD)):
        batch.add(RECORD)
    batch.flush()
    batch.flush()
    assert max(offered) <= CHUNK + len(RECORD)
    os.close(reader)
    batch.close()


def test_a_writer_that_has_ended_cuts_the_capture_and_nothing_else() -> None:
    reader, writer = open_pipe()
    batch = Batch(writer)
    batch.add(RECORD)
    batch.flush()
    os.close(reader)
    for _ in range(3):
        batch.add(RECORD)
    batch.flush()
    batch.add(RECORD)
    batch.flush()
    batch.close()
    assert batch.left_out == 4


def test_what_is_too_much_for_memory_is_left_out_and_counted() -> None:
    reader, writer = open_pipe()
    batch = Batch(writer)
    record = bytes(CHUNK)
    for _ in range(70):
        batch.add(record)
    os.close(reader)
    batch.close()
    assert batch.left_out == 70
    silent = Batch(-1)
    silent.flush()
    silent.close()
    assert silent.left_out == 0
