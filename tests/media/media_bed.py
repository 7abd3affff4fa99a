"""What the tests of media share: a clock that jumps, and sources whose output is kept."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any, cast

from reference_impl.media.encoder import SourceSettings
from reference_impl.media.source import LiveSource, SourceMessage
from reference_impl.media.watcher import MediaWatcher
from reference_impl.rtmp.messages import MediaMessage

SMALL = SourceSettings(width=160, height=96, bitrate=300_000)


class _Handle:
    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self._when, self.call, self.cancelled = when, call, False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class VirtualLoop:
    """Only what a source needs: ``time``, ``call_at``, ``call_later``."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._timers: list[tuple[float, int, _Handle]] = []
        self._order = itertools.count()

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., object], *args: Any) -> _Handle:
        handle = _Handle(when, lambda: call(*args))
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(self, delay: float, call: Callable[..., object], *args: Any) -> _Handle:
        return self.call_at(self.now + delay, call, *args)

    def busy(self, seconds: float) -> None:
        """Time passes and no timer fires."""
        self.now += seconds

    def run_for(self, seconds: float) -> None:
        """Fire every timer that falls due, each at its own moment (or at once, if the loop was busy until later)."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not handle.cancelled:
                handle.call()
        self.now = max(self.now, end)


class Tape:
    """A live source on a virtual clock, and everything that it gave."""

    def __init__(self, settings: SourceSettings = SMALL, *, source_id: bytes = b"source-1", **makers: Any) -> None:
        self.loop = VirtualLoop()
        self.messages: list[SourceMessage] = []
        self.source = LiveSource(settings, self.messages.append, loop=self.loop.as_loop, source_id=source_id, **makers)

    def record(self, seconds: float) -> Tape:
        """Go on recording."""
        self.source.start()
        self.loop.run_for(seconds)
        return self

    @property
    def headers(self) -> list[MediaMessage]:
        return self.source.sequence_headers()

    @property
    def video(self) -> list[SourceMessage]:
        return [message for message in self.messages if message.kind == "video"]

    @property
    def audio(self) -> list[SourceMessage]:
        return [message for message in self.messages if message.kind == "audio"]


class Screening:
    """Shows messages to a watcher at chosen times; ticks come by themselves, at the watcher's deadlines."""

    def __init__(self, watcher: MediaWatcher, *, now: float = 1000.0) -> None:
        self.watcher = watcher
        self.now = now

    def connect(self, headers: list[MediaMessage]) -> None:
        self.watcher.connection_started()
        for header in headers:
            self.watcher.feed(header, now=self.now)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(100_000):
            deadline = self.watcher.deadline
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.watcher.tick(now=self.now)
        else:
            raise AssertionError("the watcher's deadline does not move")
        self.now = end

    def show(self, *messages: MediaMessage, every: float = 1 / 30) -> None:
        """Each message, and then the time to the next."""
        for message in messages:
            self.watcher.feed(message, now=self.now)
            self.wait(every)


def join_annexb(nals: Iterable[bytes]) -> bytes:
    """NAL units with a four-byte start code in front of each."""
    return b"".join(b"\x00\x00\x00\x01" + nal for nal in nals)


def flv_file(messages: Iterable[MediaMessage]) -> bytes:
    """An FLV file of these messages."""
    header = b"FLV\x01\x05" + (9).to_bytes(4, "big") + bytes(4)
    return header + b"".join(map(_flv_tag, messages))


def _flv_tag(message: MediaMessage) -> bytes:
    kind = {"audio": 8, "video": 9, "script": 18}[message.kind]
    size, time = len(message.payload), message.timestamp & 0xFFFFFFFF
    head = (
        bytes((kind,)) + size.to_bytes(3, "big") + (time & 0xFFFFFF).to_bytes(3, "big") + bytes((time >> 24, 0, 0, 0))
    )
    return head + message.payload + (size + 11).to_bytes(4, "big")
