"""What has happened so far in a run that is under way, for those who wait for something to happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it arrived: ``t_ns`` is absolute CLOCK_MONOTONIC."""

    t_ns: int
    node: str
    source: str
    name: str
    data: Mapping[str, Any]


Condition = Callable[[Told], bool]


class Board:
    """Keeps what was told, and wakes whoever waits for it. One event loop only."""

    def __init__(self) -> None:
        self._told: list[Told] = []
        self._waiting: list[tuple[Condition, asyncio.Future[Told]]] = []

    def tell(self, told: Told) -> None:
        self._told.append(told)
        for condition, future in self._waiting:
            if not future.done() and condition(told):
                future.set_result(told)
        self._waiting = [(condition, future) for condition, future in self._waiting if not future.done()]

    def find(self, condition: Condition) -> Told | None:
        """The first event so far that fits."""
        return next((told for told in self._told if condition(told)), None)

    async def until(self, condition: Condition) -> Told:
        """The first event that fits, told already or yet to come; the caller bounds the wait."""
        found = self.find(condition)
        return found if found is not None else await self.next(condition)

    def next(self, condition: Condition) -> asyncio.Future[Told]:
        """The first event that fits and is told from this call on, whether or not it is awaited yet."""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, future))
        return future


def named(name: str, *, source: str | None = None) -> Condition:
    """Events with this name, from this source or any."""
    return lambda told: told.name == name and source in (None, told.source)
