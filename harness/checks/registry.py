"""All checks by name, and how a run is judged by them.

A check is a pure function of a history and its limits. ``CHECKS`` is the playbook's vocabulary: what ``expect`` may
name, with which limits. :func:`evaluate` adds the checks that every run has; what one of *those* leaves unknown makes
the whole run unknown, because it was no fair test.
"""

from __future__ import annotations

import dataclasses
import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.checks import cleanup, conditions, egresses, limits, media, publishing, resuming, sessions
from harness.checks.circumstances import CannotTellError
from harness.checks.limits import Limits
from harness.checks.parameters import LimitError, Parameter, did_you_mean, parameters_of, read_limits
from harness.checks.verdict import Outcome, Verdict
from harness.history.query import History

Judge = Callable[[History, Any], Verdict]


@dataclass(frozen=True)
class CheckSpec:
    """One check: its limits (which carry name, claim and defaults) and the function that judges."""

    limits: type[Limits]
    judge: Judge

    @property
    def name(self) -> str:
        """As the playbook's ``expect`` writes it."""
        return self.limits.check

    @property
    def sentence(self) -> str:
        """What it claims, for lists and the schema."""
        return (inspect.getdoc(self.limits) or "").split("\n\n")[0].replace("\n", " ")

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """The limits that a playbook may set, by name, with kind, default, meaning and source."""
        return {parameter.name: parameter for parameter in parameters_of(self.limits)}

    def read(self, given: Mapping[str, object] | None = None) -> Limits:
        """The limits from what a playbook says (``{"within": "2 s"}``); raises :class:`LimitError`."""
        read: Limits = read_limits(self.limits, given or {})
        return read


@dataclass(frozen=True, slots=True)
class Expectation:
    """One claim that a playbook makes about its run."""

    limits: Limits
    line: int = 0
    """Where the playbook makes it."""


_ALL = (
    CheckSpec(limits.ScriptRan, conditions.script_ran),
    CheckSpec(limits.FaultsFired, conditions.faults_fired),
    CheckSpec(limits.EmulatorPunctual, conditions.emulator_punctual),
    CheckSpec(limits.NothingCrashed, conditions.nothing_crashed),
    CheckSpec(limits.StoppedInOrder, cleanup.stopped_in_order),
    CheckSpec(limits.OutageDetected, publishing.outage_detected),
    CheckSpec(limits.Reconnects, publishing.reconnects),
    CheckSpec(limits.NoReconnect, publishing.no_reconnect),
    CheckSpec(limits.AttemptsBounded, publishing.attempts_bounded),
    CheckSpec(limits.OldConnectionHeld, publishing.old_connection_held),
    CheckSpec(limits.NeverStopped, publishing.never_stopped),
    CheckSpec(limits.StatusSeen, publishing.status_seen),
    CheckSpec(limits.KeyframeFirst, media.keyframe_first),
    CheckSpec(limits.MediaResumed, resuming.media_resumed),
    CheckSpec(limits.LongestGap, media.longest_gap),
    CheckSpec(limits.FramesLost, media.frames_lost),
    CheckSpec(limits.GateHeld, media.gate_held),
    CheckSpec(limits.SessionKept, sessions.session_kept),
    CheckSpec(limits.SessionEnded, sessions.session_ended),
    CheckSpec(limits.PublishAccepted, sessions.publish_accepted),
    CheckSpec(limits.NeverRefused, sessions.never_refused),
    CheckSpec(limits.NoStaleHarm, sessions.no_stale_harm),
    CheckSpec(limits.EgressKept, egresses.egress_kept),
    CheckSpec(limits.EgressStopped, egresses.egress_stopped),
    CheckSpec(limits.LeftoverEnded, egresses.leftover_ended),
    CheckSpec(limits.HonestStatus, egresses.honest_status),
    CheckSpec(limits.NothingOrphaned, cleanup.nothing_orphaned),
)

CHECKS: Mapping[str, CheckSpec] = {spec.name: spec for spec in _ALL}
"""Every check by the name that a playbook uses."""

EVERY_RUN = ("script_ran", "faults_fired", "emulator_punctual", "nothing_crashed", "stopped_in_order")
"""Checks that need not be asked for; a playbook may name one to set other limits."""


def expectation(name: str, given: Mapping[str, object] | None = None, *, line: int = 0) -> Expectation:
    """The expectation that a playbook writes as ``name: {limit: value}``; raises :class:`LimitError`."""
    spec = CHECKS.get(name)
    if spec is None:
        raise LimitError(f"no check is called {name!r}", hint=did_you_mean(name, CHECKS))
    return Expectation(spec.read(given), line)


def run_check(history: History, limits: Limits, *, line: int = 0) -> Verdict:
    """The check's verdict; *unknown* for a history that is cut short, and where the check itself fails."""
    if not history.complete:
        reason = "a history without its closing hash proves nothing"
        return dataclasses.replace(
            limits.unknown(f"the history is cut short: {history.cut}", because=reason), line=line
        )
    try:
        verdict = CHECKS[limits.check].judge(history, limits)
    except CannotTellError as error:
        verdict = limits.unknown(str(error), evidence=error.evidence)
    except Exception as error:  # a check that crashes has judged nothing
        verdict = limits.unknown(f"the check itself failed: {type(error).__name__}: {error}", because=_where(error))
    return dataclasses.replace(verdict, line=line)


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"a defect of the harness, in {last.name} ({last.filename}:{last.lineno}); please report it"


def evaluate(history: History, expectations: Iterable[Expectation]) -> list[Verdict]:
    """The verdicts of every run, then those that were asked for, in order."""
    asked = list(expectations)
    named = {entry.limits.check for entry in asked}
    always = [Expectation(CHECKS[name].read()) for name in EVERY_RUN if name not in named]
    return [run_check(history, entry.limits, line=entry.line) for entry in [*always, *asked]]


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """The run's outcome: unknown if it was no fair test, else fail over unknown over pass; unknown for no verdicts."""
    if not verdicts or any(_unfair(verdict) for verdict in verdicts):
        return Outcome.UNKNOWN
    outcomes = {verdict.outcome for verdict in verdicts}
    return next(outcome for outcome in (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS) if outcome in outcomes)


def _unfair(verdict: Verdict) -> bool:
    return verdict.outcome is Outcome.UNKNOWN and verdict.check in EVERY_RUN
