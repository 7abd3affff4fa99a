"""When a publisher holds on, when it races, when it gives up: the reconnect machine.

Laws
----
1. A connection that stalls is **held**, never dropped, until a new TCP connection is up. Dropped into a black hole,
   its RST is lost, the server keeps a stale publisher and refuses the newcomer ("Already publishing") long after the
   path healed; held and then reset over the healed path, it was never refused (measured, 34 of 34 runs).
2. While it is held, a fresh connect starts every 0.25 s and earlier ones stay open for 3 s: a SYN lost in the hole is
   repeated only after 1 s, and a round trip may take longer than 0.25 s. The first to be established wins.
3. If the held connection delivers first, it stays, and the attempts are dropped: nothing was lost.
4. At most one connection publishes. The old one is reset before the new one begins.
5. Media on a new connection begin with an IDR: RequestKeyframe comes before UseConnection.
6. Only a *no* (connection refused, publish refused, accepted and closed at once) is answered with back-off. Silence
   is answered by the race.
7. Refused credentials, or a name that does not exist, end it at once: asking again cannot help. Anything else is
   tried again until ``give_up_after`` seconds have passed without a proven connection; then there is one final event.
8. The count of attempts (and the back-off) starts anew only after 5 s of acknowledged media, so that what telemetry
   counts is true, and a server that accepts and drops is not asked in a tight loop.
9. ``stopped`` and ``failed`` are told only in final states; while it reconnects the status is ``reconnecting``.
10. A callback of a connection that is not ours any more changes nothing.

The machine holds one **main** connection (the one that publishes, is about to, or is held) and any number of
**attempts** (connects under way). States:

========== ==================================================== =========================================
state      what it means                                        ends by itself
========== ==================================================== =========================================
CONNECTING no main, attempts under way                          at give_up_after
WAITING    no main, no attempt; the next one at a known time    then
PUBLISHING main: TCP is up, RTMP handshake and publish pending  at publish_limit (5 s)
PROVING    main: publish started, media flow                    after 0.5 s; some servers say Start, then
                                                                close, so that an earlier end is a *no*
LIVE       main: as above, proven                               never
RACING     main is held (stalled), attempts under way           at give_up_after
========== ==================================================== =========================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect_events import (
    Action,
    CloseConnection,
    ConnectFailed,
    ConnectionLost,
    ConnectionUp,
    Event,
    Finish,
    FinishConnection,
    Ignore,
    OpenConnection,
    ProgressSeen,
    PublishRefused,
    PublishStarted,
    RequestKeyframe,
    ResetConnection,
    StallDetected,
    Start,
    StartPublish,
    Stop,
    Tell,
    Tick,
    UseConnection,
)


class State(Enum):
    """Where the machine is; the last three are final."""

    IDLE = "idle"
    CONNECTING = "connecting"
    WAITING = "waiting"
    PUBLISHING = "publishing"
    PROVING = "proving"
    LIVE = "live"
    RACING = "racing"
    STOPPED = "stopped"
    REFUSED = "refused"
    GAVE_UP = "gave_up"


FINAL = frozenset({State.STOPPED, State.REFUSED, State.GAVE_UP})

_SAID_NO = (State.WAITING, State.REFUSED)
"""After a refusal: back off, or end."""

TRANSITIONS: Mapping[State, Mapping[type, tuple[State, ...]]] = {
    State.IDLE: {
        Start: (State.CONNECTING,),
        Tick: (State.IDLE,),
        Stop: (State.STOPPED,),
    },
    State.CONNECTING: {
        ConnectionUp: (State.PUBLISHING,),
        ConnectFailed: (State.CONNECTING, State.WAITING, State.REFUSED),
        Tick: (State.CONNECTING, State.WAITING, State.GAVE_UP),
        Stop: (State.STOPPED,),
    },
    State.WAITING: {
        Tick: (State.WAITING, State.CONNECTING, State.GAVE_UP),
        Stop: (State.STOPPED,),
    },
    State.PUBLISHING: {
        PublishStarted: (State.PROVING,),
        PublishRefused: _SAID_NO,
        ConnectionLost: (State.WAITING,),
        StallDetected: (State.RACING,),
        ProgressSeen: (State.PUBLISHING,),
        Tick: (State.PUBLISHING, State.CONNECTING, State.GAVE_UP),
        Stop: (State.STOPPED,),
    },
    State.PROVING: {
        PublishRefused: _SAID_NO,
        ConnectionLost: (State.WAITING,),
        StallDetected: (State.RACING,),
        ProgressSeen: (State.PROVING,),
        Tick: (State.PROVING, State.LIVE, State.GAVE_UP),
        Stop: (State.STOPPED,),
    },
    State.LIVE: {
        PublishRefused: _SAID_NO,
        ConnectionLost: (State.CONNECTING,),
        StallDetected: (State.RACING,),
        ProgressSeen: (State.LIVE,),
        Tick: (State.LIVE,),
        Stop: (State.STOPPED,),
    },
    State.RACING: {
        ConnectionUp: (State.PUBLISHING,),
        ConnectFailed: (State.RACING,),
        ProgressSeen: (State.LIVE, State.PROVING, State.PUBLISHING),
        PublishStarted: (State.PROVING,),
        PublishRefused: _SAID_NO,
        ConnectionLost: (State.CONNECTING, State.WAITING),
        Tick: (State.RACING, State.CONNECTING, State.WAITING, State.GAVE_UP),
        Stop: (State.STOPPED,),
    },
}
"""For each state: what may happen in it, and where that may lead. Anything else is a mistake of the driver."""

FATAL_CODES = frozenset({"Unauthorized", "Denied", "Rejected", "InvalidApp", "InvalidKey", "BadKey", "AuthFailed"})
"""Last words of the RTMP codes that asking again cannot change. ``BadName`` is not among them: servers mean
"already publishing" by it, which ends when they notice that the old publisher is gone."""


class IllegalEventError(RuntimeError):
    """An event that cannot happen in this state; the machine is unchanged. A mistake of the driver, not of a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectSettings:
    """Limits in seconds."""

    attempt_every: float = 0.25
    connect_limit: float = 3.0
    publish_limit: float = 5.0
    proven_after: float = 0.5
    settled_after: float = 5.0
    give_up_after: float = 300.0


