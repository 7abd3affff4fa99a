"""What the programs tell: names, fields and units of all their events, as one table.

A program writes one JSON object per line: ``{"t_ns": …, "name": "category:past_tense", "data": {…}}``, where
``t_ns`` is CLOCK_MONOTONIC in nanoseconds (the clock that the SEI stamps in the pictures use too). An event that
is not in the table, or has other fields than the table says, is an error at the place that told it: a misspelt
event would otherwise be a check that silently sees nothing.

Field units are part of the field's name (``_ms``, ``_s``, ``_bytes``, ``_bps``); counts and identifiers have none.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Fields = Mapping[str, type | tuple[type, ...]]
_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))

EVENTS: dict[str, Fields] = {
    # --- every program -------------------------------------------------------------------------------------
    "program:ready": {"role": str, "detail": str},
    "program:stopped": {"role": str, "reason": str},
    "program:failed": {"role": str, "error": str},
    # --- publisher -----------------------------------------------------------------------------------------
    # `connection` numbers the publisher's TCP connections from 1; `attempt` counts within one reconnect.
    "connect:attempted": {"connection": int, "attempt": int, "host": str, "port": int},
    "connect:established": {
        "connection": int,
        "attempt": int,
        "took_ms": _NUMBER,
        "local": str,
        "remote": str,
    },
    "connect:failed": {"connection": int, "attempt": int, "reason": str},
    "publish:started": {"connection": int, "took_ms": _NUMBER},
    "publish:refused": {"connection": int, "code": str, "description": str},
    "connection:lost": {"connection": int, "reason": str},
    "connection:reset": {"connection": int, "reason": str},
    # `watchdog` is bytes_accepted | ack_progress; `setting` names the knob that decided, with its value.
    "stall:detected": {"connection": int, "watchdog": str, "age_ms": _NUMBER, "setting": str},
    "stall:cleared": {"connection": int, "age_ms": _NUMBER, "by": str},
    "reconnect:started": {"reason": str, "setting": str},
    "reconnect:scheduled": {"attempt": int, "delay_ms": _NUMBER},
    # `reconnect` counts the completed reconnects of this program from 1.
    "reconnect:completed": {"reconnect": int, "connection": int, "attempts": int, "took_ms": _NUMBER},
    "reconnect:abandoned": {"reason": str},
    "reconnect:gave_up": {"attempts": int, "after_ms": _NUMBER, "setting": str},
    "status:changed": {"status": str, "reason": str},
    "keyframe:requested": {"reason": str},
    "keyframe:encoded": {"frame": int, "reason": str},
    "frames:dropped": {"first": int, "last": int, "reason": str},
    "tcp:sampled": {
        "connection": int,
        "outstanding_bytes": int,
        "unsent_bytes": int,
        "acked_bytes": int,
        "last_ack_age_ms": _NUMBER,
        "rto_ms": _NUMBER,
        "srtt_ms": _NUMBER,
        "backoff": int,
        "queued_bytes": int,
    },
    # --- gateway: ingest -----------------------------------------------------------------------------------
    # A session outlives its connections; `epoch` numbers the accepted publishes of one session from 1.
    "publish:accepted": {"stream": str, "session": str, "epoch": int, "peer": str},
    "publish:rejected": {"stream": str, "peer": str, "code": str, "reason": str, "setting": str},
    "session:opened": {"stream": str, "session": str},
    "session:stalled": {"session": str, "epoch": int, "silent_ms": _NUMBER, "setting": str},
    "session:recovered": {"session": str, "epoch": int, "silent_ms": _NUMBER},
    "session:lost": {"session": str, "epoch": int, "reason": str, "window_s": _NUMBER},
    "session:taken_over": {"session": str, "old_epoch": int, "new_epoch": int, "rule": str},
    "session:resumed": {"session": str, "epoch": int, "away_ms": _NUMBER},
    "session:ended": {"session": str, "reason": str, "setting": str},
    "stale:ignored": {"session": str, "epoch": int, "what": str},
    "gate:closed": {"session": str, "reason": str},
    "gate:opened": {"session": str, "epoch": int, "frame": int, "withheld": int, "waited_ms": _NUMBER},
    # every video key frame that arrives: `idr` by NAL type, `parameter_sets` in front of it or in the header, `first`
    # if no other video frame came before it on its connection.
    "keyframe:received": {"frame": int, "idr": bool, "parameter_sets": bool, "first": bool},
    # --- gateway: viewers and egress -----------------------------------------------------------------------
    "viewer:joined": {"session": str, "viewer": str},
    "viewer:dropped": {"session": str, "viewer": str, "reason": str},
    "viewer:left": {"session": str, "viewer": str},
    # `egress` names one destination of one session, `worker` is the pid of the process that serves it.
    "egress:started": {"session": str, "egress": str, "worker": int, "url": str},
    "egress:stop_requested": {"session": str, "egress": str, "reason": str},
    "egress:stopped": {"session": str, "egress": str, "reason": str, "exit": str, "took_ms": _NUMBER},
    "egress:leftover_ended": {"egress": str, "worker": int, "how": str},
    "egress:state_changed": {"egress": str, "state": str, "reason": str, "setting": str},
    "egress:retried": {"egress": str, "attempt": int, "delay_ms": _NUMBER},
    # --- whoever receives media: gateway ingest, viewer, destination -----------------------------------------
    "play:started": {"stream": str},
    "play:refused": {"stream": str, "code": str},
    "play:retried": {"attempt": int, "delay_ms": _NUMBER, "reason": str},
    "push:accepted": {"stream": str, "peer": str, "push": int},
    "push:refused": {"stream": str, "peer": str, "code": str, "setting": str},
    "push:ended": {"stream": str, "push": int, "reason": str},
    # `frame` is the number in the SEI stamp, or -1 where the picture has none; `method` is sei | dts.
    "media:started": {
        "frame": int,
        "idr": bool,
        "parameter_sets": bool,
        "decoded": bool,
        "delay_ms": _OPTIONAL_NUMBER,
    },
    "media:frozen": {"last_frame": int, "after_ms": _NUMBER, "setting": str},
    # first good picture after a freeze; `gap_ms` is between the two arrivals, `missing` counts frame numbers.
    "media:resumed": {
        "last_frame": int,
        "frame": int,
        "gap_ms": _NUMBER,
        "missing": int,
        "idr": bool,
        "parameter_sets": bool,
        "decoded": bool,
        "delay_ms": _OPTIONAL_NUMBER,
        "method": str,
    },
    "media:skipped": {"first": int, "last": int, "method": str},
    # out of order, or twice the same: `frame` is not newer than `previous`.
    "media:disordered": {"previous": int, "frame": int, "method": str},
    # the stamps name another source (a publisher that started anew): numbers before and after do not compare.
    "media:source_changed": {"previous": str, "frame": int},
    # the first of a run of frames that cannot be shown; the run ends at the next IDR.
    "media:undecodable": {"frame": int, "error": str},
    # every 500 ms from the first picture on, also while frozen. `frames` (seen), `video_bytes` and `audio_packets`
    # count from the program's start; delays and longest gap are of the time since the event before (a gap that is
    # still open counts), `delay_ms` that of the newest picture in it, None if there was none.
    "media:progressed": {
        "frames": int,
        "last_frame": int,
        "video_bytes": int,
        "audio_packets": int,
        "delay_ms": _OPTIONAL_NUMBER,
        "delay_max_ms": _OPTIONAL_NUMBER,
        "longest_gap_ms": _NUMBER,
    },
    "media:ended": {"frames": int, "last_frame": int, "reason": str},
    "picture:saved": {"frame": int, "path": str, "moment": str},
    # --- ledger: what a program still holds, told on demand and when it stops --------------------------------
    "ledger:told": {
        "sessions": int,
        "connections": int,
        "viewers": int,
        "egresses": int,
        "workers": int,
        "tasks": int,
        "descriptors": int,
    },
}


class UnknownEventError(ValueError):
    """An event that is not in :data:`EVENTS`, or whose fields are not those of the table."""


def verify(name: str, data: Mapping[str, Any]) -> None:
    """Raise :class:`UnknownEventError` unless ``name`` has exactly these fields, of the table's types."""
    fields = EVENTS.get(name)
    if fields is None:
        raise UnknownEventError(f"{name!r} is not in the table of events (reference_impl/telemetry.py)")
    if data.keys() != fields.keys():
        missing, extra = sorted(fields.keys() - data.keys()), sorted(data.keys() - fields.keys())
        raise UnknownEventError(f"{name}: fields missing {missing}, not in the table {extra}")
    for field, value in data.items():
        if not isinstance(value, fields[field]) or (isinstance(value, bool) and fields[field] is not bool):
            raise UnknownEventError(f"{name}: {field} is {value!r}, the table says {fields[field]}")


class Telemetry(Protocol):
    """Where a program tells its events."""

    def tell(self, name: str, **data: Any) -> None:
        """Record one event now; raises :class:`UnknownEventError` for what is not in the table."""


class TelemetryWriter:
    """Writes events as JSON lines to a file descriptor.

    A telemetry reader that has gone away must not change what the program does, so write errors are swallowed;
    the descriptor is blocking, as a lost event would be a lost verdict.
    """

    def __init__(self, descriptor: int, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._descriptor = descriptor
        self._clock = clock

    def tell(self, name: str, **data: Any) -> None:
        verify(name, data)
        line = json.dumps({"t_ns": self._clock(), "name": name, "data": data}, separators=(",", ":")) + "\n"
        rest = memoryview(line.encode())
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                return


class TelemetryRecorder:
    """Keeps events in memory as ``(t_ns, name, data)``; for tests and for programs used as a library."""

    def __init__(self, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self._clock = clock

    def tell(self, name: str, **data: Any) -> None:
        verify(name, data)
        self.events.append((self._clock(), name, data))

    def named(self, name: str) -> list[dict[str, Any]]:
        """The data of all events with this name, in order."""
        return [data for _, told, data in self.events if told == name]
