"""Checks on the end: each program stops in order, and nothing is left over, neither in the lab nor in a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.checks.circumstances import CannotTellError, because, span, struck
from harness.checks.limits import NothingOrphaned, StoppedInOrder
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History

_EMPTY_AT_THE_END = ("sessions", "connections", "viewers", "egresses", "workers")
"""Fields of ``ledger:told`` that must be 0 when a program has stopped; the others may not have grown."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that should not be there any more."""

    what: str
    told: Event


def stopped_in_order(history: History, limits: StoppedInOrder) -> Verdict:
    """Of each program that was ready and alive when the script ended: ``program:stopped``, then exit code 0."""
    if history.last("script:ended") is None:
        raise CannotTellError("the script has not ended, so nobody was asked to stop in order")
    asked = [started for started in history.named("process:started") if _was_asked(history, started)]
    wrong = {started.source: problem for started in asked if (problem := _disorder(history, started))}
    ends = [end for started in asked if (end := _exit_of(history, started)) is not None]
    if wrong:
        told = "; ".join(f"{source} {problem}" for source, problem in wrong.items())
        reason = because(history, ends[0].t_ns if ends else history.end, f"see logs of {', '.join(wrong)}")
        return limits.failed(told, because=reason, evidence=[*ends, *(one for one in asked if one.source in wrong)])
    names = ", ".join(started.source for started in asked)
    return limits.passed(f"in order: {names or 'no program of this run can tell'}", evidence=ends)


def _was_asked(history: History, started: Event) -> bool:
    """Whether this process told that it was ready, and lived unharmed until the harness wound up."""
    end, source = _exit_of(history, started), started.source
    last = history.script_end if end is None else end.t_ns
    ready = history.first("program:ready", source=source, after=started.t_ns, before=history.script_end)
    again = history.first("process:started", source=source, after=started.t_ns + 1)
    if ready is None or last < history.script_end or (again is not None and again.t_ns <= ready.t_ns):
        return False
    return not struck(history, started.data["pid"], since=history.script_end)


def _exit_of(history: History, started: Event) -> Event | None:
    pid = started.data["pid"]
    return history.first("process:exited", source=started.source, after=started.t_ns, pid=pid)


def _disorder(history: History, started: Event) -> str:
    """What was wrong with the end of one process; empty where nothing was."""
    end, source = _exit_of(history, started), started.source
    if end is None:
        return "never ended"
    took = span(history.script_end, end.t_ns)
    if end.data["signal"]:
        return f"had to be ended by signal {end.data['signal']}, {took} after the script"
    if end.data["code"]:
        return f"ended with exit code {end.data['code']}"
    said = history.first("program:stopped", source=source, after=history.script_end, before=end.t_ns)
    return "" if said is not None else "ended without a program:stopped"


def nothing_orphaned(history: History, limits: NothingOrphaned) -> Verdict:
    """Compares the engine's ledgers of beginning and end, each program's last ledger, and what was never ended."""
    ledgers = history.named("ledger:taken")
    if not ledgers:
        return limits.unknown("no ledger was taken")
    leaks = [*_left_in_the_lab(ledgers), *_left_in_programs(history, limits), *_never_ended(history)]
    evidence = [ledgers[-1], *(leak.told for leak in leaks)]
    if leaks:
        reason = because(history, ledgers[-1].t_ns)
        return limits.failed("left over: " + "; ".join(leak.what for leak in leaks), because=reason, evidence=evidence)
    programs = {event.source for event in history.named("ledger:told")}
    also = f", and {', '.join(sorted(programs))} hold nothing" if programs else ""
    return limits.passed(f"the lab is as empty as it was{also}", evidence=evidence)


def _left_in_the_lab(ledgers: Sequence[Event]) -> list[Leak]:
    """Processes and sockets of the last ledger that the first does not have (the first alone counts as the last)."""
    last = ledgers[-1]
    leaks = []
    for kind, field in (("process", "processes"), ("socket", "sockets")):
        before = {_name(item) for item in ledgers[0].data[field]} if len(ledgers) > 1 else set()
        names = [name for name in map(_name, filter(_is_held, last.data[field])) if name not in before]
        leaks += [Leak(f"{kind} {name}", last) for name in names]
    return leaks


def _is_held(item: object) -> bool:
    """Not so a socket in TIME_WAIT: nobody holds it, the kernel keeps it for 2 MSL (RFC 9293, 3.6.1)."""
    return not isinstance(item, Mapping) or item.get("state") != "TIME_WAIT"


def _name(item: object) -> str:
    """A process as ``"gateway 4711 (python -m …)"``; anything else as the ledger names it."""
    if not isinstance(item, Mapping):
        return str(item)
    if "pid" in item:
        command = str(item.get("command") or item.get("program") or "")
        source = str(item.get("source") or "started by a program")
        return f"{source} {item['pid']} ({command[:80]})"
    return " ".join(f"{key}={value}" for key, value in item.items())


def _left_in_programs(history: History, limits: NothingOrphaned) -> list[Leak]:
    """What programs that stopped in order said they still held."""
    leaks: list[Leak] = []
    for stopped in history.named("program:stopped"):
        told = _lifetime(history, stopped)
        if told:
            leaks += _held(told[0].data, told[-1], limits)
    return leaks


def _lifetime(history: History, stopped: Event) -> list[Event]:
    """The ledgers that this incarnation of the program told, up to a second after it said that it had stopped."""
    source, node = stopped.source, stopped.node
    ready = history.last("program:ready", source=source, node=node, before=stopped.t_ns)
    told = history.named("ledger:told", source=source, node=node, after=0 if ready is None else ready.t_ns)
    again = history.first("program:ready", source=source, node=node, after=stopped.t_ns)
    return [event for event in told if again is None or event.t_ns < again.t_ns]


def _held(first: Mapping[str, Any], last: Event, limits: NothingOrphaned) -> list[Leak]:
    leaks = [
        Leak(f"{last.data[field]} {field} held by {last.source}", last)
        for field in _EMPTY_AT_THE_END
        if last.data[field] > 0
    ]
    for field, allowed in (("tasks", 0), ("descriptors", limits.descriptors)):
        grown = last.data[field] - first[field]
        if grown > allowed and first[field] >= 0:
            leaks.append(Leak(f"{grown} {field} more than at first in {last.source}", last))
    return leaks


def _never_ended(history: History) -> list[Leak]:
    """Sessions and egresses that began and of which no end was told, though their gateway stopped in order."""
    stopped = history.last("program:stopped", source="gateway")
    if stopped is None:
        return []
    ready = history.last("program:ready", source="gateway", before=stopped.t_ns)
    since = 0 if ready is None else ready.t_ns
    ended = {event.data["session"] for event in history.named("session:ended")}
    sessions = [
        Leak(f"session {event.data['session']} (never ended)", event)
        for event in history.named("session:opened", after=since)
        if event.data["session"] not in ended
    ]
    return sessions + list(_running_egresses(history))


def _running_egresses(history: History) -> Iterable[Leak]:
    running: dict[str, list[Event]] = {}
    for event in history.named("egress:started", "egress:stopped", "egress:leftover_ended"):
        workers = running.setdefault(str(event.data["egress"]), [])
        if event.name == "egress:started":
            workers.append(event)
        elif event.name == "egress:leftover_ended":
            workers[:] = [worker for worker in workers if worker.data["worker"] != event.data["worker"]]
        elif workers:
            workers.pop()
    for name, workers in running.items():
        for event in workers:
            yield Leak(f"egress {name} (worker {event.data['worker']} never stopped)", event)
