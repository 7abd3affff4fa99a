"""A platform that takes pushes: who may push, what happens when a key is taken, and what its audience sees.

Everything pushed to one key is one stream for its audience, over however many pushes: a freeze lasts from the last
picture of one push to the first of the next. How real platforms differ is a setting:

| setting | value | seen at |
|---|---|---|
| bad_key | close | most platforms: refused, then closed |
| | keep_open | nginx-rtmp: refused, the connection stays |
| same_key | refuse | nginx-rtmp: refused while the old push is alive, the connection stays |
| | refuse_and_close | refused, then closed |
| | take_over | MediaMTX with overridePublisher: the newcomer wins |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from reference_impl.media.live_watch import LiveWatch
from reference_impl.media.watcher import MediaWatcher
from reference_impl.program import open_descriptors
from reference_impl.rtmp.endpoint import ServerConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import Telemetry

BadKey = Literal["close", "keep_open"]
SameKey = Literal["refuse", "refuse_and_close", "take_over"]

_REFUSED = "NetStream.Publish.BadName"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformSettings:
    """What the platform accepts, and how it says no. Durations in seconds."""

    keys: frozenset[str] = frozenset()
    """``app/key`` of every push that is accepted; empty: all are."""
    bad_key: BadKey = "close"
    same_key: SameKey = "refuse"
    idle_limit: float | None = None
    """A push that has sent nothing for so long is ended, as nginx-rtmp's ``drop_idle_publisher``; None: never."""
    stall_after: float | None = None
    """Stop reading so long after the first push began: the sender finds a zero window."""


@dataclass(slots=True)
class Push:
    """An accepted push."""

    number: int
    key: str
    heard: float


class Platform:
    """Listens; one :class:`MediaWatcher` per key. It is the listener of all its connections."""

    def __init__(
        self,
        settings: PlatformSettings,
        telemetry: Telemetry,
        *,
        connection: Callable[[Platform], ServerConnection],
        watcher: Callable[[str], MediaWatcher],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._make_connection = connection
        self._make_watcher = watcher
        self._loop = loop
        self._connections: dict[ServerConnection, Push | None] = {}
        self._watches: dict[str, LiveWatch] = {}
        self._accepted = 0
        self._refused = 0
        self._stalled = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._server: asyncio.Server | None = None

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self, host: str | None, port: int) -> None:
        """Listen. Raises :class:`OSError` if the port is taken."""
        self._server = await self._loop.create_server(lambda: self._make_connection(self), host, port, backlog=64)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def stop(self, reason: str) -> None:
        """End all pushes and watches; idempotent."""
        if self._server is not None:
            self._server.close()
        for timer in self._timers:
            timer.cancel()
        for connection in list(self._connections):
            self._end(connection, f"the platform stops ({reason})")
            connection.abort()
        for watch in self._watches.values():
            watch.close(reason)
        await asyncio.sleep(0)

    def stall(self) -> None:
        """Stop reading from every connection; those that come later are not read either."""
        self._stalled = True
        for connection in self._connections:
            _pause(connection)

    def resume(self) -> None:
        """Read again."""
        self._stalled = False
        for connection in self._connections:
            connection.transport.resume_reading()

    def status(self) -> dict[str, Any]:
        """For the ``status`` verb."""
        pushes = [push for push in self._connections.values() if push is not None]
        return {
            "accepted": self._accepted,
            "refused": self._refused,
            "stalled": self._stalled,
            "pushes": [{"push": push.number, "stream": push.key} for push in pushes],
            "streams": {key: watch.watcher.status() for key, watch in self._watches.items()},
        }

    def ledger(self) -> dict[str, int]:
        """What the platform holds, counted; a push is a session."""
        return {
            "sessions": sum(push is not None for push in self._connections.values()),
            "connections": len(self._connections),
            "viewers": 0,
            "egresses": 0,
            "workers": 0,
            "tasks": len(asyncio.all_tasks()),
            "descriptors": open_descriptors(),
        }

    # --- what connections tell ---------------------------------------------------------------------------------

    def connected(self, connection: ServerConnection) -> None:
        """A TCP connection was accepted."""
        self._connections[connection] = None
        if self._stalled:
            _pause(connection)

    def publish_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        """Somebody wants to push."""
        key = f"{app}/{stream}"
        if self._settings.keys and key not in self._settings.keys:
            how = self._settings.bad_key
            self._refuse(connection, key, "unknown key", f"bad_key={how}", close=how == "close")
            return
        holder = self._holder(key)
        if holder is not None and holder is not connection:
            rule = self._settings.same_key
            if rule != "take_over":
                self._refuse(connection, key, "already publishing", f"same_key={rule}", close=rule != "refuse")
                return
            self._end(holder, "taken over")
            holder.abort()
        self._accept(connection, key)

    def media(self, connection: ServerConnection, message: MediaMessage) -> None:
        """A push delivered something."""
        push = self._connections.get(connection)
        if push is not None:
            push.heard = self._loop.time()
            self._watches[push.key].feed(message)

    def publish_ended(self, connection: ServerConnection, how: str) -> None:
        """A push ended in order."""
        self._end(connection, how)

    def play_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        """Its audience is elsewhere."""
        connection.refuse_play("NetStream.Play.StreamNotFound", f"{app}/{stream}: nothing is played from here")

    def connection_lost(self, connection: ServerConnection, exc: Exception | None) -> None:
        """A connection is gone."""
        self._end(connection, f"connection lost: {exc}" if exc is not None else "connection closed by the sender")
        self._connections.pop(connection, None)

    # --- inside ------------------------------------------------------------------------------------------------

    def _holder(self, key: str) -> ServerConnection | None:
        for connection, push in self._connections.items():
            if push is not None and push.key == key:
                return connection
        return None

    def _accept(self, connection: ServerConnection, key: str) -> None:
        self._accepted += 1
        push = Push(self._accepted, key, self._loop.time())
        self._connections[connection] = push
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = LiveWatch(self._make_watcher(key), loop=self._loop)
        watch.watcher.connection_started()
        connection.accept_publish()
        self._telemetry.tell("push:accepted", stream=key, peer=connection.peer, push=push.number)
        if self._settings.stall_after is not None and push.number == 1:
            self._after(self._settings.stall_after, self.stall)
        self._check_idle(connection, push)

    def _refuse(self, connection: ServerConnection, key: str, why: str, setting: str, *, close: bool) -> None:
        self._refused += 1
        self._telemetry.tell("push:refused", stream=key, peer=connection.peer, code=_REFUSED, setting=setting)
        connection.refuse_publish(_REFUSED, why, close=close)

    def _end(self, connection: ServerConnection, reason: str) -> None:
        push = self._connections.get(connection)
        if push is not None:
            self._connections[connection] = None
            self._telemetry.tell("push:ended", stream=push.key, push=push.number, reason=reason)

    def _check_idle(self, connection: ServerConnection, push: Push) -> None:
        limit = self._settings.idle_limit
        if limit is None or self._connections.get(connection) is not push:
            return
        left = push.heard + limit - self._loop.time()
        if left > 0:
            self._after(left, lambda: self._check_idle(connection, push))
        else:
            self._end(connection, f"nothing came for idle_limit={limit:g} s")
            connection.abort()

    def _after(self, delay: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(delay, fire)
        self._timers.add(timer)


def _pause(connection: ServerConnection) -> None:
    if not connection.transport.is_closing():
        connection.transport.pause_reading()
