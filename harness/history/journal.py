"""Writes a run's history: ``events.jsonl``, one JSON object per line, append-only.

Laws of the file:

1. The first line is the header ``{"schema": "deadair.history/1", …}``. It holds nothing that two equal runs could
   differ in: no wall clock, host or absolute time (provenance stands in ``run.json``).
2. Then one line per event, ``{"n", "t_ns", "node", "source", "name", "data"}``; ``n`` counts from 0 without holes and
   ``t_ns`` counts from the run's zero.
3. Lines are in order of time. Sources reach the journal through pipes of their own, so what they tell arrives slightly
   out of order: every event is held back for a while (250 ms) and merged. Equal times are ordered by source, then by
   arrival, so that the order in which *different* sources happened to arrive never shows.
4. An event that arrives later than that is written all the same, where the file is by then; nothing is ever lost.
5. The last line closes the history with the count of the events and the SHA-256 over their lines. A history without
   it (harness killed, disk full) stays readable and counts as *cut short*.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from harness.errors import HarnessError
from harness.history import events
from harness.history.events import Event
from harness.units import MILLISECOND
from reference_impl import telemetry

SCHEMA = "deadair.history/1"
HOLD_BACK_NS = 250 * MILLISECOND

HARNESS_SOURCES = ("runner", "engine", "network")
"""Who tells the events of :data:`harness.history.events.EVENTS`; also the order in which equal times are written."""

_ABOUT_A_PROGRAM = ("process:", "log:", "ledger:taken")
"""Harness events that may be told under a role's name, because they are about that role's process."""


def verify(source: str, name: str, data: Mapping[str, Any]) -> telemetry.Fields:
    """The fields of this event, or :class:`telemetry.UnknownEventError` if ``source`` may not tell it so."""
    is_harness = name in events.EVENTS
    if is_harness and (source in HARNESS_SOURCES or name.startswith(_ABOUT_A_PROGRAM)):
        fields = events.EVENTS[name]
        _verify_fields(name, data, fields)
        return fields
    if is_harness or source in HARNESS_SOURCES:
        table = "harness/history/events.py" if source in HARNESS_SOURCES else "reference_impl/telemetry.py"
        raise events.UnknownEventError(f"{source!r} told {name!r}, which is not in its table of events ({table})")
    telemetry.verify(name, data)
    return telemetry.EVENTS[name]


def _verify_fields(name: str, data: Mapping[str, Any], fields: telemetry.Fields) -> None:
    if data.keys() != fields.keys():
        missing, extra = sorted(fields.keys() - data.keys()), sorted(data.keys() - fields.keys())
        raise events.UnknownEventError(f"{name}: fields missing {missing}, not in the table {extra}")
    for field, value in data.items():
        if not isinstance(value, fields[field]) or (isinstance(value, bool) and fields[field] is not bool):
            raise events.UnknownEventError(f"{name}: {field} is {value!r}, the table says {fields[field]}")


def encode(event: Event) -> bytes:
    """The event's line in the file, newline included."""
    line = {
        "n": event.number,
        "t_ns": event.t_ns,
        "node": event.node,
        "source": event.source,
        "name": event.name,
        "data": event.data,
    }
    return _line(line)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


HEADER = _line({"schema": SCHEMA, "clock": "ns since the run's zero", "hash": "sha256 over the event lines"})


def closing_line(count: int, digest: str) -> bytes:
    """The last line of a history of ``count`` events whose lines have this SHA-256 (hexadecimal)."""
    return _line({"closed": {"events": count, "sha256": digest}})


class Journal:
    """One run's history while it is being written.

    :meth:`record` has the signature of an engine's ``on_event``. Use it as a context manager: leaving it after an
    exception keeps what was told but writes no closing line.
    """

    def __init__(
        self,
        path: Path,
        *,
        zero_ns: int,
        hold_back_ns: int = HOLD_BACK_NS,
        clock: Callable[[], int] = time.monotonic_ns,
        on_written: Callable[[Event], None] | None = None,
    ) -> None:
        """``zero_ns`` is the run's zero on ``clock``; ``on_written`` sees each event in its final order."""
        self.path = path
        self.zero_ns = zero_ns
        self.written: list[Event] = []
        self.failure: HarnessError | None = None
        self._hold_back_ns = hold_back_ns
        self._clock = clock
        self._on_written = on_written
        self._held: list[tuple[int, tuple[int, str, str], int, str, Mapping[str, Any]]] = []
        self._arrivals = 0
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO | None = None
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error
        self._write(HEADER)

    def record(self, t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        """Take one event that happened at ``t_ns`` on the clock (absolute), and write what is due.

        Raises :class:`telemetry.UnknownEventError` for an event that is not in its source's table, ``ValueError`` for
        one before the run's zero or after the journal's end, :class:`HarnessError` once the file cannot be written.
        """
        fields = verify(source, name, data)
        since_zero = t_ns - self.zero_ns
        if since_zero < 0:
            raise ValueError(f"{source} told {name} {-since_zero} ns before the run's zero")
        if self._file is None:
            raise self.failure or ValueError(f"{source} told {name} after the history was closed")
        in_table_order = {field: data[field] for field in fields}
        heapq.heappush(self._held, (since_zero, _rank(source, node), self._arrivals, name, in_table_order))
        self._arrivals += 1
        self.advance(now=self._clock())

    def advance(self, *, now: int) -> None:
        """Write every event that is older than the hold-back at ``now``."""
        self._write_until(now - self.zero_ns - self._hold_back_ns)

    def next_deadline(self) -> int | None:
        """When :meth:`advance` next has something to write; None while nothing is held."""
        return self._held[0][0] + self.zero_ns + self._hold_back_ns if self._held else None

    def close(self) -> None:
        """Write what is held and the closing line; does nothing if the journal is closed already."""
        if self._file is None:
            return
        self._write_until(None)
        self._write(closing_line(len(self.written), self._hash.hexdigest()))
        self._close_file()

    def abandon(self) -> None:
        """Write what is held but no closing line: the history is *cut short*. Never raises."""
        if self._file is None:
            return
        try:
            self._write_until(None)
        except HarnessError:
            return
        self._close_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _write_until(self, limit: int | None) -> None:
        due: list[Event] = []
        number = len(self.written)
        while self._held and (limit is None or self._held[0][0] <= limit):
            t_ns, (_, source, node), _, name, data = heapq.heappop(self._held)
            due.append(Event(number=number + len(due), t_ns=t_ns, node=node, source=source, name=name, data=data))
        if not due:
            return
        lines = b"".join(map(encode, due))
        self._write(lines)
        self._hash.update(lines)
        self.written += due
        if self._on_written is not None:
            for event in due:
                self._on_written(event)

    def _write(self, lines: bytes) -> None:
        if self._file is None:
            return
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.failure = self._failed(error)
            self._cut()
            raise self.failure from error
        self._size += len(lines)

    def _cut(self) -> None:
        """Leave only whole lines behind; without the closing line the file says itself that it is cut short."""
        assert self._file is not None
        with contextlib.suppress(OSError):  # a reader copes with half a line too
            self._file.truncate(self._size)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _failed(self, error: OSError) -> HarnessError:
        return HarnessError(
            f"the history {self.path} cannot be written ({error.strerror or error}); it is cut short after "
            f"{len(self.written)} events, so this run has no verdict",
            cure="free some space or choose another directory with --out, then run again",
        )


def _rank(source: str, node: str) -> tuple[int, str, str]:
    try:
        return HARNESS_SOURCES.index(source), source, node
    except ValueError:
        return len(HARNESS_SOURCES), source, node
