"""What the harness makes of what a program writes, without a lab."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from harness.engines.netns.process import ControlSocket, TelemetryPipe
from harness.errors import HarnessError
from reference_impl.telemetry import verify

GOOD = json.dumps({"t_ns": 5, "name": "program:stopped", "data": {"role": "viewer", "reason": "test"}}).encode()


async def _told(*lines: bytes, role: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    told: list[tuple[str, Mapping[str, Any]]] = []

    def tell(_t_ns: int, name: str, data: Mapping[str, Any]) -> None:
        verify(name, data)
        told.append((name, data))

    reader, writer = os.pipe()
    pipe = TelemetryPipe(reader, tell, role=role)
    os.write(writer, b"".join(line + b"\n" for line in lines))
    os.close(writer)
    await asyncio.wait_for(pipe.ended.wait(), 5)
    return told


@pytest.mark.parametrize(
    "bad",
    [
        b"Traceback (most recent call last):",
        b"[1]",
        b'{"t_ns": 5, "name": "program:stopped"}',
        b'{"t_ns": "5", "name": "program:stopped", "data": {}}',
        b'{"t_ns": 5, "name": "program:stopped", "data": {"misspelt": 1}}',
        b"\xff\xfe",
    ],
)
async def test_a_line_that_is_no_event_fails_a_program_of_the_reference_once_and_later_lines_arrive(bad: bytes) -> None:
    told = await _told(GOOD, bad, bad, GOOD, role="viewer")
    assert [name for name, _ in told] == ["program:stopped", "program:failed", "program:stopped"]
    assert told[1][1]["role"] == "viewer"
    assert "not an event" in told[1][1]["error"]


async def test_a_third_party_program_may_write_what_it_likes_there() -> None:
    assert [name for name, _ in await _told(b"hello", GOOD, role=None)] == ["program:stopped"]


async def _answers(*lines: bytes) -> Mapping[str, Any]:
    near, far = socket.socketpair()
    control = ControlSocket(near, "viewer")
    try:
        with far:
            far.sendall(b"".join(line + b"\n" for line in lines))
            asking = asyncio.create_task(control.request("status", within_ns=200_000_000))
            return await asking
    finally:
        control.close()


@pytest.mark.parametrize("bad", [b"oops", b"[1]", b"3", b'{"id": [1], "ok": true}', b'{"ok": true}', b"\xff"])
async def test_an_answer_that_is_none_does_not_lose_the_one_behind_it(bad: bytes) -> None:
    assert await _answers(bad, b'{"id": 1, "ok": true, "frames": 7}') == {"frames": 7}


async def test_a_program_that_answers_nonsense_only_is_quoted() -> None:
    with pytest.raises(HarnessError, match=r"viewer did not answer 'status' within 0.2 s; it sent 'oops'"):
        await _answers(b"oops")
