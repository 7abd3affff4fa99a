"""Checks on what receivers saw: the first frame after a gap, the longest gap, lost frames, broken frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.checks.circumstances import because, milliseconds, receivers, span
from harness.checks.limits import FramesLost, GateHeld, KeyframeFirst, LongestGap
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.units import SECOND, format_duration

FLOWS = ("media:started", "media:resumed", "media:progressed")
"""What says that a receiver's media telemetry works."""

DECODERS = ("destination", "viewer", "viewer2")
"""Receivers that decode; the gateway only looks at NAL types."""


# --- the first frame after a reconnect or a gap -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restart:
    """A publish that the gateway accepted after the script began, until the next one."""

    accepted: Event
    until: int


def keyframe_first(history: History, limits: KeyframeFirst) -> Verdict:
    """At each place the first picture after each accepted publish and each gap: an IDR with SPS/PPS, in time."""
    places = receivers(history, limits.at, *FLOWS, "keyframe:received")
    wrong = [event for place in places for event in _wrong_firsts(history, place)]
    if wrong:
        return _wrong_first(history, limits, wrong)
    arrivals: list[tuple[str, Restart, Event]] = []
    for place in places:
        for restart in _restarts(history):
            arrived = _first_keyframe(history, place, restart)
            late = arrived is None or arrived.t_ns - restart.accepted.t_ns > limits.within_ns
            if late and restart.until - restart.accepted.t_ns > limits.within_ns:
                return _late_keyframe(history, limits, place, restart, arrived)
            if arrived is not None:
                arrivals.append((place, restart, arrived))
    return _keyframes_came(history, limits, places, arrivals)


def _restarts(history: History) -> Sequence[Restart]:
    accepted = history.in_script("publish:accepted")
    ends = [event.t_ns for event in accepted[1:]] + [history.script_end]
    return [Restart(event, until) for event, until in zip(accepted, ends, strict=False)]


def _first_keyframe(history: History, place: str, restart: Restart) -> Event | None:
    """The restart's first key frame at ``place``: by its number not older than the first that the gateway received."""
    begin, end = restart.accepted.t_ns, restart.until
    at_gateway = history.first("keyframe:received", source="gateway", after=begin, before=end)
    lowest = -1 if at_gateway is None else at_gateway.data["frame"]
    names = ("keyframe:received", "media:started", "media:resumed")
    found = history.named(*names, source=place, after=begin, before=end)
    return next((event for event in found if event.data["idr"] and event.data["frame"] >= lowest), None)


def _wrong_firsts(history: History, place: str) -> list[Event]:
    """First pictures that are no IDR with SPS/PPS, and first key frames of a publish that others came before."""
    firsts = [
        event
        for event in history.in_script("media:started", "media:resumed", source=place)
        if after_a_gap(history, event)
    ]
    wrong = [event for event in firsts if not _decodable_start(event, place)]
    return sorted(wrong + _headless(history, place), key=lambda event: event.t_ns)


def _headless(history: History, place: str) -> list[Event]:
    """First key frames of a restart that are no IDR, lack parameter sets, or (at the gateway) were not the first frame.

    ``first`` is about the place's own connection, and only the gateway's is a new one after each restart.
    """
    firsts = [
        history.first("keyframe:received", source=place, after=restart.accepted.t_ns, before=restart.until)
        for restart in _restarts(history)
    ]
    return [event for event in firsts if event is not None and not _begins(event, place)]


def _begins(keyframe: Event, place: str) -> bool:
    return _decodable_start(keyframe, place) and (place != "gateway" or bool(keyframe.data.get("first", True)))


def after_a_gap(history: History, event: Event) -> bool:
    """Whether a first picture follows upon a gap in the stream; if nothing is missing, a late one may be of any kind.

    A publisher that began anew counts its frames anew, so there a new publish tells of the gap.
    """
    if event.name == "media:started" or event.data["missing"] > 0 or event.data["frame"] < event.data["last_frame"]:
        return True
    since = event.t_ns - milliseconds(event.data["gap_ms"])
    return bool(history.named("publish:accepted", after=max(since, history.zero), before=event.t_ns))


def _decodable_start(event: Event, place: str) -> bool:
    decoded = place not in DECODERS or event.data.get("decoded", True)
    return bool(event.data["idr"] and event.data["parameter_sets"] and decoded)


def _wrong_first(history: History, limits: KeyframeFirst, wrong: Sequence[Event]) -> Verdict:
    first = wrong[0]
    forced = _forced_keyframe(history, first)
    opened = history.first("gate:opened", after=first.t_ns - SECOND)
    asked = f"key frame asked for: {forced.data['reason']}" if forced else "the publisher forced no key frame for it"
    evidence = [*wrong, *(event for event in (forced, opened) if event is not None)]
    reason = because(history, first.t_ns, asked, _withheld(opened), decided=[first])
    return limits.failed(f"at {first.source}: {_describe_first(history, first)}", because=reason, evidence=evidence)


