"""What every report shows of one run, derived once and purely from its history and verdicts.

The page, the trace, the summary and the terminal draw the same :class:`RunModel`, so they cannot tell different
stories. Times are nanoseconds since the run's zero, as in ``events.jsonl``.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.checks import overall
from harness.checks.verdict import Outcome, Verdict
from harness.history import windows
from harness.history.events import Event
from harness.history.query import History
from harness.history.windows import FaultWindow
from harness.report.film import Film, Freeze, derive_films, derive_freezes
from harness.report.lanes import Lane, derive_lanes
from harness.report.series import Chart, derive_charts
from harness.units import format_duration

_WORST_FIRST = (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS)
_HEADLINES = {Outcome.PASS: "passed", Outcome.FAIL: "failed", Outcome.UNKNOWN: "is unknown"}
_LAST_EVENTS = 5
# Told many times a second: drawn as curves, not listed one by one.
SAMPLED = frozenset({"flow:counted", "tcp:sampled", "media:progressed", "log:written", "emulator:measured"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run as the report is given it."""

    events: Sequence[Event]
    """The history's events, in order."""
    verdicts: Sequence[Verdict]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``run.json``; ``replay``, where present, overrides the derived replay line."""
    run_dir: Path | None = None
    """Where pictures, logs, capture and events lie; without it the page has no pictures and no links."""
    cut: str = ""
    """How the history was cut short or altered; empty: it is complete. What a cut one claims is *unknown*."""

    @classmethod
    def of(
        cls,
        history: History,
        verdicts: Sequence[Verdict],
        *,
        provenance: Mapping[str, Any] | None = None,
        run_dir: Path | None = None,
    ) -> RunView:
        """The view of a history that was read from its file or is still in memory."""
        given = provenance or {}
        return cls(events=history.events, verdicts=verdicts, provenance=given, run_dir=run_dir, cut=history.cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A verdict that is not a pass, with what explains it."""

    verdict: Verdict
    active_fault: str
    setting: str
    """The deciding setting, as the system under test named it; empty where none did."""
    last_events: Sequence[Event]
    """The last few events before the verdict was decided."""


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """One run, ready to draw."""

    view: RunView
    playbook: str
    engine: str
    topology: str
    seed: int | None
    systems: Mapping[str, str]
    outcome: Outcome
    start_ns: int
    end_ns: int
    script_ns: int | None
    """When the playbook's own clock started."""
    faults: Sequence[FaultWindow]
    lanes: Sequence[Lane]
    freezes: Sequence[Freeze]
    films: Sequence[Film]
    charts: Sequence[Chart]
    failures: Sequence[Failure]
    lateness: Mapping[str, Any] | None
    """The last ``emulator:measured``."""

    @cached_property
    def title(self) -> str:
        """The playbook, and the systems that are not the reference."""
        return " ".join([self.playbook, *self.unusual_systems])

    @property
    def unusual_systems(self) -> list[str]:
        """``role=name`` of every system that is not the reference."""
        return [f"{role}={name}" for role, name in sorted(self.systems.items()) if name != "reference"]

    @cached_property
    def counts(self) -> Counter[Outcome]:
        """How many verdicts there are of each outcome."""
        return Counter(verdict.outcome for verdict in self.view.verdicts)

    @property
    def zero_ns(self) -> int:
        """What the times shown count from: the script's start, as in the playbook; the run's zero without one."""
        return self.script_ns or 0

    @property
    def took_ns(self) -> int:
        return self.end_ns - self.start_ns

    @cached_property
    def replay(self) -> str:
        """The one line that runs this again."""
        given = self.view.provenance.get("replay")
        if isinstance(given, str) and given:
            return given
        words = ["deadair", "run", self.playbook, "--engine", self.engine]
        words += ["--seed", str(self.seed)] if self.seed is not None else []
        for system in self.unusual_systems:
            words += ["--system", system]
        return shlex.join(words)

    @cached_property
    def sentence(self) -> str:
        """The run's verdict in one sentence."""
        return f"{self.title} {self.headline}: {self.reason}."

    @property
    def telling(self) -> Sequence[Failure]:
        """The failures worth reading: a run that never came to its script, or was cut short, has one reason for all."""
        if self.script_ns is not None and not self.view.cut:
            return self.failures
        reason = [failure for failure in self.failures if failure.verdict.check == "script_ran"]
        return (reason or self.failures)[:1]

    @property
    def headline(self) -> str:
        """``"passed"``, ``"failed"`` or ``"is unknown"``."""
        return _HEADLINES[self.outcome]

    @cached_property
    def reason(self) -> str:
        """Why the outcome is what it is: the first claim that does not hold, and what was observed instead."""
        total = len(self.view.verdicts)
        if self.outcome is Outcome.PASS:
            return f"{_claims(total)}{_longest_freeze(self.freezes)}"
        if self.view.cut or not self.failures:
            return self.view.cut or "nothing was checked"
        worst = self.telling[0].verdict
        judged = "does not hold" if self.outcome is Outcome.FAIL else "could not be judged"
        why = worst.because.partition(" | ")[0]
        reason = f"; {stripped(why)}" if why and not why.startswith("active fault") else ""
        return f'"{stripped(worst.claim)}" {judged}; observed: {stripped(worst.observed)}{reason}'


