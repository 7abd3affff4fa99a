"""An ingest session: one broadcast under one stream key, over any number of connections.

Laws:

1. A session opens with its first accepted publish and ends exactly once; the end names its reason and the setting
   that decided.
2. Each accepted publish is an *epoch*, numbered from 1. Media, closes and unpublishes of an epoch that is not the
   current one change nothing (go-livepeer #3503: a stale publish killed the fresh one with the same key).
3. A connection is never refused in favour of a dead one: a newcomer takes over at once when the old connection is
   closed, has been silent for ``takeover_silence``, or shows the same client token. Otherwise it is refused, so that
   two live encoders cannot evict each other for ever.
4. ``reconnect_window`` counts from the last media, not from the moment the loss was noticed: a black hole that only
   the idle timer finds does not get a longer grace than a clean close.

Nothing here reads a clock or a socket: every input carries ``now`` in seconds, every answer is a list of actions for
the program to carry out, and :meth:`SessionMachine.next_deadline` says when :meth:`SessionMachine.tick` is due.
Credentials are not this machine's business: who may publish at all is decided before it is asked.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

UnpublishEnds = Literal["immediate", "linger", "never"]


class SessionState(Enum):
    """Where a session stands."""

    NEW = "new"
    """No publish accepted yet."""
    LIVE = "live"
    """The current connection delivers media, or was accepted a moment ago."""
    STALLED = "stalled"
    """The socket is open and silent: a black hole, or an encoder that hangs."""
    AWAITING = "awaiting"
    """The connection is gone; the publisher may return within the window."""
    ENDED = "ended"


class Trigger(Enum):
    """What moves a session from one state to another."""

    PUBLISHED = "published"
    DELIVERED = "delivered"
    FELL_SILENT = "fell silent"
    LOST = "lost"
    FINISHED = "finished"


TRANSITIONS: Mapping[SessionState, Mapping[Trigger, SessionState]] = {
    SessionState.NEW: {
        Trigger.PUBLISHED: SessionState.LIVE,
        Trigger.FINISHED: SessionState.ENDED,
    },
    SessionState.LIVE: {
        Trigger.PUBLISHED: SessionState.LIVE,
        Trigger.DELIVERED: SessionState.LIVE,
        Trigger.FELL_SILENT: SessionState.STALLED,
        Trigger.LOST: SessionState.AWAITING,
        Trigger.FINISHED: SessionState.ENDED,
    },
    SessionState.STALLED: {
        Trigger.PUBLISHED: SessionState.LIVE,
        Trigger.DELIVERED: SessionState.LIVE,
        Trigger.LOST: SessionState.AWAITING,
        Trigger.FINISHED: SessionState.ENDED,
    },
    SessionState.AWAITING: {
        Trigger.PUBLISHED: SessionState.LIVE,
        Trigger.FINISHED: SessionState.ENDED,
    },
    SessionState.ENDED: {},
}


class IllegalTransitionError(RuntimeError):
    """An input that the session's state does not allow; the state is unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """The knobs of a session; all times in seconds. Raises :class:`ValueError` for a value that makes no sense."""

    reconnect_window: float = 60.0
    """How long after its last media a lost publisher may return: 0 (no grace) to 1800 (Mux, FastPix)."""
    stall_after: float = 2.0
    """Silence on an open socket after which the session counts as stalled."""
    idle_reap: float = 10.0
    """Silence on an open socket after which the connection is given up (MediaMTX readTimeout 10 s)."""
    takeover_silence: float = 1.0
    """Silence of the old connection after which any newcomer with the right key may take over."""
    unpublish_ends: UnpublishEnds = "immediate"
    """What an orderly unpublish means: some encoders send one before they reconnect (RootEncoder)."""
    linger: float = 5.0
    """The window after an unpublish with ``unpublish_ends="linger"``."""
    max_duration: float = 43200.0
    """Hard cap on one broadcast (Mux ``max_continuous_duration``)."""

    def __post_init__(self) -> None:
        if not 0 <= self.reconnect_window <= 1800:
            raise ValueError(f"reconnect_window is {self.reconnect_window:g} s; it may be 0 to 1800 s")
        for name in ("stall_after", "takeover_silence", "linger", "max_duration"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g} s; it must be more than 0")
        if self.idle_reap < self.stall_after:
            raise ValueError(
                f"idle_reap is {self.idle_reap:g} s, less than stall_after ({self.stall_after:g} s): "
                "a connection would be given up before it counts as stalled"
            )
        if self.unpublish_ends not in ("immediate", "linger", "never"):
            raise ValueError(f"unpublish_ends is {self.unpublish_ends!r}; it may be immediate, linger or never")