def _forced_keyframe(history: History, first: Event) -> Event | None:
    """The last key frame before ``first`` that was encoded on demand since the publish that it belongs to."""
    accepted = history.last("publish:accepted", before=first.t_ns)
    since = history.zero if accepted is None else accepted.t_ns - SECOND
    encoded = history.named("keyframe:encoded", source="publisher", after=since, before=first.t_ns)
    return next((event for event in reversed(encoded) if event.data["reason"] != "interval"), None)


def _describe_first(history: History, event: Event) -> str:
    lacks = ["no IDR"] if not event.data["idr"] else []
    lacks += ["without SPS/PPS"] if not event.data["parameter_sets"] else []
    lacks += ["not decoded"] if event.source in DECODERS and not event.data.get("decoded", True) else []
    where = f"at {history.at(event.t_ns)} (frame {event.data['frame']})"
    if lacks:
        return f"the first frame {where} is {', '.join(lacks)}"
    return f"the first IDR {where} was not the first frame of its connection"


def _withheld(opened: Event | None) -> str:
    if opened is None or not opened.data["withheld"]:
        return ""
    waited = format_duration(milliseconds(opened.data["waited_ms"]))
    return f"the gate withheld {opened.data['withheld']} packets for {waited}"


def _late_keyframe(
    history: History, limits: KeyframeFirst, place: str, restart: Restart, arrived: Event | None
) -> Verdict:
    since = f"the publish of {history.at(restart.accepted.t_ns)} (epoch {restart.accepted.data['epoch']})"
    if arrived is None:
        reason = because(history, restart.accepted.t_ns + limits.within_ns)
        return limits.failed(f"at {place}: no IDR after {since}", because=reason, evidence=[restart.accepted])
    observed = f"at {place}: {span(restart.accepted.t_ns, arrived.t_ns)} after {since}"
    return limits.failed(observed, because=because(history, arrived.t_ns), evidence=[restart.accepted, arrived])


def _keyframes_came(
    history: History, limits: KeyframeFirst, places: Sequence[str], arrivals: Sequence[tuple[str, Restart, Event]]
) -> Verdict:
    if not arrivals:
        return limits.passed("no new publish and no gap with missing frames", because=f"seen at {', '.join(places)}")
    _, restart, event = max(arrivals, key=lambda arrival: arrival[2].t_ns - arrival[1].accepted.t_ns)
    observed = f"slowest {span(restart.accepted.t_ns, event.t_ns)} after the publish, at {event.source}"
    evidence = [*(arrival[2] for arrival in arrivals), restart.accepted]
    return limits.passed(observed, because=because(history, event.t_ns), evidence=evidence)


# --- gaps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without a picture at one place."""

    place: str
    length: int
    ended: Event
    """What ended it, or for a gap that never ended, what told of it last."""
    open: bool = False