def build_model(view: RunView) -> RunModel:
    """Derive everything that a report shows of ``view``; empty and cut-short histories are fine."""
    started = first(view.events, "run:started")
    said: Mapping[str, Any] = started.data if started else {}
    script = first(view.events, "script:started")
    end_ns = view.events[-1].t_ns if view.events else 0
    faults = derive_faults(view.events)
    freezes = derive_freezes(view.events, end_ns=end_ns)
    measured = [event for event in view.events if event.name == "emulator:measured"]
    return RunModel(
        view=view,
        playbook=str(said.get("playbook") or view.provenance.get("playbook") or _directory_name(view)),
        engine=str(said.get("engine") or view.provenance.get("engine") or "netns"),
        topology=str(said.get("topology", "")),
        seed=said.get("seed", view.provenance.get("seed")),
        systems=dict(said.get("systems", {})),
        outcome=outcome_of(view),
        start_ns=min(view.events[0].t_ns, 0) if view.events else 0,
        end_ns=end_ns,
        script_ns=script.t_ns if script else None,
        faults=faults,
        lanes=derive_lanes(view.events, freezes=freezes, end_ns=end_ns, roles=said.get("roles", {})),
        freezes=freezes,
        films=derive_films(view.events, freezes=freezes),
        charts=derive_charts(view.events),
        failures=derive_failures(view, faults, zero_ns=script.t_ns if script else 0),
        lateness=measured[-1].data if measured else None,
    )


def outcome_of(view: RunView) -> Outcome:
    """As the checks' own rule has it (:func:`harness.checks.overall`); a history that is cut short is unknown."""
    return Outcome.UNKNOWN if view.cut else overall(view.verdicts)


