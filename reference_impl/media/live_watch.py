"""A watcher on an event loop: messages in, ticks by itself."""

from __future__ import annotations

import asyncio

from reference_impl.media.watcher import MediaWatcher
from reference_impl.rtmp.messages import MediaMessage


class LiveWatch:
    """Feeds a :class:`MediaWatcher` with the loop's time and wakes it at its deadlines.

    The deadline moves with every picture, but a timer is set anew only when the one that is set would be too late.
    """

    def __init__(self, watcher: MediaWatcher, *, loop: asyncio.AbstractEventLoop) -> None:
        self.watcher = watcher
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, message: MediaMessage) -> None:
        """One message arrived now."""
        self.watcher.feed(message, now=self._loop.time())
        self._arm()

    def close(self, reason: str) -> None:
        """End the watch."""
        self.watcher.close(reason)
        self._disarm()

    def _arm(self) -> None:
        deadline = self.watcher.deadline
        if deadline is None:
            self._disarm()
        elif self._timer is None or self._timer.when() > deadline:
            self._disarm()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self.watcher.tick(now=self._loop.time())
        self._arm()