def longest_gap(history: History, limits: LongestGap) -> Verdict:
    """The longest time between two pictures at the places, after the script began; an open gap counts to its end."""
    places = receivers(history, limits.at, *FLOWS)
    gaps = [gap for place in places for gap in gaps_at(history, place)]
    if not gaps:
        return limits.unknown("the receivers told of no picture after the script began")
    worst = max(gaps, key=lambda gap: gap.length)
    still = ", and no picture came any more" if worst.open else ""
    observed = f"{format_duration(worst.length)} at {worst.place}, up to {history.at(_gap_end(history, worst))}{still}"
    frozen = history.last("media:frozen", source=worst.place, before=worst.ended.t_ns)
    reason = because(history, worst.ended.t_ns - (0 if worst.open else worst.length // 2), decided=[frozen])
    verdict = limits.passed if worst.length <= limits.at_most_ns else limits.failed
    return verdict(observed, because=reason, evidence=[worst.ended])


def _gap_end(history: History, gap: Gap) -> int:
    return history.script_end if gap.open else gap.ended.t_ns


def gaps_at(history: History, place: str) -> list[Gap]:
    """Every gap that the place told of: between pictures, between two plays or pushes, and one that never ended."""
    gaps = [
        Gap(place, milliseconds(event.data["gap_ms"]), event)
        for event in history.in_script("media:resumed", source=place)
    ]
    gaps += [
        Gap(place, milliseconds(event.data["longest_gap_ms"]), event)
        for event in history.in_script("media:progressed", source=place)
    ]
    gaps += [
        Gap(place, event.t_ns - began, event)
        for event in history.in_script("media:started", source=place)
        if (began := _silent_since(history, place, event.t_ns)) is not None
    ]
    return gaps + _open_gap(history, place)


def _silent_since(history: History, place: str, t_ns: int) -> int | None:
    """Since when the place had no picture before ``t_ns``; None if it never had one, or has one."""
    last = history.last(
        "media:frozen", "media:ended", "media:started", "media:resumed", "media:progressed",
        source=place, before=t_ns - 1,
    )  # fmt: skip
    if last is None:
        return None
    frozen = history.last("media:frozen", source=place, before=t_ns - 1)
    resumed = history.last("media:started", "media:resumed", source=place, before=t_ns - 1)
    if frozen is not None and (resumed is None or resumed.t_ns <= frozen.t_ns):
        return frozen.t_ns - milliseconds(frozen.data["after_ms"])
    return last.t_ns


def _open_gap(history: History, place: str) -> list[Gap]:
    frozen = history.last("media:frozen", "media:ended", source=place, before=history.script_end)
    if frozen is None:
        return []
    if history.first("media:started", "media:resumed", source=place, after=frozen.t_ns) is not None:
        return []
    began = frozen.t_ns - milliseconds(frozen.data.get("after_ms", 0))
    return [Gap(place, history.script_end - began, frozen, open=True)]


# --- lost and broken frames -------------------------------------------------------------------------------------


def frames_lost(history: History, limits: FramesLost) -> Verdict:
    """Missing frames by their numbers: each counted once, however many events tell of it."""
    places = receivers(history, limits.at, *FLOWS)
    told = {place: _losses(history, place) for place in places}
    lost = {place: _missing(events) for place, events in told.items()}
    worst = max(lost, key=lambda place: lost[place])
    events = [event for place in places for event in told[place]]
    observed = ", ".join(f"{number} at {place}" for place, number in lost.items())
    dropped = history.in_script("frames:dropped", source="publisher")
    reasons = {str(event.data["reason"]) for event in dropped}
    why = f"the publisher dropped some: {', '.join(sorted(reasons))}" if reasons else ""
    when = told[worst][0].t_ns if told[worst] else history.script_end
    verdict = limits.passed if lost[worst] <= limits.at_most else limits.failed
    return verdict(observed, because=because(history, when, why), evidence=[*events, *dropped])


def _losses(history: History, place: str) -> list[Event]:
    resumed = [event for event in history.in_script("media:resumed", source=place) if event.data["missing"] > 0]
    return history.in_script("media:skipped", source=place) + resumed


def _missing(events: Iterable[Event]) -> int:
    """Frames that are missing; a stretch told by both ``media:skipped`` and ``media:resumed`` counts once."""
    stretches: list[tuple[int, int]] = []
    unnumbered = 0
    for event in events:
        if event.name == "media:skipped":
            stretches.append((event.data["first"], event.data["last"]))
        elif event.data["frame"] >= 0 and event.data["last_frame"] >= 0:
            stretches.append((event.data["frame"] - event.data["missing"], event.data["frame"] - 1))
        else:
            unnumbered += event.data["missing"]
    covered, reached = 0, -1
    for first, last in sorted(stretches):
        covered += max(0, last - max(first, reached + 1) + 1)
        reached = max(reached, last)
    return covered + unnumbered


def gate_held(history: History, limits: GateHeld) -> Verdict:
    """No receiver gets a first picture that is no IDR after a gap, nor one that it cannot decode."""
    places = receivers(history, limits.at, *FLOWS)
    leaks: list[Event] = []
    for place in places:
        firsts = history.in_script("media:started", "media:resumed", source=place)
        leaks += (
            [event for event in firsts if after_a_gap(history, event) and not event.data["idr"]]
            if place in DECODERS
            else []
        )
        leaks += history.in_script("media:undecodable", source=place)
    opened = history.in_script("gate:opened")
    withheld = sum(event.data["withheld"] for event in opened)
    if not leaks:
        observed = f"0 frames before the IDR ({withheld} withheld at {len(opened)} openings of the gate)"
        return limits.passed(observed, evidence=opened)
    first = min(leaks, key=lambda event: event.t_ns)
    why = "the gateway told of no gate" if not opened else f"the gate withheld {withheld}"
    reason = because(history, first.t_ns, why)
    return limits.failed(_describe_leaks(history, leaks, first), because=reason, evidence=leaks)


def _describe_leaks(history: History, leaks: Sequence[Event], first: Event) -> str:
    broken = sum(event.name == "media:undecodable" for event in leaks)
    return (
        f"{len(leaks) - broken} gaps ended without an IDR, {broken} runs of frames could not be decoded; "
        f"the first at {first.source}, {history.at(first.t_ns)}"
    )
