"""The parts of one run's section on the page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.checks.verdict import Outcome
from harness.history.events import Event
from harness.report.film import Cut, Film, Picture
from harness.report.lanes import MARKS
from harness.report.markup import Markup, el, join, text
from harness.report.model import SAMPLED, Failure, RunModel, clock, fields_text, receipt_text
from harness.report.pictures import Album
from harness.report.svg import timeline
from harness.units import MICROSECOND, MILLISECOND, format_duration

WORDS: Mapping[Outcome, str] = {Outcome.PASS: "pass", Outcome.FAIL: "fail", Outcome.UNKNOWN: "unknown"}
GLYPHS: Mapping[Outcome, str] = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.UNKNOWN: "?"}
_LEGEND = (
    ("dot", "ok", "started"),
    ("diamond", "ok", "reconnected, resumed"),
    ("triangle", "warn", "stall"),
    ("ring", "mute", "attempt"),
    ("cross", "fail", "lost, failed, wrong"),
)
_FILES = ("events.jsonl", "run.json", "capture.pcapng", "trace.json", "summary.md", "junit.xml", "replay.json", "logs")
_LATE_US = 1000.0
"""Beyond this p99 the emulator itself shows in the figures (goal of DESIGN.md section 7: under 1 ms)."""


def chip(outcome: Outcome) -> Markup:
    """An outcome by colour, sign and word."""
    return el("span", f"{GLYPHS[outcome]} {WORDS[outcome]}", class_=f"chip {outcome.value}")


def run_section(model: RunModel, *, prefix: str, album: Album, base: Path | None, log_bytes: int) -> Markup:
    """Everything about one run; ``log_bytes`` is how large its event log may be."""
    return el(
        "section",
        _head(model),
        *(_card(model, failure, prefix=prefix) for failure in model.failures),
        *_timeline(model, prefix=prefix),
        *_films(model, album),
        *_claims(model, prefix=prefix),
        *_background(model),
        *_files(model, base=base),
        event_log(model, prefix=prefix, most_bytes=log_bytes),
        class_="run",
        id=prefix,
    )


def _head(model: RunModel) -> Markup:
    facts = [model.topology and f"topology {model.topology}", f"engine {model.engine}"]
    facts += [f"seed {model.seed}" if model.seed is not None else "", f"took {format_duration(model.took_ns)}"]
    if model.script_ns is not None:
        facts.append(f"times count from the script's start, {format_duration(model.script_ns)} after the run's zero")
    name, why = (str(model.view.provenance.get(key) or "") for key in ("name", "why"))
    return join(
        el("div", el("h2", model.title), chip(model.outcome), class_="runhead"),
        el("p", el("strong", name), f" {why}" if why else "") if name else None,
        el("p", " · ".join(fact for fact in facts if fact), class_="meta"),
        el("p", f"History: {model.view.cut}", class_="meta unknown") if model.view.cut else None,
    )


# --- failures ------------------------------------------------------------------------------------------------------


def _card(model: RunModel, failure: Failure, *, prefix: str) -> Markup:
    verdict = failure.verdict
    rows: list[tuple[str, Markup]] = [
        (name, text(value))
        for name, value in (
            ("expected", verdict.expected),
            ("observed", verdict.observed),
            ("because", verdict.because),
            ("active fault", failure.active_fault),
            ("decided by", failure.setting),
        )
        if value
    ]
    if verdict.evidence:
        rows.append(("evidence", _evidence(model, verdict.evidence, prefix=prefix)))
    if failure.last_events:
        rows.append(("events before", _last_events(model, failure.last_events, prefix=prefix)))
    if verdict.line:
        rows.append(("asked for in", text(f"{model.playbook}, line {verdict.line}")))
    rows.append(("replay", replay(model)))
    return el(
        "article",
        el("h4", el("span", GLYPHS[verdict.outcome], class_=verdict.outcome.value), f" {verdict.claim}"),
        el("dl", *(join(el("dt", name), el("dd", value)) for name, value in rows)),
        class_=f"card {verdict.outcome.value}",
    )


def replay(model: RunModel) -> Markup:
    """The replay line with a button that copies it."""
    return join(el("code", model.replay), " ", el("button", "copy", type="button", data_copy=model.replay))


def _evidence(model: RunModel, numbers: Iterable[int], *, prefix: str) -> Markup:
    names = {event.number: event.name for event in model.view.events}
    links = [
        el("a", f"{names.get(number, 'event')} ({number})", href=f"#{prefix}e{number}") for number in list(numbers)[:30]
    ]
    return join(*(join(", " if place else None, link) for place, link in enumerate(links)))


def _last_events(model: RunModel, events: Sequence[Event], *, prefix: str) -> Markup:
    items = [
        el(
            "li",
            el("a", clock(event.t_ns - model.zero_ns), href=f"#{prefix}e{event.number}"),
            f" {event.source} ",
            el("b", event.name),
            f" {fields_text(event, most=160)}",
        )
        for event in events
    ]
    return el("ul", *items, class_="last")


# --- timeline and film ---------------------------------------------------------------------------------------------


def _timeline(model: RunModel, *, prefix: str) -> Iterator[Markup]:
    if not model.view.events:
        yield el("p", "The history has no events.", class_="meta")
        return
    buttons = [
        el("button", word, type="button", data_zoom=factor, title=title)
        for word, factor, title in (("−", 0.5, "zoom out"), ("+", 2, "zoom in"), ("fit", 0, "whole run"))  # noqa: RUF001
    ]
    yield el("div", el("h3", "Timeline"), el("span", class_="at"), *buttons, class_="tools")
    yield timeline(model, prefix=prefix)
    keys = [
        el("span", el("svg", el("use", href=f"#m-{shape}", x=7, y=7, class_=f"mark {tone}")), label)
        for shape, tone, label in _LEGEND
    ]
    ticks = el("svg", el("path", class_="keyframes", d="M3 2V12M7 2V12M11 2V12"))
    shaded = el("svg", el("rect", class_="band", width=14, height=14))
    more = [el("span", ticks, "keyframes"), el("span", shaded, "fault active")]
    yield el("div", *keys, *more, class_="legend")


def _films(model: RunModel, album: Album) -> Iterator[Markup]:
    if model.films:
        yield el("h3", "What they saw")
    for film in model.films:
        if not film.cuts:
            yield _whole_film(film, model, album)
        for cut in film.cuts:
            yield _cut(film.role, cut, model, album)


def _cut(role: str, cut: Cut, model: RunModel, album: Album) -> Markup:
    freeze = cut.freeze
    length = format_duration(freeze.end_ns - freeze.start_ns)
    note = f"{freeze.missing:,} frames never shown" if freeze.resumed else "and never came back"
    gap = el(
        "figure",
        el("div", el("strong", length), el("small", "frozen")),
        el("figcaption", f"from {clock(freeze.start_ns - model.zero_ns)}", el("br"), note),
        class_="gap",
    )
    before = _shot(cut.before, "last picture before", freeze.last_frame, freeze.start_ns, model, album)
    after = _shot(cut.after, "first picture after", freeze.first_frame, freeze.end_ns, model, album)
    shots = [before, gap, after if freeze.resumed else None]
    return el("div", el("div", role, class_="who"), *shots, class_="film")


def _whole_film(film: Film, model: RunModel, album: Album) -> Markup:
    shots = []
    for picture, caption in ((film.first, "first picture"), (film.last, "last picture saved")):
        if picture is not None:
            shots.append(_shot(picture, caption, picture.frame, picture.t_ns, model, album))
    between = el("figure", el("div", el("small", "no freeze")), el("figcaption", ""), class_="gap")
    return el("div", el("div", film.role, class_="who"), shots[0], between, *shots[1:], class_="film")


def _shot(picture: Picture | None, caption: str, frame: int | None, t_ns: int, model: RunModel, album: Album) -> Markup:
    source = album.embed(picture.path, run_dir=model.view.run_dir) if picture else None
    number = picture.frame if picture else frame
    known = number is not None and number >= 0
    alt = f"{caption}, frame {number}" if known else caption
    shown = el("img", src=source, alt=alt) if source else el("div", "no picture saved", class_="none")
    when = [f"frame {number:,}" if known and number is not None else "no frame number", clock(t_ns - model.zero_ns)]
    return el("figure", shown, el("figcaption", el("b", caption), el("br"), " · ".join(when)), class_="shot")


# --- tables --------------------------------------------------------------------------------------------------------


def _claims(model: RunModel, *, prefix: str) -> Iterator[Markup]:
    if not model.view.verdicts:
        return
    rows = [
        el(
            "tr",
            el("td", chip(verdict.outcome)),
            el("td", verdict.claim),
            el("td", verdict.expected),
            el("td", verdict.observed, " ", _evidence_mark(verdict.evidence, prefix), class_="obs"),
        )
        for verdict in model.view.verdicts
    ]
    head = el("thead", el("tr", *(el("th", word) for word in ("verdict", "claim", "expected", "observed"))))
    yield el("h3", "Claims")
    yield el("table", head, el("tbody", *rows), class_="claims")


def _evidence_mark(numbers: Sequence[int], prefix: str) -> Markup | None:
    if not numbers:
        return None
    return el("a", "↗", href=f"#{prefix}e{numbers[0]}", title="the evidence in the event log")


def _background(model: RunModel) -> Iterator[Markup]:
    provenance = list(flattened(model.view.provenance))
    left = [el("h3", "Provenance"), _definitions(provenance)] if provenance else []
    right = [*_receipts(model), *_lateness(model)]
    if left or right:
        yield el("div", el("div", *left), el("div", *right), class_="columns")


def _definitions(rows: Iterable[tuple[str, str]]) -> Markup:
    return el("dl", *(join(el("dt", name), el("dd", value)) for name, value in rows))


def flattened(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """``run.json`` as rows: ``{"git": {"dirty": true}}`` becomes ``("git dirty", "yes")``."""
    for key, item in value.items():
        name = f"{path} {key}".strip().replace("_", " ")
        if isinstance(item, Mapping):
            yield from flattened(item, name)
        elif isinstance(item, bool):
            yield name, "yes" if item else "no"
        elif isinstance(item, (list, tuple)):
            yield name, " ".join(str(part) for part in item)
        elif item not in (None, ""):
            yield name, str(item)


def _receipts(model: RunModel) -> Iterator[Markup]:
    if not model.faults:
        return
    rows = []
    for fault in model.faults:
        detail: Mapping[str, Any] = fault.left.data.get("receipt", {}) if fault.left else {}
        said = ", ".join([receipt_text(fault), *(f"{key} {value}" for key, value in flattened(detail))])
        rows.append((f"{fault.kind} {fault.target}".replace("_", " "), said))
    yield el("h3", "Receipts of the faults")
    yield _definitions(rows)


def _lateness(model: RunModel) -> Iterator[Markup]:
    if model.lateness is None:
        return
    figures = [
        (word, format_duration(round(model.lateness[key] * MICROSECOND)))
        for word, key in (("median", "late_p50_us"), ("p99", "late_p99_us"), ("worst", "late_max_us"))
    ]
    late = model.lateness["late_p99_us"] > _LATE_US
    note = f": more than {format_duration(MILLISECOND)}, so figures of this run are that uncertain" if late else ""
    yield el("h3", "How late the emulator delivered")
    said = ", ".join(f"{word} {value}" for word, value in figures)
    yield el("p", f"{model.lateness['packets']:,} packets: {said}{note}", class_="meta unknown" if late else "meta")
    yield from _histogram(model.lateness["histogram"])


def _histogram(histogram: Mapping[str, Any]) -> Iterator[Markup]:
    counts = [(str(key), value) for key, value in histogram.items() if isinstance(value, (int, float))]
    highest = max((value for _, value in counts), default=0)
    if not highest:
        return
    bars = []
    for key, value in counts[:40]:
        bar = el("i", style=f"height:{60 * value / highest:.1f}px")
        bars.append(el("div", bar, key, title=f"{key}: {value:,}"))
    yield el("div", *bars, class_="bars", title="packets by lateness in µs")


def _files(model: RunModel, *, base: Path | None) -> Iterator[Markup]:
    run_dir = model.view.run_dir
    if run_dir is None or base is None:
        return
    found = [name for name in _FILES if (run_dir / name).exists()]
    logs = sorted((run_dir / "logs").glob("*.log"))[:20] if (run_dir / "logs").is_dir() else []
    paths = [*(run_dir / name for name in found if name != "logs"), *logs]
    if paths:
        yield el("h3", "Files")
        yield el("div", *(el("a", path.name, href=relative(path, base)) for path in paths), class_="files")


def relative(path: Path, base: Path) -> str:
    """``path`` as a link on a page that lies in ``base``."""
    return Path(os.path.relpath(path, base)).as_posix()


# --- event log -----------------------------------------------------------------------------------------------------


def event_log(model: RunModel, *, prefix: str, most_bytes: int) -> Markup | None:
    """All events that fit; those that a verdict rests on and those that the timeline draws come first."""
    rows = _chosen_rows(model, prefix=prefix, most_bytes=most_bytes)
    total = len(model.view.events)
    if not total:
        return None
    note = f" {len(rows):,} of {total:,}" + (
        "; samples and the rest stand in events.jsonl" if len(rows) < total else ""
    )
    head = Markup("<thead><tr><th>#<th>time<th>who<th>event<th>fields</tr></thead>")
    field = el("input", type="search", placeholder="filter, for example: publisher stall", aria_label="filter events")
    body = el("div", el("table", head, el("tbody", *rows), class_="log"), class_="wide")
    return el("details", el("summary", "Events", el("span", note)), field, body)


def _chosen_rows(model: RunModel, *, prefix: str, most_bytes: int) -> list[Markup]:
    evidence = {number for verdict in model.view.verdicts for number in verdict.evidence}
    shown = [event for event in model.view.events if event.name not in SAMPLED or event.number in evidence]
    room, chosen = most_bytes, {}
    for place in sorted(range(len(shown)), key=lambda place: (_rank(shown[place], evidence), place)):
        row = _row(shown[place], prefix=prefix, zero_ns=model.zero_ns)
        room -= len(row.encode())
        if room < 0:
            break
        chosen[place] = row
    return [chosen[place] for place in sorted(chosen)]


def _rank(event: Event, evidence: set[int]) -> int:
    if event.number in evidence or event.name.startswith("fault:"):
        return 0
    look = MARKS.get(event.name)
    return 1 if look is not None and look.weight > 1 else 2


def _row(event: Event, *, prefix: str, zero_ns: int) -> Markup:
    # End tags of cells are optional in HTML; there are thousands of rows.
    number, seconds = event.number, (event.t_ns - zero_ns) / 1e9
    who, name, fields = text(event.source), text(event.name), text(fields_text(event))
    return Markup(f'<tr id="{prefix}e{number}"><td>{number}<td>{seconds:.3f}<td>{who}<td>{name}<td>{fields}</tr>')
