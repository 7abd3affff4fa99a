"""Supervision of one egress: the worker process that pushes one session to one destination.

Laws:

1. A worker runs only while the session has been live and has not ended, and never two at once: a new one is launched
   only when the old one's exit has been seen (go-livepeer overlapped two pushers on one URL for up to 5 s).
2. Each run of a worker is asked to stop at most once, never before the session was live, and not by the gateway when
   the user has stopped it already: a user's stop cancels every stop that would have followed by itself (pairux #23
   stopped twice, and stopped on mount).
3. A stop is bounded: asked, then SIGTERM, then SIGKILL, each after its own time. Nothing waits for ever.
4. A worker that failed at its destination is not started again by itself; one that died of something else is, with
   back-off, inside ``restart_window``.

Sans-IO: inputs carry ``now`` in seconds, answers are actions, :meth:`EgressSupervisor.next_deadline` says when
:meth:`EgressSupervisor.tick` is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

SourceLost = Literal["stop", "hold"]


class WorkerState(Enum):
    """Where the worker process of an egress stands."""

    ABSENT = "absent"
    RUNNING = "running"
    ASKED = "asked to stop"
    TERMINATED = "sent SIGTERM"
    KILLED = "sent SIGKILL"


class Trigger(Enum):
    """What moves it."""

    LAUNCH = "launched"
    STOP = "stopped"
    OVERDUE = "overdue"
    EXIT = "exited"


TRANSITIONS: Mapping[WorkerState, Mapping[Trigger, WorkerState]] = {
    WorkerState.ABSENT: {Trigger.LAUNCH: WorkerState.RUNNING},
    WorkerState.RUNNING: {Trigger.STOP: WorkerState.ASKED, Trigger.EXIT: WorkerState.ABSENT},
    WorkerState.ASKED: {Trigger.OVERDUE: WorkerState.TERMINATED, Trigger.EXIT: WorkerState.ABSENT},
    WorkerState.TERMINATED: {Trigger.OVERDUE: WorkerState.KILLED, Trigger.EXIT: WorkerState.ABSENT},
    WorkerState.KILLED: {Trigger.EXIT: WorkerState.ABSENT},
}


class IllegalTransitionError(RuntimeError):
    """An input that the worker's state does not allow; the state is unchanged."""


class Exit(Enum):
    """How a worker process ended."""

    COMPLETE = "complete"
    """It finished in order."""
    FAILED = "failed"
    """It gave its destination up and said so."""
    DIED = "died"
    """Anything else: a signal, an exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressSettings:
    """The knobs of one egress; times in seconds."""

    source_lost: SourceLost = "hold"
    """While the publisher is away: end the push, or keep its connection without media until the window ends."""
    ask_for: float = 2.0
    """How long a worker has to end in order before SIGTERM."""
    terminate_for: float = 3.0
    """How long after SIGTERM before SIGKILL; with ``ask_for`` the 5 s of LiveKit and go-livepeer #3551."""
    restart_first: float = 0.5
    restart_cap: float = 5.0
    restart_window: float = 30.0
    """A worker that keeps dying is given up this long after the first death."""

    def __post_init__(self) -> None:
        if self.source_lost not in ("stop", "hold"):
            raise ValueError(f"source_lost is {self.source_lost!r}; it may be stop or hold")
        for name in ("ask_for", "terminate_for", "restart_first", "restart_cap", "restart_window"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g} s; it must be more than 0")


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a worker; ``run`` numbers the workers of this egress from 1."""

    run: int


@dataclass(frozen=True, slots=True)
class AskStop:
    """Tell the worker to end in order."""

    reason: str
    setting: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A run is over: why, how its process ended, and how long the stop took (0 where nobody asked for it)."""

    run: int
    reason: str
    exit: Exit
    took_s: float


@dataclass(frozen=True, slots=True)
class Restarting:
    """A worker died; the next one is launched after ``delay_s``."""

    attempt: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class GaveUp:
    """No worker will be launched for this egress any more, unless the user starts it."""

    reason: str
    setting: str


Action = Launch | AskStop | Terminate | Kill | Stopped | Restarting | GaveUp


