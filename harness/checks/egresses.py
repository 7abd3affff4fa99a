"""Checks on egress: kept or stopped as the policy says, exactly once, and never lying about it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from harness.checks.circumstances import CannotTellError, because, milliseconds, span
from harness.checks.limits import AFTER, EgressKept, EgressStopped, HonestStatus
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.units import SECOND, format_duration

_TOLD = ("egress:started", "egress:stopped", "egress:state_changed")
_ACTIVE = "active"
_FAILED = ("failed", "aborted")


def egress_kept(history: History, limits: EgressKept) -> Verdict:
    """No stop or start of an egress and no end or start of a push between the script's begin and end."""
    _require_egress(history)
    changes = history.in_script("egress:stopped", "egress:started", "push:ended", "push:accepted")
    if not changes:
        pushes = history.named("push:accepted", before=history.zero)
        return limits.passed("0 stops, 0 restarts, the same push", evidence=pushes[-1:])
    counts = ", ".join(f"{_count(changes, name)} x {name}" for name in dict.fromkeys(event.name for event in changes))
    first = changes[0]
    asked = history.last("egress:stop_requested", before=first.t_ns, after=history.zero)
    why = str(first.data.get("reason", "")) or (str(asked.data["reason"]) if asked else "")
    state = history.last("egress:state_changed", before=first.t_ns, after=history.zero)
    reason = because(history, first.t_ns, why, decided=[state])
    observed = f"{counts}; the first at {history.at(first.t_ns)}"
    return limits.failed(observed, because=reason, evidence=[*([asked] if asked else []), *changes])


def _count(events: Sequence[Event], name: str) -> int:
    return sum(event.name == name for event in events)


def _require_egress(history: History) -> None:
    if history.first(*_TOLD, "push:accepted") is None:
        raise CannotTellError("nobody told of an egress: none was configured, or its program cannot tell")


def egress_stopped(history: History, limits: EgressStopped) -> Verdict:
    """Counts stops per egress before the script's end, each measured from the event that should end it."""
    _require_egress(history)
    started = history.named("egress:started", before=history.script_end)
    stops = history.named("egress:stopped", before=history.script_end)
    names = dict.fromkeys(str(event.data["egress"]) for event in [*started, *stops])
    for name in names:
        problem = _wrong_stop(history, limits, name)
        if problem is not None:
            return problem
    if not stops:
        return limits.passed("never stopped")
    trigger = _trigger(history, limits, stops[-1])
    took = [stop.t_ns - (_trigger(history, limits, stop) or stop).t_ns for stop in stops]
    observed = f"each {limits.exactly} times, {format_duration(max(took))} later at the slowest"
    reason = because(history, stops[-1].t_ns, str(stops[-1].data["reason"]), decided=[trigger])
    return limits.passed(observed, because=reason, evidence=[*([trigger] if trigger else []), *stops])


def _wrong_stop(history: History, limits: EgressStopped, name: str) -> Verdict | None:
    stops = history.named("egress:stopped", before=history.script_end, egress=name)
    end = history.last(AFTER[limits.after], before=history.script_end)
    asked = history.named("egress:stop_requested", before=history.script_end, egress=name)
    if len(asked) > limits.exactly:
        reason = because(history, asked[-1].t_ns, str(asked[-1].data["reason"]), decided=[end])
        return limits.failed(f"{name} was told to stop {len(asked)} times", because=reason, evidence=[*asked, *stops])
    if len(stops) != limits.exactly:
        reason = because(history, history.script_end, "" if end else f"{AFTER[limits.after]} never came", decided=[end])
        evidence = [*stops, *([end] if end else []), *history.named("egress:started", egress=name)]
        return limits.failed(f"{name} stopped {len(stops)} times", because=reason, evidence=evidence)
    for stop in stops:
        trigger = _trigger(history, limits, stop)
        if trigger is None or stop.t_ns - trigger.t_ns > limits.within_ns:
            return _late_stop(history, limits, stop, trigger)
    return _still_pushing(history, limits, stops)


def _trigger(history: History, limits: EgressStopped, stop: Event) -> Event | None:
    """What should have ended the egress: the last such event before the stop, or as long after it as one tick."""
    which = {} if limits.after == "fault" else {"session": stop.data["session"]}
    earlier = history.last(AFTER[limits.after], before=stop.t_ns, **which)
    return earlier or history.first(AFTER[limits.after], after=stop.t_ns, before=stop.t_ns + SECOND, **which)


