"""Checks on the publisher: does it notice, does it come back, does it stay calm and honest?"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from harness.checks.circumstances import CannotTellError, because, span
from harness.checks.limits import (
    AttemptsBounded,
    NeverStopped,
    NoReconnect,
    OldConnectionHeld,
    OutageDetected,
    Reconnects,
    StatusSeen,
)
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.history.windows import Outage
from harness.units import SECOND, format_duration

NOTICED = (
    "stall:detected",
    "connection:lost",
    "session:stalled",
    "session:lost",
    "media:frozen",
    "media:ended",
    "push:ended",
)
"""Any of these, told by a role, says that it has noticed an outage."""

RECOVERED = ("stall:cleared", "publish:started", "session:recovered", "session:resumed", "publish:accepted",
             "media:resumed", "media:started", "push:accepted")  # fmt: skip
"""Any of these takes an earlier notice back."""


def outage_detected(history: History, limits: OutageDetected) -> Verdict:
    """From each fault that silences the role's media to the first sign that the role noticed; the slowest counts."""
    due = _to_be_noticed(history, limits)
    findings = [(start, _noticed(history, limits.by, start)) for start in due]
    for start, sign in findings:
        if sign is None or sign.t_ns - start > limits.within_ns:
            return _late(history, limits, start, sign)
    slowest, sign = max(findings, key=lambda finding: _delay(*finding))
    observed = f"after {format_duration(_delay(slowest, sign))}"
    how_often = f" at the slowest of {len(findings)}" if len(findings) > 1 else ""
    signs = [sign for _, sign in findings if sign is not None]
    reason = because(history, max(slowest, sign.t_ns if sign else 0), f"by {sign.name}" if sign else "", decided=[sign])
    return limits.passed(observed + how_often, because=reason, evidence=signs)


def _delay(start: int, sign: Event | None) -> int:
    return 0 if sign is None else max(0, sign.t_ns - start)


def _to_be_noticed(history: History, limits: OutageDetected) -> Sequence[int]:
    """When each outage began that lasts longer than the limit, and each break of a connection."""
    outages = [outage for outage in history.outages(limits.by) if not _own_death(outage, limits.by)]
    lasting = [outage.start for outage in outages if (outage.end or history.end) - outage.start > limits.within_ns]
    breaks = [window.start for window in history.breaks(limits.by) if window.target != limits.by]
    if not lasting and not breaks:
        longest = max(((outage.end or history.end) - outage.start for outage in outages), default=0)
        raise CannotTellError(
            f"no outage lasted longer than the limit (the longest: {format_duration(longest)})"
            if outages
            else f"no fault silenced the {limits.by}"
        )
    return sorted({*lasting, *breaks})


def _own_death(outage: Outage, role: str) -> bool:
    return all(window.scope == "process" and window.target == role for window in outage.windows)


def _noticed(history: History, role: str, start: int) -> Event | None:
    """The first sign after ``start``, or an earlier one that had not been taken back by then."""
    before = history.last(*NOTICED, *RECOVERED, source=role, before=start)
    if before is not None and before.name in NOTICED:
        return before
    return history.first(*NOTICED, source=role, after=start)


def _late(history: History, limits: OutageDetected, start: int, sign: Event | None) -> Verdict:
    if not history.tells(limits.by, *NOTICED, *RECOVERED):
        raise CannotTellError(f"the {limits.by} tells nothing about its connection: its program may not be able to")
    if sign is None:
        observed = f"never noticed (outage of {history.at(start)})"
        evidence = [window.entered for window in history.faults if window.start == start]
        return limits.failed(observed, because=because(history, start + limits.within_ns), evidence=evidence)
    reason = because(history, sign.t_ns, f"by {sign.name}", decided=[sign])
    return limits.failed(f"after {span(start, sign.t_ns)}", because=reason, evidence=[sign])


