"""``trace.json``: the run for ui.perfetto.dev or chrome://tracing.

Format: Trace Event Format, JSON object form ("legacy, best effort" in Perfetto, so an export only). Process = node,
thread = lane; durations of one thread must nest, so each strip is a thread of its own; times are microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from harness.history.windows import FaultWindow
from harness.report.lanes import Lane
from harness.report.model import SAMPLED, RunModel, receipt_text
from harness.report.series import Chart

_FAULTS_PROCESS = "faults"
_CURVES_PROCESS = "curves"


def render_trace(model: RunModel) -> str:
    """The trace as JSON text."""
    tracks = _Tracks()
    events = [
        *_fault_events(model, tracks),
        *(item for lane in model.lanes for item in _lane_events(lane, model, tracks)),
        *(item for chart in model.charts for item in _counter_events(chart, tracks)),
    ]
    other = {"playbook": model.playbook, "seed": str(model.seed), "replay": model.replay, "verdict": model.sentence}
    document = {"traceEvents": [*tracks.names, *events], "displayTimeUnit": "ms", "otherData": other}
    return json.dumps(document, separators=(",", ":"))


class _Tracks:
    """Numbers for processes and threads, and the metadata events that name them."""

    def __init__(self) -> None:
        self.names: list[dict[str, Any]] = []
        self._processes: dict[str, int] = {}
        self._threads: dict[tuple[str, str], int] = {}

    def process(self, name: str) -> int:
        if name not in self._processes:
            self._processes[name] = len(self._processes) + 1
            self.names.append(_named("process_name", {"name": name}, pid=self._processes[name]))
        return self._processes[name]

    def thread(self, process: str, name: str) -> dict[str, int]:
        pid = self.process(process)
        if (process, name) not in self._threads:
            self._threads[process, name] = len(self._threads) + 1
            tid = self._threads[process, name]
            self.names.append(_named("thread_name", {"name": name}, pid=pid, tid=tid))
        return {"pid": pid, "tid": self._threads[process, name]}


def _named(kind: str, arguments: Mapping[str, Any], **ids: int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "args": arguments, **ids}


def _fault_events(model: RunModel, tracks: _Tracks) -> Iterator[dict[str, Any]]:
    for fault in model.faults:
        end = model.end_ns if fault.end is None else fault.end
        track = tracks.thread(_FAULTS_PROCESS, f"{fault.fault} {fault.kind}")
        yield _duration(fault.what, fault.start, end, track, args=_fault_arguments(fault))


def _fault_arguments(fault: FaultWindow) -> dict[str, Any]:
    detail = fault.left.data.get("receipt", {}) if fault.left else {}
    return {"target": fault.target, "receipt": receipt_text(fault), "detail": detail, **fault.settings}


def _lane_events(lane: Lane, model: RunModel, tracks: _Tracks) -> Iterator[dict[str, Any]]:
    process = lane.key if lane.node == "-" else lane.node
    for strip in lane.strips:
        # A freeze lies inside "playing", so the two nest; other strips have no overlaps.
        track = tracks.thread(process, f"{lane.key}: {strip.subject}")
        for span in sorted(strip.spans, key=lambda s: (s.start_ns, -s.end_ns)):
            yield _duration(span.label, span.start_ns, span.end_ns, track, args={})
    track = tracks.thread(process, f"{lane.key}: events")
    by_number = {event.number: event for event in model.view.events if event.name not in SAMPLED}
    for mark in lane.marks:
        arguments = {**by_number[mark.number].data, "number": mark.number} if mark.number in by_number else {}
        yield {"ph": "i", "s": "t", "name": mark.name, "ts": mark.t_ns / 1000, **track, "args": arguments}
    for t_ns in lane.keyframes:
        yield {"ph": "i", "s": "t", "name": "keyframe", "ts": t_ns / 1000, **track, "args": {}}


def _counter_events(chart: Chart, tracks: _Tracks) -> Iterator[dict[str, Any]]:
    pid = tracks.process(_CURVES_PROCESS)
    name = f"{chart.title} [{chart.unit}]"
    for series in chart.series:
        for t_ns, value in series.points:
            if value is not None:
                yield {"ph": "C", "name": name, "ts": t_ns / 1000, "pid": pid, "args": {series.name: value}}


def _duration(
    name: str, start_ns: int, end_ns: int, track: Mapping[str, int], *, args: Mapping[str, Any]
) -> dict[str, Any]:
    duration = max(end_ns - start_ns, 0) / 1000
    return {"ph": "X", "name": name, "ts": start_ns / 1000, "dur": duration, **track, "args": args}