def worst_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several runs together; nothing at all is unknown."""
    found = set(outcomes)
    return next((outcome for outcome in _WORST_FIRST if outcome in found), Outcome.UNKNOWN)


def headline(models: Sequence[RunModel]) -> str:
    """The verdict over all runs in a few words."""
    if not models:
        return "Nothing ran, so nothing is known."
    if len(models) == 1:
        return f"{models[0].title} {models[0].headline}."
    counts = Counter(model.outcome for model in models)
    words = zip(_WORST_FIRST, ("failed", "unknown", "passed"), strict=True)
    return f"{len(models)} runs: {', '.join(f'{counts[o]} {word}' for o, word in words if counts[o])}."


def explanation(models: Sequence[RunModel]) -> str:
    """What stands behind the headline: the first run that did not pass, and why; or why a single one did."""
    if len(models) == 1:
        return f"{models[0].reason[:1].upper()}{models[0].reason[1:]}."
    worst = worst_outcome(model.outcome for model in models)
    if not models or worst is Outcome.PASS:
        return ""
    return f"First: {next(model for model in models if model.outcome is worst).sentence}"


def summary_sentence(models: Sequence[RunModel]) -> str:
    """The verdict over all runs on one line; the last that a terminal shows."""
    return models[0].sentence if len(models) == 1 else f"{headline(models)} {explanation(models)}".rstrip()


def first(events: Sequence[Event], name: str) -> Event | None:
    """The first event with this name."""
    return next((event for event in events if event.name == name), None)


def derive_faults(events: Sequence[Event]) -> Sequence[FaultWindow]:
    """Every fault with its receipt, in order of entering."""
    entered = (event for event in events if event.name == "fault:entered")
    return windows.pair(entered, (event for event in events if event.name == "fault:left"))


def receipt_text(fault: FaultWindow) -> str:
    """The receipt as a person reads it: ``"touched 1,234"``, or why there is none."""
    if fault.touched is None:
        return "no receipt: still active at the end"
    return f"touched {fault.touched:,}" if fault.touched else "touched nothing"


def derive_failures(view: RunView, faults: Sequence[FaultWindow], *, zero_ns: int) -> list[Failure]:
    """Failures first, then unknowns, each with the fault, setting and events that explain it."""
    by_number = {event.number: event for event in view.events}
    ordered = [v for outcome in (Outcome.FAIL, Outcome.UNKNOWN) for v in view.verdicts if v.outcome is outcome]
    failures = []
    for verdict in ordered:
        evidence = [by_number[number] for number in verdict.evidence if number in by_number]
        settings = dict.fromkeys(str(event.data["setting"]) for event in evidence if event.data.get("setting"))
        failures.append(
            Failure(
                verdict=verdict,
                active_fault=_active_fault(evidence, faults, zero_ns=zero_ns),
                setting="; ".join(settings),
                last_events=_last_before(view.events, evidence),
            )
        )
    return failures


def _active_fault(evidence: Sequence[Event], faults: Sequence[FaultWindow], *, zero_ns: int) -> str:
    """Which fault was active when the verdict was decided; when none was, which had healed last."""
    if not faults:
        return "none in this run"
    if not evidence:
        return "; ".join(fault.what for fault in faults)
    moment = max(event.t_ns for event in evidence)
    active = [fault for fault in faults if fault.covers(moment)]
    if active:
        return "; ".join(f"{fault.what} (since {clock(fault.start - zero_ns)})" for fault in active)
    healed = [(fault.end, fault) for fault in faults if fault.end is not None and fault.end <= moment]
    if not healed:
        return "none yet"
    end, last = max(healed, key=lambda item: item[0])
    return f"none any more ({stripped(last.what)}; healed at {clock(end - zero_ns)})"


def _last_before(events: Sequence[Event], evidence: Sequence[Event]) -> list[Event]:
    limit = max((event.t_ns for event in evidence), default=None)
    told = [e for e in events if e.name not in SAMPLED and (limit is None or e.t_ns <= limit)]
    return told[-_LAST_EVENTS:]


def fields_text(event: Event, *, most: int = 400) -> str:
    """An event's fields on one line, cut where they are endless."""
    line = " ".join(f"{key}={_value_text(value)}" for key, value in event.data.items())
    return line if len(line) <= most else line[: most - 1] + "…"


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def clock(t_ns: int) -> str:
    """A moment of the playbook's time, as the checks write it: ``"t=5.000 s"``."""
    return f"t={t_ns / 1e9:.3f} s"


def _claims(total: int) -> str:
    return "its one claim holds" if total == 1 else f"all {total} claims hold"


def _longest_freeze(freezes: Sequence[Freeze]) -> str:
    if not freezes:
        return ""
    worst = max(freezes, key=lambda freeze: freeze.end_ns - freeze.start_ns)
    return f"; the longest freeze was {format_duration(worst.end_ns - worst.start_ns)} at the {worst.role}"


def _directory_name(view: RunView) -> str:
    return view.run_dir.name if view.run_dir else "unnamed run"


def stripped(text: str) -> str:
    """``text`` without its full stop, to stand inside another sentence."""
    return text.rstrip(" .")