def reconnects(history: History, limits: Reconnects) -> Verdict:
    """Counts completed reconnects; for a publisher that tells none, the gateway's epochs after the first."""
    counted = _reconnects(history)
    number = len(counted)
    observed = "never" if not number else "once" if number == 1 else f"{number} times"
    reasons = [str(event.data["reason"]) for event in history.named("reconnect:started", after=history.zero)]
    began = f"begun because of {', '.join(dict.fromkeys(reasons))}" if reasons else "none was begun"
    last = counted[-1].t_ns if counted else history.script_end
    reason = because(history, last, began, decided=history.named("reconnect:started", after=history.zero))
    fits = number >= limits.at_least and (limits.at_most is None or number <= limits.at_most)
    return (limits.passed if fits else limits.failed)(observed, because=reason, evidence=counted)


def _reconnects(history: History) -> list[Event]:
    if history.tells("publisher", "publish:started", "connect:attempted"):
        return history.in_script("reconnect:completed", source="publisher")
    if not history.tells("gateway", "publish:accepted"):
        raise CannotTellError("neither the publisher nor the gateway tells of connections")
    return [event for event in history.in_script("publish:accepted") if event.data["epoch"] > 1]


def no_reconnect(history: History, limits: NoReconnect) -> Verdict:
    """No reconnect is begun and no connection replaced."""
    begun = history.in_script("reconnect:started", source="publisher")
    done = begun or _reconnects(history)
    if not done:
        return limits.passed("0 reconnects begun")
    stalls = history.named("stall:detected", before=done[0].t_ns)[-1:]
    reason = because(history, done[0].t_ns, str(done[0].data.get("reason", "")), decided=[*stalls, done[0]])
    observed = f"{len(done)} reconnect{'s' * (len(done) > 1)}, the first at {history.at(done[0].t_ns)}"
    return limits.failed(observed, because=reason, evidence=[*stalls, *done])


def attempts_bounded(history: History, limits: AttemptsBounded) -> Verdict:
    """Most attempts in any second, attempts in all, and the number that each completed reconnect reports."""
    attempts = history.in_script("connect:attempted", source="publisher")
    if not history.tells("publisher", "connect:attempted"):
        raise CannotTellError("the publisher tells nothing about its connection attempts")
    burst = _densest_second(attempts)
    observed = f"{len(attempts)} attempts, at most {len(burst)} in a second"
    if len(burst) > limits.per_second:
        return limits.failed(observed, because=because(history, burst[0].t_ns), evidence=burst)
    if limits.at_most is not None and len(attempts) > limits.at_most:
        return limits.failed(observed, because=because(history, attempts[-1].t_ns), evidence=attempts)
    untrue = _untrue_report(history, attempts)
    if untrue is not None:
        return limits.failed(f"{observed}; {untrue[0]}", because=because(history, untrue[1].t_ns), evidence=[untrue[1]])
    return limits.passed(observed, evidence=burst)


def _densest_second(attempts: Sequence[Event]) -> list[Event]:
    densest: list[Event] = []
    window: deque[Event] = deque()
    for attempt in attempts:
        window.append(attempt)
        while attempt.t_ns - window[0].t_ns >= SECOND:
            window.popleft()
        if len(window) > len(densest):
            densest = list(window)
    return densest


def _untrue_report(history: History, attempts: Sequence[Event]) -> tuple[str, Event] | None:
    for completed in history.named("reconnect:completed", source="publisher", after=history.zero):
        started = history.last("reconnect:started", source="publisher", before=completed.t_ns)
        since = history.zero if started is None else started.t_ns
        made = sum(since <= attempt.t_ns <= completed.t_ns for attempt in attempts)
        if completed.data["attempts"] < made:
            return f"reported {completed.data['attempts']} attempts where {made} were made", completed
    return None


