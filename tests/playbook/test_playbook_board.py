"""Waiting for what programs tell."""

from __future__ import annotations

import asyncio

from harness.playbook.board import Board, Told, named


def told(name: str, source: str = "publisher", t_ns: int = 0) -> Told:
    return Told(t_ns, "phone", source, name, {})


async def test_until_finds_what_was_told_already_and_next_does_not() -> None:
    board = Board()
    board.tell(told("media:started", t_ns=1))
    assert (await board.until(named("media:started"))).t_ns == 1
    coming = board.next(named("media:started"))
    assert not coming.done()
    board.tell(told("media:started", t_ns=2))
    assert (await coming).t_ns == 2


async def test_next_listens_from_the_call_on_not_from_the_await_on() -> None:
    board = Board()
    coming = board.next(named("stall:detected"))
    board.tell(told("stall:detected"))
    assert (await coming).name == "stall:detected"


async def test_a_source_is_told_from_another() -> None:
    board = Board()
    coming = board.next(named("program:ready", source="viewer"))
    board.tell(told("program:ready", "gateway"))
    assert not coming.done()
    board.tell(told("program:ready", "viewer"))
    assert coming.done()


async def test_one_event_wakes_everybody_and_later_ones_nobody() -> None:
    board = Board()
    waiting = [asyncio.ensure_future(board.until(named("a:b"))) for _ in range(3)]
    await asyncio.sleep(0)
    board.tell(told("a:b", t_ns=1))
    board.tell(told("a:b", t_ns=2))
    assert [event.t_ns for event in await asyncio.gather(*waiting)] == [1, 1, 1]


async def test_who_gave_up_waiting_is_left_alone() -> None:
    board = Board()
    coming = board.next(named("a:b"))
    coming.cancel()
    board.tell(told("a:b"))
    assert coming.cancelled()
