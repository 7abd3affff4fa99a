"""Checks that every run has: was it a fair test at all? What they cannot answer with yes makes the run *unknown*."""

from __future__ import annotations

import signal

from harness.checks.circumstances import because, struck
from harness.checks.limits import EmulatorPunctual, FaultsFired, NothingCrashed, ScriptRan
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.history.windows import FaultWindow
from harness.units import MICROSECOND, format_duration

_LOSSES = ("ring_lost", "malformed", "unsent")
_UNSENT_EXPECTED = ("carrier_off", "interface_down", "kill", "restart")


def script_ran(history: History, limits: ScriptRan) -> Verdict:
    """Unknown if the steady state was missed, a step failed, someone interrupted, or the run never ended."""
    spoilt = history.first("steady:missed", "step:failed", "run:interrupted", "run:failed")
    if spoilt is not None:
        return limits.unknown(_spoilt(spoilt), because=because(history, spoilt.t_ns), evidence=[spoilt])
    ended = history.last("run:ended")
    if ended is None:
        return limits.unknown("the history has no run:ended")
    steps = history.named("step:begun")
    return limits.passed(f"{len(steps)} step{'' if len(steps) == 1 else 's'} done", evidence=[*steps[-1:], ended])


def _spoilt(event: Event) -> str:
    if event.name == "steady:missed":
        return f"no steady state: {event.data['missing']}"
    if event.name == "step:failed":
        return f"step {event.data['step']} failed: {event.data['error']}"
    if event.name == "run:failed":
        return str(event.data["error"])
    return f"interrupted by {event.data['by']}"


def faults_fired(history: History, limits: FaultsFired) -> Verdict:
    """Unknown if a fault touched nothing or left no receipt: then the test did not take place."""
    idle = [window for window in history.faults if not window.touched]
    if idle:
        evidence = [event for window in idle for event in (window.entered, window.left) if event is not None]
        reason = "a fault that breaks nothing proves nothing: look at its target, its time and whether media flowed"
        return limits.unknown("; ".join(map(_receipt, idle)), because=reason, evidence=evidence)
    receipts = [window.left for window in history.faults if window.left is not None]
    return limits.passed("; ".join(map(_receipt, history.faults)) or "no faults in this run", evidence=receipts)


def _receipt(window: FaultWindow) -> str:
    if window.touched is None:
        return f"{window.what}: no receipt (fault:left is missing)"
    return f"{window.what}: touched {window.touched or 'nothing'}"


def emulator_punctual(history: History, limits: EmulatorPunctual) -> Verdict:
    """Unknown if packets were delivered too late or lost by the emulator: then this machine was measured."""
    measured = history.named("emulator:measured")
    if history.run.get("engine") == "sim":
        return limits.passed("virtual time is never late", evidence=measured)
    if not measured:
        return limits.unknown("the emulated network told nothing about its lateness")
    lost = _lost_by_the_emulator(history, measured)
    if lost:
        reason = "these packets were not lost by a fault or a link of the playbook, but by the emulated network itself"
        return limits.unknown("; ".join(lost), because=reason, evidence=measured)
    worst = max(measured, key=lambda event: float(event.data["late_p99_us"]))
    p99, latest = (_greatest_ns(measured, field) for field in ("late_p99_us", "late_max_us"))
    if p99 <= limits.late_p99_ns and latest <= limits.late_max_ns:
        return limits.passed(f"p99 {format_duration(p99)}, at most {format_duration(latest)}", evidence=[worst])
    return limits.unknown(
        f"p99 {format_duration(p99)}, at most {format_duration(latest)}",
        because="this machine was too busy for the emulated network; run fewer things beside it",
        evidence=[worst],
    )


def _greatest_ns(measured: list[Event], field: str) -> int:
    return round(max(float(event.data[field]) for event in measured) * MICROSECOND)


def _lost_by_the_emulator(history: History, measured: list[Event]) -> list[str]:
    """One sentence per kind of loss. An interface may take nothing while it is off, or its node was killed."""
    ring, malformed, unsent = (max(event.data[field] for event in measured) for field in _LOSSES)
    excused = any(window.kind in _UNSENT_EXPECTED for window in history.faults)
    sentences = (
        (ring, f"{ring} packets found no room in the emulator's ring: it was too busy to read them"),
        (malformed, f"{malformed} packets of the nodes could not be read by the emulator"),
        (0 if excused else unsent, f"{unsent} packets were not taken by the interface of a node, and none was off"),
    )
    return [sentence for count, sentence in sentences if count]


def nothing_crashed(history: History, limits: NothingCrashed) -> Verdict:
    """Fails for a process that exits unasked or wrongly, and for a program that tells ``program:failed``."""
    crashes = [event for event in history.named("process:exited") if not _asked_for(history, event)]
    crashes += history.named("program:failed")
    if not crashes:
        return limits.passed("0 crashes", evidence=history.named("process:exited"))
    first = min(crashes, key=lambda event: event.t_ns)
    reason = because(history, first.t_ns, f"see logs of {first.source}")
    return limits.failed("; ".join(_crash(history, event) for event in crashes), because=reason, evidence=crashes)


def _asked_for(history: History, exited: Event) -> bool:
    """Whether a fault sent the signal that ended it, or the harness asked it to end and it did so with code 0.

    How a program ends that cannot tell (somebody else's) when it is asked to says nothing: ffmpeg exits with 255.
    """
    number = exited.data["signal"]
    if number in {signal.Signals[name] for name in struck(history, exited.data["pid"])}:
        return True
    if not exited.data["expected"]:
        return False
    return not (number or exited.data["code"]) or not history.tells(exited.source, "program:ready")


def _crash(history: History, event: Event) -> str:
    when = history.at(event.t_ns)
    if event.name == "program:failed":
        return f"{event.data['role']} failed at {when}: {event.data['error']}"
    how = f"signal {event.data['signal']}" if event.data["signal"] else f"exit code {event.data['code']}"
    asked = "when asked to" if event.data["expected"] else "unasked"
    return f"{event.data['program']} (pid {event.data['pid']}) ended {asked} at {when} with {how}"
