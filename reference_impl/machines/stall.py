"""Watchdogs: is this connection still moving what we give it?

TCP does not tell. In a black hole a default connection reports nothing for 939 s (measured, Linux 6.18); until then
somebody has to look at its counters. Both watchdogs here are fed with :class:`Look` (counters and ``now``) and share
one law: **the age is the time since progress was last seen while something was waiting**; at ``limit`` it is a stall.

* :class:`AckProgress` asks the receiver's kernel: acknowledged bytes unchanged while bytes are outstanding. It
  detects a black hole in 1.0 s plus at most one poll, whatever the send buffer's size.
* :class:`BytesAccepted` asks only our own kernel: nothing accepted while data wait. It notices a black hole only when
  the send buffer is full: 0.2 s to 31 s later (measured: 0.5 Mbit/s with SO_SNDBUF 256k 9.7-10.3 s). It exists
  because this is what applications without access to TCP_INFO do (MentraOS: 1 s, looked at every 500 ms).

**Phase.** Counters are looked at every ``poll`` seconds, so the age starts at the first look that saw the last
progress: between 0 and one poll after it happened. The look that must decide is not left to the grid, it is asked
for exactly (:meth:`Watchdog.next_deadline`). A fault is therefore detected ``limit`` to ``limit + poll`` after the
last progress, spread evenly over the fault's phase; a pure grid would make it ``limit`` to ``limit + 2 * poll``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

_TOLERANCE = 1e-6
"""Seconds by which a timer may come early in floating-point arithmetic and still decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A connection's counters at one moment; bytes count from the connection's start."""

    accepted_bytes: int
    """Taken from us by the kernel."""
    waiting_bytes: int
    """Not yet taken by the kernel: our own queue and the transport's buffer."""
    acked_bytes: int
    """Acknowledged by the peer's kernel (``tcpi_bytes_acked``)."""
    outstanding_bytes: int
    """In the kernel and not acknowledged, **unsent ones included** (SIOCOUTQ). ``tcpi_unacked`` would be 0 behind
    a zero window, so that a peer that stopped reading would look idle for ever."""
    srtt: float
    """Smoothed round-trip time in seconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a watchdog makes of the latest look."""

    stalled: bool
    age: float
    """Seconds without progress while something waited; 0 when nothing waits."""
    limit: float
    """The age in seconds at which it is a stall, with the round-trip time of the look."""


class Watchdog(Protocol):
    """Looks at one connection after the other; :meth:`restart` when the connection changes."""

    @property
    def name(self) -> str:
        """As telemetry gives it: ``ack_progress`` or ``bytes_accepted``."""

    def restart(self, *, now: float) -> None:
        """A new connection: forget what was seen."""

    def observe(self, look: Look, *, now: float) -> Verdict:
        """Judge the counters of this moment."""

    def next_deadline(self) -> float:
        """When the next look is due."""

    def setting(self) -> str:
        """The knob that decides, with its value: ``"--stall-after 1 s"``."""


class _ProgressWatchdog:
    """The shared law; subclasses say what counts as progress, what waits, and how old is too old."""

    name: ClassVar[str]

    def __init__(self, *, stall_after: float = 1.0, poll: float) -> None:
        if stall_after <= 0 or poll <= 0:
            raise ValueError(f"a watchdog needs stall_after > 0 and poll > 0, not {stall_after=} {poll=}")
        self.stall_after = stall_after
        self.poll = poll
        self.restart(now=0.0)

    def restart(self, *, now: float) -> None:
        """A new connection: forget what was seen."""
        self._progress: int | None = None
        self._since = now
        self._deadline = now

    def observe(self, look: Look, *, now: float) -> Verdict:
        """Judge the counters of this moment."""
        progress, waiting, limit = self._progress_of(look), self._waiting_of(look), self._limit(look)
        if progress != self._progress or waiting == 0:
            self._since = now
        self._progress = progress
        age = now - self._since
        stalled = age >= limit - _TOLERANCE
        self._deadline = now + self.poll if stalled else min(now + self.poll, self._since + limit)
        return Verdict(stalled, age, limit)

    def next_deadline(self) -> float:
        """When the next look is due."""
        return self._deadline

    def setting(self) -> str:
        """The knob that decides, with its value."""
        return f"--watchdog {self.name} --stall-after {self.stall_after:g} s --poll {self.poll * 1000:g} ms"

    def _limit(self, look: Look) -> float:
        return self.stall_after

    def _progress_of(self, look: Look) -> int:
        raise NotImplementedError

    def _waiting_of(self, look: Look) -> int:
        raise NotImplementedError


class AckProgress(_ProgressWatchdog):
    """No byte acknowledged for ``max(stall_after, 4 * srtt + 0.5 s)`` while bytes are outstanding.

    The round-trip term keeps long paths (satellite, bufferbloat) from looking dead between two acknowledgements.
    """

    name = "ack_progress"

    def __init__(self, *, stall_after: float = 1.0, poll: float = 0.1) -> None:
        super().__init__(stall_after=stall_after, poll=poll)

    def _limit(self, look: Look) -> float:
        return max(self.stall_after, 4 * look.srtt + 0.5)

    def _progress_of(self, look: Look) -> int:
        return look.acked_bytes

    def _waiting_of(self, look: Look) -> int:
        return look.outstanding_bytes


class BytesAccepted(_ProgressWatchdog):
    """No byte accepted by the socket for ``stall_after`` while data wait for it."""

    name = "bytes_accepted"

    def __init__(self, *, stall_after: float = 1.0, poll: float = 0.5) -> None:
        super().__init__(stall_after=stall_after, poll=poll)

    def _progress_of(self, look: Look) -> int:
        return look.accepted_bytes

    def _waiting_of(self, look: Look) -> int:
        return look.waiting_bytes
