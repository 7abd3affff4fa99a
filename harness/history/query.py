"""Reads a run's history: what happened, when, and what was broken at that time."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.history import windows
from harness.history.events import Event
from harness.history.journal import HEADER, SCHEMA, closing_line
from harness.history.windows import FaultWindow, Outage
from harness.units import format_duration


class History:
    """All events of one run in order of time, with an index by name.

    ``complete`` is False for a history that was cut short or altered; ``cut`` then says how.
    """

    def __init__(self, events: Iterable[Event], *, cut: str = "") -> None:
        # an event that came later than the journal's hold-back stands further down in the file
        self.events: Sequence[Event] = sorted(events, key=lambda event: event.t_ns)
        self.cut = cut
        self._named: dict[str, list[Event]] = {}
        for event in self.events:
            self._named.setdefault(event.name, []).append(event)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read ``events.jsonl``; raises :class:`HarnessError` for a file that is missing or no history at all."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise HarnessError(f"the history {path} cannot be read ({error.strerror or error})") from error
        return cls.parse(content, where=str(path))

    @classmethod
    def parse(cls, content: bytes, *, where: str = "history") -> History:
        """The history in the bytes of an ``events.jsonl``."""
        lines = content.splitlines(keepends=True)
        header = _object(lines[0]) if lines else None
        if header is None or header.get("schema") != SCHEMA:
            raise HarnessError(f"{where} is not a history", cure=f"its first line must name the schema {SCHEMA!r}")
        events, cut = _parse_events(lines[1:])
        return cls(events, cut=cut if lines[0] == HEADER else "its header was altered")

    @property
    def complete(self) -> bool:
        """Whether the closing line is there and its count and hash fit the events."""
        return not self.cut

    # --- asking for events ---------------------------------------------------------------------------------

    def named(
        self,
        *names: str,
        source: str | None = None,
        node: str | None = None,
        after: int | None = None,
        before: int | None = None,
        **fields: Any,
    ) -> list[Event]:
        """Events of these names with ``after <= t_ns <= before``, in order of time.

        Further keywords are fields that must have this value: ``named("egress:stopped", egress="platform")``.
        """
        found: list[Event] = []
        for name in names:
            found += self._between(self._named.get(name, []), after, before)
        if len(names) > 1:
            found.sort(key=lambda event: (event.t_ns, event.number))
        return [
            event
            for event in found
            if (source is None or event.source == source)
            and (node is None or event.node == node)
            and all(event.data.get(field) == value for field, value in fields.items())
        ]

    def first(self, *names: str, **which: Any) -> Event | None:
        """The earliest event that :meth:`named` finds."""
        return next(iter(self.named(*names, **which)), None)

    def last(self, *names: str, **which: Any) -> Event | None:
        """The latest event that :meth:`named` finds."""
        found = self.named(*names, **which)
        return found[-1] if found else None

    def in_script(self, *names: str, source: str | None = None, **fields: Any) -> list[Event]:
        """Like :meth:`named`, between the script's beginning and its end."""
        return self.named(*names, source=source, after=self.zero, before=self.script_end, **fields)

    @staticmethod
    def _between(events: list[Event], after: int | None, before: int | None) -> list[Event]:
        if after is None and before is None:
            return events
        low = 0 if after is None else bisect_left(events, after, key=lambda event: event.t_ns)
        high = len(events) if before is None else bisect_right(events, before, key=lambda event: event.t_ns)
        return events[low:high]

    # --- the run -------------------------------------------------------------------------------------------

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """The data of ``run:started``; empty if the history has none."""
        started = self.first("run:started")
        return {} if started is None else started.data

    @property
    def roles(self) -> Mapping[str, str]:
        """Role → node."""
        roles: Mapping[str, str] = self.run.get("roles", {})
        return roles

    @property
    def systems(self) -> Mapping[str, str]:
        """Role → name of the system that plays it."""
        systems: Mapping[str, str] = self.run.get("systems", {})
        return systems

    @cached_property
    def zero(self) -> int:
        """When the script began (``script:started``), which the playbook's times count from; 0 without a script."""
        started = self.first("script:started")
        return 0 if started is None else started.t_ns

    @cached_property
    def end(self) -> int:
        """Time of the last event."""
        return self.events[-1].t_ns if self.events else 0

    @cached_property
    def script_end(self) -> int:
        """When the script had ended; what comes later is the ordered shut-down. The last event without one."""
        ended = self.last("script:ended")
        return self.end if ended is None else ended.t_ns

    def tells(self, source: str, *names: str) -> bool:
        """Whether ``source`` told at least one event of these names (a third party's program may tell none)."""
        return any(event.source == source for name in names for event in self._named.get(name, []))

    def at(self, t_ns: int) -> str:
        """A moment for people, in the playbook's time: ``"t=5.00 s"``."""
        return f"t={format_duration(t_ns - self.zero)}"

    # --- what was broken -----------------------------------------------------------------------------------

    @cached_property
    def faults(self) -> Sequence[FaultWindow]:
        """Every fault with its receipt, by the time it entered; they may overlap and nest."""
        entered, left = self.named("fault:entered"), self.named("fault:left")
        return windows.pair(entered, left, started=self.named("process:started"), roles=self.roles)

    def active_at(self, t_ns: int) -> Sequence[FaultWindow]:
        """Faults that were active at ``t_ns``."""
        return [window for window in self.faults if window.covers(t_ns)]

    def outages(self, role: str = "publisher") -> Sequence[Outage]:
        """Times in which a fault silenced the media of ``role``; overlapping faults are one outage."""
        return windows.merge(
            window for window in self.faults if windows.stops_tcp(window) and windows.reaches(window, role, self.roles)
        )

    def breaks(self, role: str = "publisher") -> Sequence[FaultWindow]:
        """Faults of a moment after which a connection of ``role`` is dead: resets, NAT state lost, a peer killed."""
        return [
            window
            for window in self.faults
            if window.kind in windows.BREAKING and windows.reaches(window, role, self.roles)
        ]


def _parse_events(lines: Sequence[bytes]) -> tuple[list[Event], str]:
    """The events of the lines after the header, and why they are not complete (empty: they are)."""
    parsed: list[Event] = []
    digest = hashlib.sha256()
    for place, line in enumerate(lines):
        value = _object(line) if line.endswith(b"\n") else None
        if value is None:
            return parsed, f"line {place + 2} is not whole"
        if "closed" in value:
            closing = closing_line(len(parsed), digest.hexdigest())
            return parsed, _compare(line, closing, rest=len(lines) - place - 1)
        try:
            event = _event(value)
        except (KeyError, TypeError, ValueError):
            return parsed, f"line {place + 2} is not an event"
        if event.number != len(parsed):
            return parsed, f"line {place + 2} has number {event.number}, expected {len(parsed)}"
        digest.update(line)
        parsed.append(event)
    return parsed, f"it has no closing line (cut short after {len(parsed)} events)"


def _compare(line: bytes, expected: bytes, *, rest: int) -> str:
    if rest:
        return f"{rest} lines follow the closing line"
    return "" if line == expected else "the closing line does not fit the events: the file was altered"


def _event(value: Mapping[str, Any]) -> Event:
    return Event(
        number=int(value["n"]),
        t_ns=int(value["t_ns"]),
        node=str(value["node"]),
        source=str(value["source"]),
        name=str(value["name"]),
        data=dict(value["data"]),
    )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
