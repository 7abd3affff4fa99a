"""A watcher on an event loop: messages in, ticks by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reference_impl.media.album import Album
from reference_impl.media.decode import Decoder
from reference_impl.media.watcher import MediaWatcher, WatcherSettings
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import Telemetry


def decoding_watcher(telemetry: Telemetry, settings: WatcherSettings, pictures: Path | None) -> MediaWatcher:
    """What viewers and destinations use: a watcher that decodes, and saves pictures if it is told where."""
    album = Album(pictures, telemetry) if pictures is not None else None
    return MediaWatcher(telemetry, settings=settings, decoder=Decoder(), album=album)


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