# --- what the program is asked to do or tell -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """The first publish was accepted: the session exists."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Answer the newcomer with success; its connection is this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer the newcomer with this status and let it go; nothing else changes."""

    code: str
    reason: str
    setting: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The newcomer replaced a connection that was still open; ``rule`` is ``token`` or ``silent``."""

    old_epoch: int
    new_epoch: int
    rule: str


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of this epoch's connection: nobody listens to it any more. ``orderly``: its peer is there to be told."""

    epoch: int
    reason: str
    orderly: bool = False


@dataclass(frozen=True, slots=True)
class Stalled:
    """An open connection has delivered nothing for ``silent_s``."""

    epoch: int
    silent_s: float
    setting: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stalled connection delivers again: nothing was lost, only late."""

    epoch: int
    silent_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone; the publisher may return within ``window_s`` from now."""

    epoch: int
    reason: str
    window_s: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """A later epoch delivered its first media, ``away_s`` after the last media before it."""

    epoch: int
    away_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; told exactly once."""

    reason: str
    setting: str


@dataclass(frozen=True, slots=True)
class Stale:
    """Something of an epoch that is not the current one was ignored; told once per epoch and kind."""

    epoch: int
    what: str


Action = Opened | Accepted | Refused | TakenOver | Release | Stalled | Recovered | Lost | Resumed | Ended | Stale


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a takeover rule may look at: the connection that is still open when a newcomer asks."""

    silent_s: float
    same_token: bool


TakeoverRule = Callable[[Incumbent, SessionSettings], str | None]
"""The name of the reason for which the newcomer may take over, or ``None`` to refuse it."""


def usual_takeover(incumbent: Incumbent, settings: SessionSettings) -> str | None:
    """The same client, or a connection that has been silent for ``takeover_silence``."""
    if incumbent.same_token:
        return "token"
    if incumbent.silent_s >= settings.takeover_silence:
        return "silent"
    return None