def _late_stop(history: History, limits: EgressStopped, stop: Event, trigger: Event | None) -> Verdict:
    reason = because(history, stop.t_ns, str(stop.data["reason"]), decided=[trigger])
    if trigger is None:
        observed = f"{stop.data['egress']} stopped at {history.at(stop.t_ns)} without {AFTER[limits.after]} before it"
        return limits.failed(observed, because=reason, evidence=[stop])
    observed = f"{stop.data['egress']} stopped {span(trigger.t_ns, stop.t_ns)} after {trigger.name}"
    return limits.failed(observed, because=reason, evidence=[trigger, stop])


def _still_pushing(history: History, limits: EgressStopped, stops: Sequence[Event]) -> Verdict | None:
    """The destination must have seen its push go too, if it tells of pushes at all."""
    if not stops or not history.tells("destination", "push:accepted"):
        return None
    last = stops[-1]
    pushed = history.named("push:accepted", "push:ended", source="destination", before=last.t_ns + limits.within_ns)
    accepted, ended = _count(pushed, "push:accepted"), _count(pushed, "push:ended")
    if ended >= accepted or last.t_ns + limits.within_ns > history.script_end:
        return None
    observed = f"{last.data['egress']} was told stopped, the destination still has {accepted - ended} push"
    return limits.failed(observed, because=because(history, last.t_ns), evidence=[last, *pushed])


def honest_status(history: History, limits: HonestStatus) -> Verdict:
    """Lays the egress's states beside what the destination received."""
    states = history.named("egress:state_changed", before=history.script_end)
    if not states:
        raise CannotTellError("nobody told of an egress's state")
    if not history.tells("destination", "media:started", "media:progressed"):
        raise CannotTellError("the destination told nothing about media: its program may not be able to")
    silences = _silences(history)
    longest, liar = 0, states[0]
    for state, begin, end in _held(states, history.script_end, _ACTIVE):
        for silent_from, silent_to in silences:
            overlap = min(end, silent_to) - max(begin, silent_from)
            longest, liar = max((longest, liar), (overlap, state), key=lambda pair: pair[0])
    if longest > limits.silent_at_most_ns:
        reason = because(history, liar.t_ns + longest, decided=[liar])
        observed = f"called {liar.data['state']} through {format_duration(longest)} without media"
        return limits.failed(observed, because=reason, evidence=[liar])
    return _buried_alive(history, limits, states) or limits.passed(
        f"at most {format_duration(longest)} silent while called active", evidence=states
    )


def _buried_alive(history: History, limits: HonestStatus, states: Sequence[Event]) -> Verdict | None:
    """The other way round: called failed while media keeps arriving (one destination only: media names no push)."""
    if len({state.data["egress"] for state in states}) != 1:
        return None
    for state, begin, end in _held(states, history.script_end, *_FAILED):
        alive = history.named("media:progressed", source="destination", after=begin + 2 * SECOND, before=end)
        moving = [later for former, later in pairwise(alive) if _moved(former, later)]
        if moving:
            observed = f"called {state.data['state']} at {history.at(begin)} while media went on arriving"
            reason = because(history, begin, str(state.data["reason"]), decided=[state])
            return limits.failed(observed, because=reason, evidence=[state, moving[0]])
    return None


def _moved(former: Event, later: Event) -> bool:
    return bool(later.data["last_frame"] > former.data["last_frame"])


def _held(states: Sequence[Event], end: int, *wanted: str) -> list[tuple[Event, int, int]]:
    """Each time in which an egress was in one of the wanted states: the event, from, to."""
    held = []
    for place, state in enumerate(states):
        if str(state.data["state"]).lower() in wanted:
            later = states[place + 1 :]
            following = (other.t_ns for other in later if other.data["egress"] == state.data["egress"])
            held.append((state, state.t_ns, next(following, end)))
    return held


def _silences(history: History) -> list[tuple[int, int]]:
    """When the destination had no picture: from the last one before a freeze or an end to the next one."""
    silences = []
    for quiet in history.named("media:frozen", "media:ended", source="destination", before=history.script_end):
        back = history.first("media:resumed", "media:started", source="destination", after=quiet.t_ns)
        began = quiet.t_ns - milliseconds(quiet.data.get("after_ms", 0))
        silences.append((began, history.script_end if back is None else back.t_ns))
    return silences