class EgressSupervisor:
    """One destination of one session; see the module's text for its laws."""

    def __init__(self, settings: EgressSettings) -> None:
        self.settings = settings
        self.state = WorkerState.ABSENT
        self.run = 0
        """The current or last run; 0 before the first."""
        self._source_here = False
        self._session_over = False
        self._given_up = False
        self._stop_reason = ""
        self._asked_at = 0.0
        self._deadline: float | None = None
        self._launched_at = 0.0
        self._deaths = 0
        self._first_death = 0.0

    @property
    def finished(self) -> bool:
        """The session is over and no worker is left: nothing will happen any more."""
        return self._session_over and self.state is WorkerState.ABSENT

    # --- inputs ----------------------------------------------------------------------------------------------------

    def source_live(self, *, now: float) -> list[Action]:
        """The session has a publisher (again)."""
        self._source_here = True
        return self._launch_if_wanted(now=now)

    def source_lost(self, *, now: float) -> list[Action]:
        """The session's publisher is away; it may come back."""
        self._source_here = False
        if self.settings.source_lost == "hold":
            return []
        return self._stop("source lost", "source_lost=stop", now=now)

    def session_ended(self, *, reason: str, setting: str = "", now: float) -> list[Action]:
        """The session is over for good."""
        self._source_here = False
        self._session_over = True
        return self._stop(reason, setting, now=now)

    def user_stop(self, *, now: float) -> list[Action]:
        """A person wants this output to end; it stays ended until :meth:`user_start`."""
        self._given_up = True
        return self._stop("user", "", now=now)

    def user_start(self, *, now: float) -> list[Action]:
        """A person wants this output (again): forget failures and stops."""
        self._given_up = False
        self._deaths = 0
        return self._launch_if_wanted(now=now)

    def exited(self, how: Exit, *, now: float) -> list[Action]:
        """The worker process is gone and has been waited for."""
        asked = self.state is not WorkerState.RUNNING
        self._move(Trigger.EXIT)
        self._deadline = None
        if asked:
            stopped = Stopped(self.run, self._stop_reason, how, now - self._asked_at)
            return [stopped, *self._launch_if_wanted(now=now)]
        return [Stopped(self.run, f"worker {how.value}", how, 0.0), *self._after_own_exit(how, now=now)]

    def tick(self, *, now: float) -> list[Action]:
        """Do what has become due."""
        if self._deadline is None or now < self._deadline:
            return []
        self._deadline = None
        if self.state is WorkerState.ABSENT:
            return self._launch_if_wanted(now=now)
        self._move(Trigger.OVERDUE)
        if self.state is WorkerState.KILLED:
            return [Kill()]
        self._deadline = now + self.settings.terminate_for
        return [Terminate()]

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is due next; ``None`` while nothing can become due."""
        return self._deadline

    # --- inside ----------------------------------------------------------------------------------------------------

    def _move(self, trigger: Trigger) -> None:
        target = TRANSITIONS[self.state].get(trigger)
        if target is None:
            raise IllegalTransitionError(f"an egress worker that is {self.state.value} cannot be {trigger.value}")
        self.state = target

    def _wanted(self) -> bool:
        held = self.settings.source_lost == "hold" and self.run > 0
        return (self._source_here or held) and not self._session_over and not self._given_up

    def _launch_if_wanted(self, *, now: float) -> list[Action]:
        waiting_to_restart = self._deadline is not None and now < self._deadline
        if self.state is not WorkerState.ABSENT or not self._wanted() or waiting_to_restart:
            return []
        self._move(Trigger.LAUNCH)
        self._deadline = None
        self.run += 1
        self._launched_at = now
        return [Launch(self.run)]

    def _stop(self, reason: str, setting: str, *, now: float) -> list[Action]:
        if self.state is WorkerState.ABSENT:
            self._deadline = None
        if self.state is not WorkerState.RUNNING:
            return []
        self._move(Trigger.STOP)
        self._stop_reason = reason
        self._asked_at = now
        self._deadline = now + self.settings.ask_for
        return [AskStop(reason, setting)]

    def _after_own_exit(self, how: Exit, *, now: float) -> list[Action]:
        if how is Exit.FAILED:
            self._given_up = True
            return [GaveUp("the destination failed", "")]
        if now - self._launched_at >= self.settings.restart_window:
            self._deaths = 0
        if self._deaths == 0:
            self._first_death = now
        self._deaths += 1
        if now - self._first_death >= self.settings.restart_window:
            self._given_up = True
            window = f"restart_window={self.settings.restart_window:g}s"
            return [GaveUp(f"its worker died {self._deaths} times", window)]
        delay = min(self.settings.restart_cap, self.settings.restart_first * 2.0 ** (self._deaths - 1))
        self._deadline = now + delay
        return [Restarting(self._deaths, delay)]