def old_connection_held(history: History, limits: OldConnectionHeld) -> Verdict:
    """Between ``stall:detected`` and the reset of that connection another one was established (rtmp: 34 of 34 runs)."""
    if not history.tells("publisher", "connect:established"):
        raise CannotTellError("the publisher tells nothing about its connections")
    stalls = history.in_script("stall:detected", source="publisher")
    dropped = [reset for stall in stalls if (reset := _dropped_early(history, stall)) is not None]
    if not dropped:
        return limits.passed(f"{len(stalls)} stalls, each held until another was up or it recovered", evidence=stalls)
    first = dropped[0]
    observed = f"connection {first.data['connection']} was reset at {history.at(first.t_ns)} with no other one up"
    reason = because(history, first.t_ns, str(first.data["reason"]), decided=stalls[:1])
    return limits.failed(observed, because=reason, evidence=[*stalls, *dropped])


def _dropped_early(history: History, stall: Event) -> Event | None:
    number = stall.data["connection"]
    reset = history.first("connection:reset", source="publisher", after=stall.t_ns, connection=number)
    if reset is None or reset.t_ns > history.script_end:
        return None
    up = history.named("connect:established", source="publisher", after=stall.t_ns, before=reset.t_ns)
    return reset if all(other.data["connection"] == number for other in up) else None


def never_stopped(history: History, limits: NeverStopped) -> Verdict:
    """No ``status:changed`` to "stopped", and no giving up, before the script's end."""
    if not history.tells("publisher", "status:changed"):
        raise CannotTellError("the publisher tells no status")
    stopped = history.in_script("status:changed", source="publisher", status="stopped")
    stopped += history.in_script("reconnect:gave_up", source="publisher")
    if not stopped:
        seen = [str(event.data["status"]) for event in history.in_script("status:changed", source="publisher")]
        return limits.passed("statuses seen: " + ", ".join(dict.fromkeys(seen)))
    first = min(stopped, key=lambda event: event.t_ns)
    reason = because(history, first.t_ns, str(first.data.get("reason", "gave up")), decided=[first])
    return limits.failed(f'"stopped" at {history.at(first.t_ns)}', because=reason, evidence=stopped)


def status_seen(history: History, limits: StatusSeen) -> Verdict:
    """From the begin of each outage that outlasts the limit to the status, or that it was told already; the slowest."""
    if not history.tells(limits.by, "status:changed"):
        raise CannotTellError(f"the {limits.by} tells no status")
    outages = [outage for outage in history.outages(limits.by) if not _own_death(outage, limits.by)]
    due = [outage for outage in outages if (outage.end or history.end) - outage.start > limits.within_ns]
    if not due:
        raise CannotTellError("no outage lasted longer than the limit")
    slowest, seen = 0, []
    for outage in due:
        told = _status(history, limits, outage.start)
        if told is None:
            return _status_missed(history, limits, outage)
        slowest = max(slowest, told.t_ns - outage.start)
        seen.append(told)
    how_often = f" at the slowest of {len(due)}" if len(due) > 1 else ""
    reason = because(history, seen[-1].t_ns, str(seen[-1].data["reason"]), decided=seen[-1:])
    return limits.passed(f"after {format_duration(slowest)}{how_often}", because=reason, evidence=seen)


def _status(history: History, limits: StatusSeen, start: int) -> Event | None:
    """The wanted status, if it was in force when the outage began or was told in time."""
    before = history.last("status:changed", source=limits.by, before=start)
    if before is not None and before.data["status"] == limits.status:
        return before
    until = start + limits.within_ns
    return history.first("status:changed", source=limits.by, after=start, before=until, status=limits.status)


def _status_missed(history: History, limits: StatusSeen, outage: Outage) -> Verdict:
    until = outage.start + limits.within_ns
    told = history.named("status:changed", source=limits.by, before=until)
    said = f'; it said "{told[-1].data["status"]}"' if told else ""
    observed = f'no "{limits.status}" in the outage of {history.at(outage.start)}{said}'
    entered = [window.entered for window in outage.windows]
    return limits.failed(observed, because=because(history, until), evidence=[*entered, *told[-1:]])
