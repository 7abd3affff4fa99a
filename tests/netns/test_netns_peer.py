"""Asking a process of the lab, without a lab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from harness.engines.netns import channel
from harness.engines.netns.peer import Peer
from harness.errors import HarnessError


class Wire:
    """A peer and the other end of its channel."""

    def __init__(self) -> None:
        near, self.far = channel.pair()
        self.told: list[tuple[str, Sequence[Any]]] = []
        self.peer = Peer("the lab's forwarder", near, lambda word, rest: self.told.append((word, rest)))


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    yield made
    made.peer.close()
    made.far.close()


async def test_an_answer_that_does_not_come_names_the_process_and_the_request(wire: Wire) -> None:
    with pytest.raises(HarnessError, match=r"the lab's forwarder did not answer 'heal' within 50.0 ms"):
        await wire.peer.ask("heal", "f1", within_ns=50_000_000)


async def test_a_late_answer_does_not_answer_the_next_request(wire: Wire) -> None:
    with pytest.raises(HarnessError):
        await wire.peer.ask("heal", "f1", within_ns=20_000_000)
    channel.send(wire.far, ("reply", 1, "late"))
    channel.send(wire.far, ("reply", 2, "right"))
    assert await wire.peer.ask("measure", within_ns=5_000_000_000) == "right"


async def test_a_channel_that_takes_nothing_more_is_not_waited_for_without_end(wire: Wire) -> None:
    with pytest.raises(HarnessError, match="did not answer 'fault'"):
        async with asyncio.timeout(5):
            await asyncio.gather(*(wire.peer.ask("fault", bytes(30_000), within_ns=50_000_000) for _ in range(50)))
