"""Checks on egress: kept or stopped as the policy says, exactly once, and never lying about it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from harness.checks.circumstances import CannotTellError, because, milliseconds, span
from harness.checks.limits import AFTER, EgressKept, EgressStopped, HonestStatus, LeftoverEnded
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.history.windows import DEADLY
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
    names = _due(history, limits, started, stops)
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


def _due(history: History, limits: EgressStopped, started: Sequence[Event], stops: Sequence[Event]) -> list[str]:
    """Egresses that stopped or had a reason to: not one that was started after the last reason (a second life)."""
    last = history.last(AFTER[limits.after], before=history.script_end)
    reached = [event for event in started if last is not None and event.t_ns <= last.t_ns]
    return list(dict.fromkeys(str(event.data["egress"]) for event in [*reached, *stops] or started))


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
    until = last.t_ns + limits.within_ns
    accepted = history.named("push:accepted", source="destination", before=last.t_ns)
    ended = history.named("push:ended", source="destination", before=until)
    left = {event.data["push"] for event in accepted} - {event.data["push"] for event in ended}
    if not left or until > history.script_end:
        return None
    observed = f"{last.data['egress']} was told stopped, the destination still has {len(left)} push"
    return limits.failed(observed, because=because(history, last.t_ns), evidence=[last, *accepted, *ended])


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


def leftover_ended(history: History, limits: LeftoverEnded) -> Verdict:
    """Each worker of a killed gateway is told ended soon after the next start; pushes at the destination never overlap.

    A worker may also have ended by itself; then its push must be over, and nobody need end it.
    """
    left = _left_behind(history)
    if not left:
        raise CannotTellError("no gateway that had an egress was killed and started again")
    if not history.tells("destination", "push:accepted"):
        raise CannotTellError("the destination tells of no pushes: its program may not be able to")
    ends = []
    for worker, start in left:
        number = worker.data["worker"]
        end = history.first("egress:leftover_ended", after=start.t_ns, worker=number)
        if end is None or end.t_ns - start.t_ns > limits.within_ns:
            how = "was never ended" if end is None else f"was ended {span(start.t_ns, end.t_ns)} after the start"
            reason = because(history, start.t_ns)
            found = [worker, start, *([end] if end else [])]
            return limits.failed(f"the leftover worker {number} {how}", because=reason, evidence=found)
        ends.append(end)
    both = _two_at_once(history)
    if both is not None:
        observed = f"two pushers at once at {history.at(both.t_ns)} ({both.name})"
        return limits.failed(observed, because=because(history, both.t_ns), evidence=[*ends, both])
    took = max(end.t_ns - start.t_ns for end, (_, start) in zip(ends, left, strict=True))
    return limits.passed(f"{len(ends)} ended, {format_duration(took)} after the start at the slowest", evidence=ends)


def _left_behind(history: History) -> list[tuple[Event, Event]]:
    """Each worker that ran when its gateway was killed, and the gateway's next start."""
    left = []
    for window in history.faults:
        start = history.first("process:started", source="gateway", after=window.start)
        if window.target != "gateway" or window.kind not in DEADLY or start is None:
            continue
        for worker in history.named("egress:started", before=window.start):
            which = {"egress": worker.data["egress"], "after": worker.t_ns, "before": window.start}
            if history.first("egress:stopped", "egress:leftover_ended", **which) is None:
                left.append((worker, start))
    return left


def _two_at_once(history: History) -> Event | None:
    """The first push that began, or was refused for being the second, while another one of that stream was open."""
    pushing: dict[str, int] = {}
    for event in history.named("push:accepted", "push:ended", "push:refused", source="destination"):
        stream = str(event.data["stream"])
        running = pushing.get(stream, 0)
        if event.name != "push:ended" and running:
            return event
        if event.name != "push:refused":
            pushing[stream] = running + (1 if event.name == "push:accepted" else -1)
    return None