@dataclass(slots=True)
class _Connection:
    number: int
    opened_at: float
    up_at: float | None = None
    published_at: float | None = None
    flowing_since: float | None = None
    proven: bool = False

    def home(self) -> State:
        """The state that this connection is in while it is main and not stalled."""
        if self.published_at is None:
            return State.PUBLISHING
        return State.LIVE if self.proven else State.PROVING


class Reconnect:
    """Events and ``now`` in (seconds of one clock), actions out, in the order in which to do them."""

    def __init__(self, settings: ReconnectSettings, backoff: Backoff) -> None:
        self.settings = settings
        self.state = State.IDLE
        self.status = "idle"
        self.attempts = 0
        """Connects since the last settled connection."""
        self.reconnects = 0
        """Completed reconnects."""
        self._backoff = backoff
        self._main: _Connection | None = None
        self._attempts: dict[int, _Connection] = {}
        self._numbered = 0
        self._next_attempt_at: float | None = None
        self._down_since: float | None = None
        self._stalled_since = 0.0
        self._was_live = False
        self._out: list[Action] = []
        self._now = 0.0
        self._handlers: Mapping[type, Callable[[Any], State]] = {
            Start: self._on_start,
            Tick: self._on_tick,
            Stop: self._on_stop,
            ConnectionUp: self._on_up,
            ConnectFailed: self._on_connect_failed,
            PublishStarted: self._on_started,
            PublishRefused: self._on_refused,
            ConnectionLost: self._on_lost,
            StallDetected: self._on_stall,
            ProgressSeen: self._on_progress,
        }

    # --- what the driver calls ---------------------------------------------------------------------------------

    @property
    def main(self) -> int | None:
        """The connection that publishes, is about to, or is held."""
        return self._main.number if self._main else None

    @property
    def open_attempts(self) -> frozenset[int]:
        """Connects under way."""
        return frozenset(self._attempts)

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """What to do about ``event``; :class:`IllegalEventError` where it cannot happen (nothing is changed)."""
        if (stale := self._stale(event)) is not None:
            return [stale]
        allowed = TRANSITIONS.get(self.state, {}).get(type(event))
        if allowed is None:
            if self.state in FINAL:
                return []
            raise IllegalEventError(f"{event} cannot happen in state {self.state.name}")
        self._now, self._out = now, []
        state = self._handlers[type(event)](event)
        if state not in allowed:
            raise AssertionError(f"{event} led from {self.state.name} to {state.name}; the table does not say so")
        self.state = state
        return self._out

    def next_deadline(self) -> float | None:
        """When to send a Tick, if nothing happens before; None for never."""
        if self.state in FINAL or self.state is State.IDLE:
            return None
        expiries = [attempt.opened_at + self.settings.connect_limit for attempt in self._attempts.values()]
        deadlines = [*expiries, self._main_deadline(), self._next_attempt_at, self._give_up_at()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # --- events ------------------------------------------------------------------------------------------------

    def _on_start(self, _event: Start) -> State:
        self._down_since = self._now
        self._status("connecting", "started")
        return self._open()

    def _on_up(self, event: ConnectionUp) -> State:
        winner = self._attempts.pop(event.connection)
        if self._main is not None:
            self._do(ResetConnection(self._main.number, f"connection {winner.number} is up"))
        self._drop_attempts(f"connection {winner.number} is up")
        winner.up_at = self._now
        self._main = winner
        self._do(StartPublish(winner.number))
        return State.PUBLISHING

    def _on_connect_failed(self, event: ConnectFailed) -> State:
        del self._attempts[event.connection]
        if event.hopeless and self._main is None:
            return self._end(State.REFUSED, event.reason)
        if event.refused:
            self._back_off()
        return self._between()

    def _on_started(self, event: PublishStarted) -> State:
        assert self._main is not None
        self._drop_attempts(f"connection {event.connection} publishes")
        self._main.published_at = self._main.flowing_since = self._now
        self._do(RequestKeyframe("reconnect" if self._was_live else "start"))
        self._do(UseConnection(event.connection))
        return State.PROVING

    def _on_refused(self, event: PublishRefused) -> State:
        reason = f"{event.code} {event.description}".strip()
        self._do(CloseConnection(event.connection, reason))
        self._main = None
        if event.code.rpartition(".")[2] in FATAL_CODES:
            return self._end(State.REFUSED, f"refused: {reason}")
        self._goes_down(reason, "server")
        self._drop_attempts("publish refused")
        self._back_off()
        return self._between()

    def _on_lost(self, event: ConnectionLost) -> State:
        was, self._main = self.state, None
        self._goes_down(event.reason, "socket error")
        if was is State.LIVE:
            return self._open()
        if was is not State.RACING:
            self._back_off()
        return self._between()

    def _on_stall(self, event: StallDetected) -> State:
        data = {"watchdog": event.watchdog, "age_ms": event.age * 1000, "setting": event.setting}
        self._tell("stall:detected", connection=event.connection, **data)
        self._stalled_since = self._now - event.age
        self._goes_down(f"no progress for {event.age:.2f} s", event.setting)
        self._open()
        return State.RACING

    def _on_progress(self, event: ProgressSeen) -> State:
        assert self._main is not None
        if self.state is not State.RACING:
            self._settle(self._main)
            return self.state
        self._drop_attempts("the held connection delivers")
        self._main.flowing_since = self._now
        self._comes_back(event)
        return self._main.home()

    def _on_stop(self, event: Stop) -> State:
        return self._end(State.STOPPED, event.reason)

    def _on_tick(self, _event: Tick) -> State:
        if _due(self._give_up_at(), self._now):
            return self._give_up()
        if self._main is not None and _due(self._main_deadline(), self._now):
            return self._main_is_due(self._main)
        self._expire_attempts()
        if _due(self._next_attempt_at, self._now):
            return self._open()
        return self._between()

    # --- parts of the answers ----------------------------------------------------------------------------------

    def _open(self) -> State:
        """Begin one more connect; the next is due a quarter of a second later."""
        self._numbered += 1
        self.attempts += 1
        self._attempts[self._numbered] = _Connection(self._numbered, self._now)
        self._next_attempt_at = self._now + self.settings.attempt_every
        self._do(OpenConnection(self._numbered, self.attempts))
        return self._between()

    def _between(self) -> State:
        """The state that main and attempts amount to, where no step forward was made."""
        if self._main is not None:
            return State.RACING if self._next_attempt_at is not None else self._main.home()
        return State.CONNECTING if self._attempts else State.WAITING

    def _back_off(self) -> None:
        delay = self._backoff.next_delay()
        self._next_attempt_at = self._now + delay
        self._tell("reconnect:scheduled", attempt=self.attempts + 1, delay_ms=delay * 1000)

    def _drop_attempts(self, reason: str) -> None:
        for number in self._attempts:
            self._do(CloseConnection(number, reason))
        self._attempts.clear()
        self._next_attempt_at = None

    def _expire_attempts(self) -> None:
        limit = self.settings.connect_limit
        for attempt in [a for a in self._attempts.values() if _due(a.opened_at + limit, self._now)]:
            del self._attempts[attempt.number]
            self._do(CloseConnection(attempt.number, f"no answer within connect_limit={limit:g} s"))

    def _main_deadline(self) -> float | None:
        """When main must have got further: published, or stayed open long enough to be believed."""
        if self._main is None or self._main.proven or self._main.up_at is None:
            return None
        if self._main.published_at is None:
            return self._main.up_at + self.settings.publish_limit
        if self._main.flowing_since is None or self.state is State.RACING:
            return None
        return self._main.flowing_since + self.settings.proven_after

    def _main_is_due(self, main: _Connection) -> State:
        if main.published_at is not None:
            return self._proven(main)
        self._do(ResetConnection(main.number, f"no answer within publish_limit={self.settings.publish_limit:g} s"))
        self._main = None
        return self._open() if self._next_attempt_at is None else self._between()

    def _proven(self, main: _Connection) -> State:
        main.proven = True
        if self._was_live:
            self._completed(main)
        self._was_live = True
        self._down_since = None
        self._status("live", f"connection {main.number} publishes")
        return State.LIVE

    def _completed(self, main: _Connection) -> None:
        assert main.published_at is not None and self._down_since is not None
        self.reconnects += 1
        took = (main.published_at - self._down_since) * 1000
        data = {"reconnect": self.reconnects, "attempts": self.attempts, "took_ms": took}
        self._tell("reconnect:completed", connection=main.number, **data)

    def _settle(self, main: _Connection) -> None:
        """Five seconds of acknowledged media: what failed before is over."""
        if not main.proven or main.flowing_since is None:
            return
        if self._now - main.flowing_since >= self.settings.settled_after:
            self.attempts = 0
            self._backoff.reset()

    def _goes_down(self, reason: str, setting: str) -> None:
        """The live connection is in doubt or gone: from here the give-up time runs."""
        if self._down_since is None:
            self._down_since = self._now
            self._tell("reconnect:started", reason=reason, setting=setting)
            self._status("reconnecting", reason)

    def _comes_back(self, event: ProgressSeen) -> None:
        assert self._main is not None
        age = (self._now - self._stalled_since) * 1000
        self._tell("stall:cleared", connection=event.connection, age_ms=age, by=event.by)
        if self._main.proven:
            self._down_since = None
            self._tell("reconnect:abandoned", reason="the held connection delivers")
            self._status("live", f"connection {event.connection} delivers again")

    def _give_up_at(self) -> float | None:
        return None if self._down_since is None else self._down_since + self.settings.give_up_after

    def _give_up(self) -> State:
        assert self._down_since is not None
        setting = f"--give-up-after {self.settings.give_up_after:g} s"
        after = (self._now - self._down_since) * 1000
        self._tell("reconnect:gave_up", attempts=self.attempts, after_ms=after, setting=setting)
        return self._end(State.GAVE_UP, f"gave up: {setting}")

    def _end(self, state: State, reason: str) -> State:
        """Let go of everything, tell the final status, end the program."""
        self._drop_attempts(reason)
        if self._main is not None:
            goodbye = self._main.published_at is not None
            number = self._main.number
            self._do(FinishConnection(number) if goodbye else CloseConnection(number, reason))
        self._main = None
        failed = state is not State.STOPPED
        self._status("failed" if failed else "stopped", reason)
        self._do(Finish(reason, failed))
        return state

    # --- small change ------------------------------------------------------------------------------------------

    def _stale(self, event: Event) -> Ignore | None:
        number = getattr(event, "connection", None)
        if number is None:
            return None
        ours = number in self._attempts if isinstance(event, (ConnectionUp, ConnectFailed)) else number == self.main
        return None if ours else Ignore(number, f"{type(event).__name__} of a connection that is not ours any more")

    def _status(self, status: str, reason: str) -> None:
        if status != self.status:
            self.status = status
            self._tell("status:changed", status=status, reason=reason)

    def _tell(self, name: str, **data: Any) -> None:
        self._do(Tell(name, data))

    def _do(self, action: Action) -> None:
        self._out.append(action)


def _due(deadline: float | None, now: float) -> bool:
    """Whether a timer for ``deadline`` has run; a timer may come a microsecond early in floating point."""
    return deadline is not None and now >= deadline - 1e-6
