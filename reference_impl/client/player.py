"""A viewer: plays one stream, watches what it gets, and tries again for as long as it runs.

A viewer joins before the stream begins and outlives it, so being refused, ended or cut off is never the end: each only
starts the next attempt, after a back-off that begins anew once media has come. Only one connection exists at a time;
what an older one still says is not listened to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reference_impl.machines.backoff import Backoff
from reference_impl.media.live_watch import LiveWatch
from reference_impl.media.watcher import MediaWatcher
from reference_impl.program import open_descriptors
from reference_impl.rtmp.endpoint import PlayConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry

LEAVE_WITHIN = 0.5
"""Seconds for an ordered goodbye."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerSettings:
    """Durations in seconds."""

    connect_within: float = 3.0
    """Limit for name, TCP connect and RTMP up to the start of the play, each attempt."""
    idle_limit: float = 90.0
    """A connection over which nothing has come for so long is given up: longer than a gateway's reconnect window."""


class Player:
    """One stream, over one connection after another."""

    def __init__(
        self,
        url: RtmpUrl,
        watcher: MediaWatcher,
        backoff: Backoff,
        telemetry: Telemetry,
        *,
        settings: PlayerSettings,
        connection: Callable[[RtmpUrl, Player], PlayConnection],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._url = url
        self._settings = settings
        self._telemetry = telemetry
        self._backoff = backoff
        self._make_connection = connection
        self._loop = loop
        self._watch = LiveWatch(watcher, loop=loop)
        self._connection: PlayConnection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._attempts = 0
        self._plays = 0
        self._heard = 0.0
        self._silent = True
        self._stopped = False
        self._left: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Make the first attempt."""
        self._timer = None
        self._attempts += 1
        self._attempt = self._loop.create_task(self._connect())
        self._attempt.add_done_callback(_surface)

    async def stop(self, reason: str) -> None:
        """Leave; idempotent."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None and not self._attempt.done():
            self._attempt.cancel()
            self._connection = None
            await asyncio.gather(self._attempt, return_exceptions=True)
        self._watch.close(reason)
        await self._leave()

    async def _leave(self) -> None:
        """Take leave in order; after ``LEAVE_WITHIN`` without."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._left = self._loop.create_future()
        connection.finish()
        await asyncio.wait([self._left], timeout=LEAVE_WITHIN)
        if not self._left.done():
            connection.abort()

    def status(self) -> dict[str, Any]:
        """For the ``status`` verb."""
        return {"attempts": self._attempts, "plays": self._plays, **self._watch.watcher.status()}

    def ledger(self) -> dict[str, int]:
        """What the player holds, counted."""
        return {
            "sessions": 0,
            "connections": int(self._connection is not None),
            "viewers": 0,
            "egresses": 0,
            "workers": 0,
            "tasks": len(asyncio.all_tasks()),
            "descriptors": open_descriptors(),
        }

    # --- one attempt -------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        connection = self._connection = self._make_connection(self._url, self)
        try:
            async with asyncio.timeout(self._settings.connect_within):
                await self._loop.create_connection(lambda: connection, self._url.host, self._url.port)
        except OSError as error:
            self._connection = None
            self._retry(f"no connection: {error or 'no answer within connect_within'}")
            return
        if self._connection is not connection:
            return
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._settings.connect_within, self._not_started)
        connection.start()

    def _not_started(self) -> None:
        self._give_up(f"no play within connect_within={self._settings.connect_within:g} s")

    def _check_idle(self) -> None:
        due = self._heard + self._settings.idle_limit
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._check_idle)
        else:
            self._give_up(f"nothing came for idle_limit={self._settings.idle_limit:g} s")

    def _give_up(self, reason: str) -> None:
        """Leave the connection and make the next attempt."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._retry(reason)

    def _retry(self, reason: str) -> None:
        if self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        delay = self._backoff.next_delay()
        self._telemetry.tell("play:retried", attempt=self._attempts + 1, delay_ms=round(delay * 1000, 3), reason=reason)
        self._timer = self._loop.call_later(delay, self.start)

    # --- what the connection tells -----------------------------------------------------------------------------

    def play_started(self, connection: PlayConnection) -> None:
        """The server plays the stream."""
        if connection is not self._connection or self._timer is None:
            return
        self._plays += 1
        self._silent = True
        self._timer.cancel()
        self._timer = self._loop.call_later(self._settings.idle_limit, self._check_idle)
        self._telemetry.tell("play:started", stream=f"{self._url.app}/{self._url.name}")
        self._watch.watcher.connection_started()

    def media(self, connection: PlayConnection, message: MediaMessage) -> None:
        """Audio, video or metadata."""
        if connection is self._connection:
            self._heard = self._loop.time()
            if self._silent:
                self._silent = False
                self._backoff.reset()
            self._watch.feed(message)

    def play_refused(self, connection: PlayConnection, code: str) -> None:
        """The server does not play the stream, for example because it has not begun."""
        if connection is self._connection:
            self._telemetry.tell("play:refused", stream=f"{self._url.app}/{self._url.name}", code=code)
            self._give_up(f"refused: {code}")

    def play_ended(self, connection: PlayConnection, code: str) -> None:
        """The server ended the stream."""
        if connection is self._connection:
            self._give_up(f"ended: {code}")

    def connection_lost(self, connection: PlayConnection, exc: Exception | None) -> None:
        """The connection is gone."""
        if connection is self._connection:
            self._connection = None
            self._retry(f"connection lost: {exc}" if exc is not None else "connection closed by the server")
        elif self._left is not None and not self._left.done():
            self._left.set_result(None)


def _surface(task: asyncio.Task[None]) -> None:
    """Bring a defect to the loop's exception handler at once."""
    if not task.cancelled():
        task.result()
