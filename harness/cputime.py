"""CPU time of a whole run, labs included.

What ``deadair run`` and the forge use, and all that they wait for, is in the rusage of our waited-for children. The
labs are not: the forge ignores SIGCHLD, so a lab's time is never added to anybody's when it ends. A :class:`LabWatch`
therefore reads ``/proc`` while the run goes on. PID 1 of a lab waits for everything in it, so the sum over a lab's
living processes of their own time and of what they have waited for holds all that was ever used there, and misses
only what came after the last look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LAB = "deadair-lab"
"""Process name of a lab's supervisor: the lab is what descends from it."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table; times in seconds."""

    pid: int
    parent: int
    name: str
    own_s: float
    """Used by itself, all threads."""
    waited_s: float
    """Used by children that it has waited for, and by theirs."""


class LabWatch:
    """Adds up what labs below one process use; call :meth:`look` often while it runs."""

    def __init__(self, root: int, *, lab: str = LAB) -> None:
        self._root = root
        self._lab = lab
        self._labs: dict[int, float] = {}
        self._parts: dict[int, tuple[str, float]] = {}

    def look(self) -> None:
        """Read the process table once (a few ms)."""
        table = process_table()
        for pid in descendants(table, self._root):
            if table[pid].name == self._lab:
                self._look_at(table, pid)

    @property
    def total_s(self) -> float:
        """CPU seconds of all labs seen."""
        return sum(self._labs.values())

    def by_program(self) -> Mapping[str, float]:
        """CPU seconds by program, largest first; what lived for less than the time between two looks is missing."""
        totals: dict[str, float] = {}
        for name, seconds in self._parts.values():
            totals[name] = totals.get(name, 0.0) + seconds
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def _look_at(self, table: Mapping[int, Process], lab: int) -> None:
        members = [lab, *descendants(table, lab)]
        used = sum(table[pid].own_s + table[pid].waited_s for pid in members)
        # a process that ends between two readings of one look is missing from it: the greatest sum is the right one
        self._labs[lab] = max(self._labs.get(lab, 0.0), used)
        for pid in members:
            known, _ = self._parts.get(pid, (table[pid].name, 0.0))
            self._parts[pid] = (_program(table[pid]) or known, table[pid].own_s)


def process_table() -> dict[int, Process]:
    """Every process that can be seen, parents before the children that they had first."""
    pids = sorted(int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal())
    found = map(_read, pids)
    return {process.pid: process for process in found if process is not None}


def descendants(table: Mapping[int, Process], root: int) -> Iterator[int]:
    """PIDs below ``root``, without it."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    waiting = list(children.get(root, []))
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def _read(pid: int) -> Process | None:
    """None for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, rest = text[text.index("(") + 1 :].rsplit(")", 1)
    # proc_pid_stat(5): state is field 3, ppid 4, utime to cstime 14 to 17
    fields = rest.split()
    user, system, waited_user, waited_system = (int(field) / _TICK for field in fields[11:15])
    return Process(pid, int(fields[1]), name, user + system, waited_user + waited_system)


def _program(process: Process) -> str:
    """``reference_impl.client.publish`` for a Python module, else the process's name; empty for one that has ended."""
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if words == [""]:
        return ""
    if process.name.startswith("deadair") or "-m" not in words[:-1]:
        return process.name
    return words[words.index("-m") + 1]
