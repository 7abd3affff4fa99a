"""The timeline as one SVG, complete without any script.

Horizontal places are percentages, vertical ones pixels: the drawing stretches to any width, and zooming only widens
it, while text and marks keep their size. Curves are nested drawings that stretch by themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.history.events import Event
from harness.history.windows import FaultWindow
from harness.report.lanes import Lane, Mark, Strip
from harness.report.markup import Markup, el, join
from harness.report.model import RunModel, clock, fields_text, receipt_text
from harness.report.series import Chart, Point
from harness.units import SECOND, format_duration, format_rate, format_size

_NOMINAL_WIDTH = 920
"""Pixels of the drawing on a desktop; only for deciding which labels have room."""
_LABEL_PIXELS = 6.2
_AXIS, _FAULT_ROW, _LABEL_ROW, _MARK_ROW, _STRIP, _PICTURE_STRIP, _PAD, _CURVE = 24, 19, 14, 16, 7, 14, 7, 40
_MOST_LABEL_ROWS = 3
_MOST_MARKS = 250
_MOST_POINTS = 600
_CURVE_WIDTH = 10_000
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_MOST_TICKS = 14
_LONGEST_TIP = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the timeline: what stands at its left, and its drawing."""

    height: int
    head: Markup
    drawing: Markup
    heading: str = ""
    """Starts a group of rows with this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Time to horizontal place."""

    start_ns: int
    end_ns: int

    def percent(self, t_ns: int) -> float:
        """0 to 100, clamped."""
        share = (t_ns - self.start_ns) / (self.end_ns - self.start_ns)
        return round(min(max(share, 0.0), 1.0) * 100, 3)

    def x(self, t_ns: int) -> str:
        return f"{self.percent(t_ns):g}%"

    def width(self, start_ns: int, end_ns: int) -> str:
        return f"{max(self.percent(end_ns) - self.percent(start_ns), 0.05):.3f}%"