class SessionMachine:
    """One session; see the module's text for its laws."""

    def __init__(self, settings: SessionSettings, *, takeover: TakeoverRule = usual_takeover) -> None:
        self.settings = settings
        self.state = SessionState.NEW
        self.epoch = 0
        """The current epoch; 0 before the first publish."""
        self._takeover = takeover
        self._token = ""
        self._opened_at = 0.0
        # Silence counts from the last media, or from the acceptance of an epoch that has not delivered yet.
        self._silent_since = 0.0
        self._last_media: float | None = None
        self._delivered = False
        self._until = 0.0
        self._window_setting = ""
        self._stale_told: set[tuple[int, str]] = set()

    # --- inputs ----------------------------------------------------------------------------------------------------

    def publish(self, *, now: float, token: str = "") -> list[Action]:
        """A newcomer with the right credentials wants to publish; ``token`` identifies the client, if it gave one."""
        self._require(Trigger.PUBLISHED)
        if self.state is SessionState.NEW:
            self._opened_at = now
            return [Opened(), *self._accept(now=now, token=token)]
        if self.state is SessionState.AWAITING:
            return self._accept(now=now, token=token)
        rule = self._takeover(self._incumbent(token, now=now), self.settings)
        if rule is None:
            return [self._refusal(now=now)]
        old = self.epoch
        accepted = self._accept(now=now, token=token)
        return [Release(old, "taken over"), *accepted, TakenOver(old, self.epoch, rule)]

    def media(self, epoch: int, *, now: float) -> Sequence[Action]:
        """Audio or video of ``epoch`` arrived."""
        if epoch != self.epoch or self.state not in (SessionState.LIVE, SessionState.STALLED):
            return self._stale(epoch, "media")
        silent_since, self._silent_since = self._silent_since, now
        if self._delivered and self.state is SessionState.LIVE:
            self._last_media = now
            return ()
        return self._first_or_recovered(silent_since, now=now)

    def connection_closed(self, epoch: int, *, reason: str, now: float) -> Sequence[Action]:
        """The connection of ``epoch`` is gone: closed, reset, timed out."""
        if epoch != self.epoch or self.state not in (SessionState.LIVE, SessionState.STALLED):
            return self._stale(epoch, "close")
        return self._lose(reason, now=now)

    def unpublished(self, epoch: int, *, now: float) -> Sequence[Action]:
        """The publisher said that it ends (FCUnpublish or deleteStream)."""
        if epoch != self.epoch or self.state not in (SessionState.LIVE, SessionState.STALLED):
            return self._stale(epoch, "unpublish")
        ends = self.settings.unpublish_ends
        if ends == "immediate":
            return self._finish("unpublished", "unpublish_ends=immediate")
        if ends == "never":
            return self._lose("unpublished", now=now)
        return self._lose("unpublished", now=now, until=now + self.settings.linger, setting=self._named("linger"))

    def end(self, *, reason: str, setting: str = "") -> list[Action]:
        """End the session by decision from outside (an operator, the gateway's own stop); harmless when ended."""
        if self.state is SessionState.ENDED:
            return []
        actions: list[Action] = []
        if self.state in (SessionState.LIVE, SessionState.STALLED):
            actions.append(Release(self.epoch, reason, orderly=True))
        return [*actions, *self._finish(reason, setting)]

    def tick(self, *, now: float) -> list[Action]:
        """Do what has become due."""
        if self.state in (SessionState.NEW, SessionState.ENDED):
            return []
        if now >= self._opened_at + self.settings.max_duration:
            return self.end(reason="max duration reached", setting=self._named("max_duration"))
        if self.state is SessionState.AWAITING:
            return self._finish("publisher did not return", self._window_setting) if now >= self._until else []
        actions: list[Action] = []
        if self.state is SessionState.LIVE and now >= self._silent_since + self.settings.stall_after:
            self._move(Trigger.FELL_SILENT)
            actions.append(Stalled(self.epoch, now - self._silent_since, self._named("stall_after")))
        if self.state is SessionState.STALLED and now >= self._silent_since + self.settings.idle_reap:
            actions += [Release(self.epoch, "idle"), *self._lose(f"silent, {self._named('idle_reap')}", now=now)]
        return actions

    def next_deadline(self) -> float | None:
        """When :meth:`tick` is due next; ``None`` while nothing can become due."""
        if self.state in (SessionState.NEW, SessionState.ENDED):
            return None
        cap = self._opened_at + self.settings.max_duration
        if self.state is SessionState.AWAITING:
            return min(cap, self._until)
        wait = self.settings.stall_after if self.state is SessionState.LIVE else self.settings.idle_reap
        return min(cap, self._silent_since + wait)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _require(self, trigger: Trigger) -> SessionState:
        target = TRANSITIONS[self.state].get(trigger)
        if target is None:
            raise IllegalTransitionError(f"a session that is {self.state.value} cannot be {trigger.value}")
        return target

    def _move(self, trigger: Trigger) -> None:
        self.state = self._require(trigger)

    def _named(self, setting: str) -> str:
        return f"{setting}={getattr(self.settings, setting):g}s"

    def _incumbent(self, token: str, *, now: float) -> Incumbent:
        same = bool(token) and hmac.compare_digest(token.encode(), self._token.encode())
        return Incumbent(silent_s=now - self._silent_since, same_token=same)

    def _refusal(self, *, now: float) -> Refused:
        silent_ms = 1000 * (now - self._silent_since)
        return Refused(
            "NetStream.Publish.BadName",
            f"already publishing: the other connection was last heard {silent_ms:.0f} ms ago",
            self._named("takeover_silence"),
        )

    def _accept(self, *, now: float, token: str) -> list[Action]:
        self._move(Trigger.PUBLISHED)
        self.epoch += 1
        self._token = token
        self._silent_since = now
        self._delivered = False
        return [Accepted(self.epoch)]

    def _first_or_recovered(self, silent_since: float, *, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.state is SessionState.STALLED:
            actions.append(Recovered(self.epoch, now - silent_since))
        if not self._delivered and self._last_media is not None:
            actions.append(Resumed(self.epoch, now - self._last_media))
        self._move(Trigger.DELIVERED)
        self._delivered = True
        self._last_media = now
        return actions

    def _lose(self, reason: str, *, now: float, until: float | None = None, setting: str = "") -> list[Action]:
        self._move(Trigger.LOST)
        self._until = self._silent_since + self.settings.reconnect_window if until is None else until
        self._window_setting = setting or self._named("reconnect_window")
        lost = Lost(self.epoch, reason, max(0.0, self._until - now))
        return [lost, *self.tick(now=now)]

    def _finish(self, reason: str, setting: str) -> list[Action]:
        self._move(Trigger.FINISHED)
        return [Ended(reason, setting)]

    def _stale(self, epoch: int, what: str) -> Sequence[Action]:
        if (epoch, what) in self._stale_told:
            return ()
        self._stale_told.add((epoch, what))
        return [Stale(epoch, what)]
