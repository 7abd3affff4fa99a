"""One push to one destination, as its worker sees it: states, stalls, retries.

Laws:

1. The state is never ACTIVE while no byte moves: it needs acknowledged bytes to become ACTIVE, goes to HOLDING when
   the source is away, and to RECONNECTING when the destination has not acknowledged ``progress_bytes`` for
   ``stall_after`` although something was waiting (MiBeeNvr #429 was "streaming" at 0 kbit/s for nine hours).
2. A destination that refuses the publish before anything ever went through has a bad key: FAILED at once, no retry.
   The same for a URL whose host does not exist. After progress a refusal is usually our own ghost, and retried.
3. Everything else is retried with back-off until ``retry_window`` has passed since the last progress; then FAILED.
   A stall has used up its part of the window when it is noticed, so a wedged destination fails after 30 s, not 60
   (LiveKit egress #1244).
4. COMPLETE, FAILED and ABORTED are final; a stop in any state reaches one of them within ``finish_within``.

Sans-IO like its neighbours; the names of the states are LiveKit's, plus RECONNECTING and HOLDING.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class PushState(Enum):
    """Told as ``egress:state_changed``."""

    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    HOLDING = "HOLDING"
    """Connected, and the source sends nothing."""
    RECONNECTING = "RECONNECTING"
    ENDING = "ENDING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    """Stopped before it was ever active."""


_FINAL = (PushState.COMPLETE, PushState.FAILED, PushState.ABORTED)

TRANSITIONS: Mapping[PushState, frozenset[PushState]] = {
    PushState.STARTING: frozenset({PushState.ACTIVE, PushState.HOLDING, PushState.ENDING, PushState.FAILED}),
    PushState.ACTIVE: frozenset({PushState.HOLDING, PushState.RECONNECTING, PushState.ENDING, PushState.FAILED}),
    PushState.HOLDING: frozenset({PushState.ACTIVE, PushState.RECONNECTING, PushState.ENDING, PushState.FAILED}),
    PushState.RECONNECTING: frozenset({PushState.ACTIVE, PushState.HOLDING, PushState.ENDING, PushState.FAILED}),
    PushState.ENDING: frozenset({PushState.COMPLETE, PushState.ABORTED}),
    PushState.COMPLETE: frozenset(),
    PushState.FAILED: frozenset(),
    PushState.ABORTED: frozenset(),
}


class IllegalTransitionError(RuntimeError):
    """A change of state that the table does not allow; the state is unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """The knobs of a push; times in seconds."""

    connect_within: float = 5.0
    """For TCP connect, handshake and publish together."""
    retry_first: float = 0.5
    retry_cap: float = 5.0
    retry_window: float = 30.0
    """LiveKit ``livenessIdleTimeout``."""
    progress_bytes: int = 4096
    stall_after: float = 10.0
    """Without this much progress while bytes wait, the connection is given up (catalogue C21)."""
    hold_after: float = 2.0
    """Silence of the source after which the push counts as holding."""
    finish_within: float = 1.0

    def __post_init__(self) -> None:
        for name, value in self._times().items():
            if value <= 0:
                raise ValueError(f"{name} is {value:g}; it must be more than 0")

    def _times(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a new connection and publish on it; ``attempt`` counts from 1 since the last progress."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Reset the current connection, whatever its state; its later events are not wanted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """End the push in order: FCUnpublish, deleteStream, close."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The state is another one now."""

    state: PushState
    reason: str
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Retrying:
    """The next attempt starts after ``delay_s``."""

    attempt: int
    delay_s: float


Action = Connect | Disconnect | Finish | Changed | Retrying


class PushMachine:
    """One push; see the module's text for its laws."""

    def __init__(self, settings: PushSettings) -> None:
        self.settings = settings
        self.state = PushState.STARTING
        self.publishing = False
        """The destination has accepted the current connection's publish."""
        self._connecting = False
        self._ever_progressed = False
        self._ever_active = False
        self._attempt = 0
        self._deadline: float | None = None
        self._progress_at = 0.0
        self._mark = 0
        self._base = 0
        self._fed_at: float | None = None
        self._moved = False
        self._idle = True

    @property
    def final(self) -> bool:
        """Nothing will happen any more."""
        return self.state in _FINAL

    # --- inputs ----------------------------------------------------------------------------------------------------

    def begin(self, *, now: float) -> list[Action]:
        """Start pushing."""
        self._progress_at = now
        return self._connect(now=now)

    def published(self, *, acked_bytes: int, now: float) -> list[Action]:
        """The destination accepted the publish."""
        if not self._connecting:
            return []
        self._connecting, self.publishing = False, True
        self._base = self._mark = acked_bytes
        self._moved = False
        self._deadline = None
        return self._hold_if_silent(now=now)

    def refused(self, *, code: str, description: str, now: float) -> list[Action]:
        """The destination refused the connection or the publish."""
        why = f"{code}: {description}" if description else code
        if self._never_worked():
            return self._fail(f"refused, {why}")
        return self._broken(why, now=now)

    def unreachable(self, *, reason: str, now: float) -> list[Action]:
        """The host's name does not exist: no connection was even tried."""
        if self._never_worked():
            return self._fail(reason)
        return self._broken(reason, now=now)

    def lost(self, *, reason: str, now: float) -> list[Action]:
        """The connection (or the attempt) is gone."""
        if self.state is PushState.ENDING:
            return self._ended("closed")
        return self._broken(reason, now=now)

    def fed(self, *, now: float) -> None:
        """The source delivered media."""
        self._fed_at = now

    def sampled(self, *, acked_bytes: int, waiting_bytes: int, now: float) -> list[Action]:
        """How far the current connection is: ``waiting_bytes`` are not acknowledged yet, in any buffer of ours."""
        if not self.publishing or self.state is PushState.ENDING or self.final:
            return []
        # Progress can be missed only from the moment that something waits.
        was_idle, self._idle = self._idle, waiting_bytes == 0
        if was_idle:
            self._progress_at = now
        progressed = acked_bytes - self._mark >= self.settings.progress_bytes
        if progressed or waiting_bytes == 0:
            self._moved = self._moved or progressed or (acked_bytes > self._mark)
            self._mark, self._progress_at = acked_bytes, now
        if now - self._progress_at >= self.settings.stall_after:
            setting = f"stall_after={self.settings.stall_after:g}s"
            return self._broken(f"no {self.settings.progress_bytes} bytes of progress", setting=setting, now=now)
        if acked_bytes - self._base >= self.settings.progress_bytes:
            self._ever_progressed, self._attempt = True, 0
        return self._activity(now=now)

    def stop(self, *, reason: str, now: float) -> list[Action]:
        """End in order; a second stop changes nothing."""
        if self.final or self.state is PushState.ENDING:
            return []
        actions: list[Action] = [self._change(PushState.ENDING, reason)]
        if not self.publishing:
            drop: list[Action] = [Disconnect(reason)] if self._connecting else []
            return [*actions, *drop, *self._ended("was not connected")]
        self._deadline = now + self.settings.finish_within
        return [*actions, Finish()]

    def tick(self, *, now: float) -> list[Action]:
        """Do what has become due."""
        if self._deadline is None or now < self._deadline or self.final:
            return []
        self._deadline = None
        if self.state is PushState.ENDING:
            return [Disconnect("not closed in time"), *self._ended(f"finish_within={self.settings.finish_within:g}s")]
        if self._connecting:
            return self._broken("no answer", setting=f"connect_within={self.settings.connect_within:g}s", now=now)
        return self._connect(now=now)

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is due next; ``None`` while nothing can become due."""
        return self._deadline

    # --- inside ----------------------------------------------------------------------------------------------------

    def _change(self, state: PushState, reason: str, setting: str = "") -> Changed:
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransitionError(f"a push that is {self.state.value} cannot become {state.value}")
        self.state = state
        return Changed(state, reason, setting)

    def _connect(self, *, now: float) -> list[Action]:
        self._connecting = True
        self._attempt += 1
        self._deadline = now + self.settings.connect_within
        return [Connect(self._attempt)]

    def _source_silent(self, *, now: float) -> bool:
        return self._fed_at is None or now - self._fed_at >= self.settings.hold_after

    def _hold_if_silent(self, *, now: float) -> list[Action]:
        if not self._source_silent(now=now) or self.state is PushState.HOLDING:
            return []
        return [
            self._change(PushState.HOLDING, "no media from the source", f"hold_after={self.settings.hold_after:g}s")
        ]

    def _activity(self, *, now: float) -> list[Action]:
        if self._source_silent(now=now):
            self._moved = False
            return self._hold_if_silent(now=now)
        if self._moved and self.state is not PushState.ACTIVE:
            self._ever_active = True
            return [self._change(PushState.ACTIVE, "the destination acknowledges media")]
        return []

    def _broken(self, reason: str, *, now: float, setting: str = "") -> list[Action]:
        if self.final or not (self._connecting or self.publishing):
            return []
        if self.state is PushState.ENDING:
            return [Disconnect(reason), *self._ended(reason)]
        self._connecting = self.publishing = False
        delay = min(self.settings.retry_cap, self.settings.retry_first * 2.0 ** max(0, self._attempt - 1))
        if now + delay - self._progress_at > self.settings.retry_window:
            return [Disconnect(reason), *self._fail(reason, f"retry_window={self.settings.retry_window:g}s")]
        self._deadline = now + delay
        actions: list[Action] = [Disconnect(reason)]
        if self.state in (PushState.ACTIVE, PushState.HOLDING):
            actions.append(self._change(PushState.RECONNECTING, reason, setting))
        return [*actions, Retrying(self._attempt + 1, delay)]

    def _never_worked(self) -> bool:
        return not self._ever_progressed and self.state is not PushState.ENDING

    def _fail(self, reason: str, setting: str = "") -> list[Action]:
        if self.final:
            return []
        self._deadline = None
        self._connecting = self.publishing = False
        return [self._change(PushState.FAILED, reason, setting)]

    def _ended(self, reason: str) -> list[Action]:
        self._deadline = None
        self._connecting = self.publishing = False
        return [self._change(PushState.COMPLETE if self._ever_active else PushState.ABORTED, reason)]