def scale_of(model: RunModel) -> Scale:
    """The whole run with a little air at both ends."""
    length = max(model.end_ns - model.start_ns, SECOND // 10)
    return Scale(start_ns=model.start_ns - length // 80, end_ns=model.start_ns + length + length // 50)


def timeline(model: RunModel, *, prefix: str) -> Markup:
    """Heads at the left, the drawing at the right; ``prefix`` makes the ids of this run's events unique."""
    scale = scale_of(model)
    rows = list(_rows(model, scale, prefix=prefix))
    top = _AXIS + _FAULT_ROW * _fault_rows(model.faults)
    height = top + sum(row.height for row in rows)
    drawing = el(
        "svg",
        _bands(model, scale, height=height),
        _axis(model, scale, height=height),
        *_placed(rows, top),
        el("line", class_="cursor", y1=_AXIS, y2=height, x1="-1%", x2="-1%"),
        class_="plot",
        height=height,
        role="img",
        aria_label=f"timeline of {model.title}",
    )
    heads = [el("div", style=f"height:{top}px"), *(_head(row) for row in rows)]
    span = {"data_start": scale.start_ns - model.zero_ns, "data_end": scale.end_ns - model.zero_ns}
    return el(
        "div",
        el("div", *heads, class_="heads"),
        el("div", el("div", drawing, class_="canvas"), class_="scroll", tabindex=0),
        class_="timeline",
        **span,
    )


def _head(row: Row) -> Markup:
    return el("div", row.head, class_="head group" if row.heading else "head", style=f"height:{row.height}px")


def _placed(rows: Sequence[Row], top: int) -> Iterator[Markup]:
    y = top
    for row in rows:
        rule = el("line", class_="rule strong" if row.heading else "rule", x1=0, x2="100%", y1=0, y2=0)
        yield el("g", rule, row.drawing, transform=f"translate(0,{y})")
        y += row.height


def _rows(model: RunModel, scale: Scale, *, prefix: str) -> Iterator[Row]:
    events = {event.number: event for event in model.view.events}
    for lane in model.lanes:
        yield _lane_row(lane, scale, events, prefix=prefix, zero_ns=model.zero_ns)
    # Charts of one group share their scale, so that flows can be compared by eye.
    peaks: dict[str, float] = {}
    for chart in model.charts:
        key = f"{chart.group} {chart.title if chart.group == 'tcp' else ''}"
        peaks[key] = max(peaks.get(key, 0.0), chart.peak)
    group = ""
    for chart in model.charts:
        key = f"{chart.group} {chart.title if chart.group == 'tcp' else ''}"
        yield _chart_row(chart, scale, peak=peaks[key], heading=chart.group if chart.group != group else "")
        group = chart.group


# --- faults and axis -----------------------------------------------------------------------------------------------


def _fault_rows(faults: Sequence[FaultWindow]) -> int:
    return min(max(len(faults), 0), 4)


def _bands(model: RunModel, scale: Scale, *, height: int) -> Markup:
    return join(*(_band(fault, place, model, scale, height=height) for place, fault in enumerate(model.faults)))


def _band(fault: FaultWindow, place: int, model: RunModel, scale: Scale, *, height: int) -> Markup:
    end = model.end_ns if fault.end is None else fault.end
    x, y = scale.x(fault.start), _AXIS + _FAULT_ROW * (place % 4)
    tip = f"{clock(fault.start - model.zero_ns)}: {fault.what}; {receipt_text(fault)}"
    length = f"{format_duration(end - fault.start)}, {receipt_text(fault)}"
    # Bold letters are a fifth wider.
    flipped = not _has_room(scale.percent(fault.start), f"{fault.what} {length}" + " " * (len(fault.what) // 5))
    anchor = {"x": scale.x(end) if flipped else x, "dx": -6 if flipped else 6}
    text = el(
        "text",
        el("tspan", fault.what, class_="strong"),
        f" {length}",
        class_="fault end" if flipped else "fault",
        y=y + 13,
        **anchor,
    )
    width = scale.width(fault.start, end)
    shade = el("rect", el("title", tip), class_="band", x=x, y=_AXIS, width=width, height=height - _AXIS)
    bar = el("rect", class_="bandbar", x=x, y=y, width=width, height=2)
    edges = [
        el("line", class_="bandedge", x1=scale.x(t), x2=scale.x(t), y1=_AXIS, y2=height) for t in (fault.start, end)
    ]
    return join(shade, bar, *edges, text)


def _axis(model: RunModel, scale: Scale, *, height: int) -> Markup:
    step_ns = _tick_step(scale)
    first = -(-(scale.start_ns - model.zero_ns) // step_ns)
    last = (scale.end_ns - model.zero_ns) // step_ns
    pieces = []
    for number in range(first, last + 1):
        x = scale.x(model.zero_ns + number * step_ns)
        if scale.percent(model.zero_ns + number * step_ns) > 97:
            continue
        label = f"{number * step_ns / SECOND:g} s"
        pieces.append(el("line", class_="grid zero" if number == 0 else "grid", x1=x, x2=x, y1=_AXIS - 4, y2=height))
        pieces.append(el("text", label, class_="tick", x=x, dx=3, y=13))
    return join(*pieces)


def _tick_step(scale: Scale) -> int:
    span = (scale.end_ns - scale.start_ns) / SECOND
    return round(next((step for step in _STEPS_S if span / step <= _MOST_TICKS), span / _MOST_TICKS) * SECOND)


# --- lanes ---------------------------------------------------------------------------------------------------------


def _lane_row(lane: Lane, scale: Scale, events: Mapping[int, Event], *, prefix: str, zero_ns: int) -> Row:
    marks = sorted(sorted(lane.marks, key=lambda m: -m.weight)[:_MOST_MARKS], key=lambda m: m.t_ns)
    labels = _place_labels(marks, scale)
    label_rows = 1 + max(labels.values(), default=-1)
    middle = _PAD + _LABEL_ROW * label_rows + _MARK_ROW // 2
    strips_top = middle + _MARK_ROW // 2 + 3
    tops = list(itertools.accumulate((_strip_height(s) + 2 for s in lane.strips), initial=strips_top))
    drawing = join(
        _keyframes(lane.keyframes, scale, middle),
        *(_strip(strip, scale, y=top) for strip, top in zip(lane.strips, tops[:-1], strict=True)),
        *(_label(m, scale, row=labels[m.number], middle=middle) for m in marks if m.number in labels),
        *(_mark(m, scale, events, y=middle, prefix=prefix, zero_ns=zero_ns) for m in marks),
    )
    left_out = len(lane.marks) - len(marks)
    note = f"{left_out} marks not drawn" if left_out else lane.node if lane.node not in ("-", lane.key) else ""
    return Row(height=tops[-1] + _PAD, head=join(el("b", lane.key), el("span", note)), drawing=drawing)


def _place_labels(marks: Sequence[Mark], scale: Scale) -> dict[int, int]:
    """Which marks have room for their label, and in which row above the lane; the weightiest choose first."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(_MOST_LABEL_ROWS)]
    rows: dict[int, int] = {}
    for mark in sorted(marks, key=lambda m: (-m.weight, m.t_ns)):
        if not mark.label:
            continue
        left, right = _label_reach(mark, scale)
        for row, spans in enumerate(taken):
            if all(right < other_left or left > other_right for other_left, other_right in spans):
                spans.append((left, right))
                rows[mark.number] = row
                break
    return rows


def _label_reach(mark: Mark, scale: Scale) -> tuple[float, float]:
    x = scale.percent(mark.t_ns) * _NOMINAL_WIDTH / 100
    width = _LABEL_PIXELS * len(_short(mark.label)) + 12
    return (x - width, x) if _flips(mark, scale) else (x, x + width)


def _flips(mark: Mark, scale: Scale) -> bool:
    return not _has_room(scale.percent(mark.t_ns), _short(mark.label))


def _has_room(percent: float, label: str) -> bool:
    """Whether a text that starts there ends inside the drawing."""
    return percent * _NOMINAL_WIDTH / 100 + _LABEL_PIXELS * len(label) + 10 < _NOMINAL_WIDTH


def _short(label: str) -> str:
    line = " ".join(label.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _label(mark: Mark, scale: Scale, *, row: int, middle: int) -> Markup:
    y = middle - _MARK_ROW // 2 - _LABEL_ROW * row
    flips = _flips(mark, scale)
    leader = el("line", class_="leader", x1=scale.x(mark.t_ns), x2=scale.x(mark.t_ns), y1=y - 8, y2=middle)
    kind = f"label {mark.tone}{' end' if flips else ''}"
    return join(
        leader, el("text", _short(mark.label), class_=kind, x=scale.x(mark.t_ns), dx=-4 if flips else 4, y=y - 2)
    )


def _mark(mark: Mark, scale: Scale, events: Mapping[int, Event], *, y: int, prefix: str, zero_ns: int) -> Markup:
    event = events.get(mark.number)
    fields = fields_text(event, most=_LONGEST_TIP) if event else ""
    tip = f"{clock(mark.t_ns - zero_ns)} {mark.name} {fields}"
    shape = el("use", el("title", tip), href=f"#m-{mark.shape}", class_=f"mark {mark.tone}", x=scale.x(mark.t_ns), y=y)
    return el("a", shape, href=f"#{prefix}e{mark.number}")


def _keyframes(times: Sequence[int], scale: Scale, middle: int) -> Markup | None:
    """All ticks as one path: a long run has thousands."""
    if not times:
        return None
    places = sorted({round(scale.percent(t) * _CURVE_WIDTH / 100) for t in times})
    path = "".join(f"M{x} 0V10" for x in places)
    title = el("title", f"{len(times)} keyframes")
    return _stretched(title, el("path", class_="keyframes", d=path), y=middle - 5, height=10)


def _strip_height(strip: Strip) -> int:
    return _PICTURE_STRIP if strip.subject == "picture" else _STRIP


def _strip(strip: Strip, scale: Scale, *, y: int) -> Markup:
    bars: list[Markup | None] = []
    for span in strip.spans:
        tip = f"{strip.subject}: {span.label}, {format_duration(span.end_ns - span.start_ns)}"
        width = scale.width(span.start_ns, span.end_ns)
        bar = el(
            "rect",
            el("title", tip),
            class_=f"span {span.tone}",
            x=scale.x(span.start_ns),
            y=y,
            width=width,
            height=_strip_height(strip),
        )
        bars.append(bar)
        if span.label.startswith("frozen"):
            bars.append(_freeze_text(span.start_ns, span.end_ns, span.label, scale, y=y))
    return join(*bars)


def _freeze_text(start_ns: int, end_ns: int, label: str, scale: Scale, *, y: int) -> Markup | None:
    room = (scale.percent(end_ns) - scale.percent(start_ns)) * _NOMINAL_WIDTH / 100
    if room < _LABEL_PIXELS * len(label) + 8:
        return None
    return el("text", label, class_="frozen", x=scale.x((start_ns + end_ns) // 2), y=y + _PICTURE_STRIP - 4)


# --- curves --------------------------------------------------------------------------------------------------------


def _stretched(*children: Markup | None, y: int, height: int) -> Markup:
    return el(
        "svg",
        *children,
        x=0,
        y=y,
        width="100%",
        height=height,
        viewBox=f"0 0 {_CURVE_WIDTH} {height}",
        preserveAspectRatio="none",
    )


def _chart_row(chart: Chart, scale: Scale, *, peak: float, heading: str) -> Row:
    curves: list[Markup] = []
    for place, series in enumerate(chart.series):
        points = thinned(series.points, most=_MOST_POINTS)
        if chart.kind == "area":
            curves.append(el("path", class_="area", d=_steps(points, scale, peak, closed=True)))
            curves.append(el("path", class_="curve", d=_steps(points, scale, peak, closed=False)))
        else:
            curves.append(el("path", class_=f"curve line{place}", d=_line(points, scale, peak)))
    curves += [el("path", class_="drops", d=_drops(chart, scale))] if chart.dropped else []
    drawing = _stretched(*curves, y=8, height=_CURVE)
    return Row(height=_CURVE + 14, head=_chart_head(chart, peak=peak, scale=scale), drawing=drawing, heading=heading)


def _chart_head(chart: Chart, *, peak: float, scale: Scale) -> Markup:
    notes = [f"max {quantity(chart.peak, chart.unit)}", chart.note]
    if chart.dropped:
        notes.append(f"{sum(count for _, count in chart.dropped):,} dropped")
    keys = [
        el("i", series.name, class_=f"key line{place}")
        for place, series in enumerate(chart.series)
        if len(chart.series) > 1
    ]
    values = [_values(series.points, scale) for series in chart.series]
    return join(
        el("b", chart.title),
        el("span", *keys, ", ".join(note for note in notes if note)),
        el("output", data_unit=chart.unit, data_values="|".join(values)),
    )


def _values(points: Sequence[Point], scale: Scale) -> str:
    """What the cursor reads: 200 values over the width, empty where there is none."""
    cells = [""] * 200
    for t_ns, value in points:
        cell = min(int(scale.percent(t_ns) * 2), 199)
        if value is not None:
            cells[cell] = f"{max(value, float(cells[cell] or 0)):.0f}"
    return ",".join(cells)


def thinned(points: Sequence[Point], *, most: int) -> Sequence[Point]:
    """At most ``most`` points; of each bucket the highest stays, and gaps stay gaps."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    buckets = [points[place : place + size] for place in range(0, len(points), size)]
    return [max(bucket, key=lambda point: -1.0 if point[1] is None else point[1]) for bucket in buckets]


def _xy(t_ns: int, value: float, scale: Scale, peak: float) -> tuple[int, str]:
    y = _CURVE - value / peak * (_CURVE - 1) if peak else _CURVE
    return round(scale.percent(t_ns) * _CURVE_WIDTH / 100), f"{y:.1f}"


def _steps(points: Iterable[Point], scale: Scale, peak: float, *, closed: bool) -> str:
    """A staircase: a count holds for its whole interval."""
    placed = [_xy(t_ns, value or 0.0, scale, peak) for t_ns, value in points]
    if not placed:
        return ""
    start = f"M{placed[0][0]} {_CURVE}V{placed[0][1]}" if closed else f"M{placed[0][0]} {placed[0][1]}"
    return start + "".join(f"H{x}V{y}" for x, y in placed[1:]) + (f"V{_CURVE}Z" if closed else "")


def _line(points: Iterable[Point], scale: Scale, peak: float) -> str:
    path, pen = [], "M"
    for t_ns, value in points:
        if value is None:
            pen = "M"
            continue
        x, y = _xy(t_ns, value, scale, peak)
        path.append(f"{pen}{x} {y}")
        pen = "L"
    return "".join(path)


def _drops(chart: Chart, scale: Scale) -> str:
    places = sorted({round(scale.percent(t_ns) * _CURVE_WIDTH / 100) for t_ns, _ in chart.dropped})
    return "".join(f"M{x} {_CURVE - 5}V{_CURVE}" for x in places)


def quantity(value: float, unit: str) -> str:
    """A value of a chart with its unit."""
    if unit == "bit/s":
        return format_rate(value)
    return format_size(value) if unit == "B" else format_duration(round(value * 1_000_000))
