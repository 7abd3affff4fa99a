"""Check that media flows again in time after a heal, with TCP's own timer taken into account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.checks.circumstances import CannotTellError, because, milliseconds, receivers, span
from harness.checks.limits import MediaResumed
from harness.checks.media import FLOWS
from harness.checks.retransmission import Mark, next_mark
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.history.windows import Outage
from harness.units import format_duration

_DOWN = ("media:frozen", "media:ended")
_UP = ("media:started", "media:resumed")


@dataclass(frozen=True, slots=True)
class Heal:
    """The end of one outage that is judged, and how long media had to come back before the next one."""

    outage: Outage
    at: int
    until: int


@dataclass(frozen=True, slots=True)
class Return:
    """When media was back at one place after a heal."""

    place: str
    heal: Heal
    resumed: Event | None
    """None: it never came back. A ``media:progressed`` says that it had never been away."""
    told: bool
    """False where the place tells nothing from which that could be known."""
    limit: int
    """The moment by which it had to be back."""
    mark: Mark | None
    """The retransmission mark that moved the limit, if one did."""

    @property
    def took(self) -> int:
        return 0 if self.resumed is None else max(0, self.resumed.t_ns - self.heal.at)

    @property
    def in_time(self) -> bool:
        if self.resumed is None:
            return False
        return self.resumed.name == "media:progressed" or self.resumed.t_ns <= self.limit


def media_resumed(history: History, limits: MediaResumed) -> Verdict:
    """After each heal that leaves enough time, and always after the last: the slowest place counts."""
    places = receivers(history, limits.at, *FLOWS)
    returns = [_return(history, limits, place, heal) for heal in _heals(history, limits) for place in places]
    late = [entry for entry in returns if entry.told and not entry.in_time]
    if late:
        return _judge(history, limits, late[0], passed=False)
    silent = [entry for entry in returns if not entry.told]
    if silent:
        raise CannotTellError(f"{silent[0].place} told nothing after the heal at {history.at(silent[0].heal.at)}")
    return _judge(history, limits, max(returns, key=lambda entry: entry.took), passed=True)


def _heals(history: History, limits: MediaResumed) -> Sequence[Heal]:
    outages = [outage for outage in history.outages() if outage.end is not None and outage.end < history.script_end]
    if not outages:
        raise CannotTellError("no outage of the publisher's path healed before the script's end")
    starts = [outage.start for outage in outages[1:]] + [history.script_end]
    heals = [Heal(outage, outage.end or 0, until) for outage, until in zip(outages, starts, strict=True)]
    return [heal for heal in heals if heal.until - heal.at > limits.within_ns or heal is heals[-1]]


def _return(history: History, limits: MediaResumed, place: str, heal: Heal) -> Return:
    down = _interrupted(history, place, heal)
    resumed = _resumed(history, place, heal, down)
    told = down is not None or resumed is not None
    mark = next_mark(history, fault_start=heal.outage.start, heal=heal.at)
    plain = heal.at + limits.within_ns
    if mark is None or _reconnected(history, heal, resumed):
        return Return(place, heal, resumed, told, plain, None)
    moved = mark.limit(limits.slack_ns)
    return Return(place, heal, resumed, told, max(plain, moved), mark if moved > plain else None)


def _reconnected(history: History, heal: Heal, resumed: Event | None) -> bool:
    """Whether a new connection took over; then TCP's timer on the old one is no excuse."""
    until = heal.until if resumed is None else resumed.t_ns
    began = {"source": "publisher", "after": heal.outage.start, "before": until}
    return history.first("publish:started", "reconnect:completed", **began) is not None


def _resumed(history: History, place: str, heal: Heal, down: Event | None) -> Event | None:
    if down is not None:
        return history.first(*_UP, source=place, after=down.t_ns, before=heal.until)
    flowing = _flowing(history, place, heal)
    back = history.last(*_UP, source=place, after=heal.outage.start, before=heal.at)
    return back or flowing


def _flowing(history: History, place: str, heal: Heal) -> Event | None:
    """The first count of pictures after the heal that is higher than the one before it."""
    counted = history.last("media:progressed", source=place, before=heal.at)
    seen = -1 if counted is None else counted.data["frames"]
    later = history.named("media:progressed", source=place, after=heal.at, before=heal.until)
    return next((event for event in later if event.data["frames"] > seen), None)


def _interrupted(history: History, place: str, heal: Heal) -> Event | None:
    """What told of the interruption that the heal ends: still down at the heal, or noticed just after it."""
    last = history.last(*_DOWN, *_UP, source=place, before=heal.at)
    if last is not None and last.name in _DOWN:
        return last
    frozen = history.first("media:frozen", source=place, after=heal.at, before=heal.until)
    if frozen is not None and frozen.t_ns - milliseconds(frozen.data["after_ms"]) <= heal.at:
        return frozen
    return None


def _judge(history: History, limits: MediaResumed, entry: Return, *, passed: bool) -> Verdict:
    heal, resumed = entry.heal, entry.resumed
    evidence = [window.left for window in heal.outage.windows if window.left is not None]
    decided = history.last("stall:detected", "reconnect:started", source="publisher", after=heal.outage.start)
    if resumed is None:
        reason = because(history, entry.limit, _why(history, entry), decided=[decided])
        frozen = history.last(*_DOWN, source=entry.place, before=heal.until)
        evidence += [event for event in (frozen, decided) if event is not None]
        observed = f"never at {entry.place} after the heal at {history.at(heal.at)}"
        return limits.failed(observed, because=reason, evidence=evidence)
    evidence += [resumed, *([entry.mark.sample] if entry.mark else [])]
    reason = because(history, resumed.t_ns, _why(history, entry), decided=[decided])
    return (limits.passed if passed else limits.failed)(_observed(history, entry), because=reason, evidence=evidence)


def _observed(history: History, entry: Return) -> str:
    assert entry.resumed is not None
    if entry.resumed.name == "media:progressed":
        return f"media at {entry.place} was never interrupted"
    if entry.resumed.t_ns < entry.heal.at:
        return f"at {entry.place} {span(entry.resumed.t_ns, entry.heal.at)} before the heal"
    slower = "" if entry.in_time else f", {span(entry.limit, entry.resumed.t_ns)} too late"
    return f"{format_duration(entry.took)} after the heal at {entry.place}{slower}"


def _why(history: History, entry: Return) -> str:
    if entry.mark is None:
        return "the publisher reconnected" if _reconnected(history, entry.heal, entry.resumed) else ""
    sample = entry.mark.sample.data
    return (
        f"the publisher waited: TCP's next retransmission was due {span(entry.heal.at, entry.mark.at)} after the heal "
        f"(RTO {sample['rto_ms']:.0f} ms, back-off {sample['backoff']}), so the limit is "
        f"{span(entry.heal.at, entry.limit)}"
    )
