"""The harness's end of a channel to PID 1 or the forwarder, on the asyncio loop: requests, replies, what they tell."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from harness.engines.netns import channel
from harness.errors import HarnessError
from harness.units import SECOND, format_duration

ANSWER_WITHIN = 10 * SECOND
Told = Callable[[str, Sequence[Any]], None]
"""Called with each message that is not an answer: its first word and the rest."""


class Peer:
    """One process of the lab to ask; everything it has not answered fails when it is gone."""

    def __init__(self, name: str, end: socket.socket, told: Told) -> None:
        self._name = name
        self._end = end
        self._told = told
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self.failure: HarnessError | None = None
        self.closed = self._loop.create_future()
        """Done when the other end is gone."""
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    async def ask(
        self, verb: str, *arguments: Any, descriptors: Sequence[int] = (), within_ns: int = ANSWER_WITHIN
    ) -> Any:
        """The answer; raises :class:`HarnessError` when refused, late, or when the process is gone."""
        if self.closed.done():
            raise self._gone()
        number = next(self._numbers)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(within_ns / SECOND):
                await self._send((verb, number, *arguments), descriptors)
                return await future
        except TimeoutError:
            what = f"{self._name} did not answer {verb!r} within {format_duration(within_ns)}"
            raise HarnessError(what, cure="is the machine overloaded? `deadair doctor` tells") from None
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Let go of the channel, which tells the other side that the harness is done with it. Idempotent."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._end.close()
        if not self.closed.done():
            self.closed.set_result(None)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._gone())

    async def _send(self, message: Any, descriptors: Sequence[int]) -> None:
        while True:
            try:
                return channel.send(self._end, message, descriptors)
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except OSError as error:
                self._readable()  # its last words may be waiting
                raise self._gone() from error

    def _readable(self) -> None:
        while self._end.fileno() >= 0:
            try:
                message, descriptors = channel.receive(self._end)
            except BlockingIOError:
                return
            except (channel.ChannelClosedError, OSError):
                self.close()
                return
            for descriptor in descriptors:
                os.close(descriptor)
            self._dispatch(*message)

    def _dispatch(self, word: str, *rest: Any) -> None:
        if word == "failed":
            self.failure = HarnessError(rest[0], cure=rest[1])
        if word not in ("reply", "refused"):
            self._told(word, rest)
            return
        future = self._waiting.get(rest[0])
        if future is None or future.done():
            return
        if word == "reply":
            future.set_result(rest[1])
        else:
            future.set_exception(HarnessError(rest[1], cure=rest[2]))

    def _gone(self) -> HarnessError:
        return self.failure or HarnessError(f"{self._name} is gone", cure="the run's logs folder may say why")
