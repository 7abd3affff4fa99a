"""``report.html``: one page that stands alone; nothing is fetched, and without any script it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from harness.checks.verdict import Outcome
from harness.report.lanes import Shape
from harness.report.markup import Markup, el, join
from harness.report.model import RunModel, RunView, build_model, explanation, headline, summary_sentence, worst_outcome
from harness.report.pictures import Album
from harness.report.sections import GLYPHS, chip, relative, run_section
from harness.units import format_duration

MOST_BYTES = 950_000
"""Of the page, embedded pictures not counted."""
_LOG_BYTES = 400_000
_LEAST_LOG_BYTES = 20_000
# The browser itself holds the page to what it promises.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_SHAPES: dict[Shape, str] = {
    "dot": '<circle r="3.6"/>',
    "ring": '<circle r="3" fill="none"/>',
    "cross": '<path d="M-3.6 -3.6L3.6 3.6M-3.6 3.6L3.6 -3.6" stroke-width="2.2"/>',
    "triangle": '<path d="M0 -4.6L4.6 3.6H-4.6Z"/>',
    "diamond": '<path d="M0 -5L5 0L0 5L-5 0Z"/>',
    "square": '<path d="M-3.2 -3.2H3.2V3.2H-3.2Z"/>',
    "flag": '<path d="M-1 5V-5L5 -2L-1 1" fill="none"/>',
}


def render_report(runs: Sequence[RunView], *, base: Path | None = None) -> str:
    """The page for these runs.

    ``base`` is the directory that the page will lie in, for its links; without it the run's own directory where there
    is one run, and no links otherwise. Runs that did not pass are shown in full first; when the page would grow beyond
    1 MB, the others are only in the matrix, with a link to their own page.
    """
    return render_models([build_model(run) for run in runs], base=base)


def render_models(models: Sequence[RunModel], *, base: Path | None = None) -> str:
    """As :func:`render_report`, for models that are derived already."""
    if base is None and len(models) == 1:
        base = models[0].view.run_dir
    sections = _sections(models, base=base)
    body = join(
        _shapes(),
        _header(models),
        el("main", _matrix(models, set(sections), base=base), *sections.values()),
        el("footer", "Written by deadair. Everything on this page is derived from events.jsonl."),
    )
    return str(_page(summary_sentence(models), worst_outcome(model.outcome for model in models), body))


def _page(title: str, outcome: Outcome, body: Markup) -> Markup:
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{GLYPHS[outcome]} {title}"),
        el("style", Markup(_asset("page.css"))),
    )
    script = el("script", Markup(_asset("page.js")))
    return join(Markup("<!doctype html>\n"), el("html", head, el("body", body, script), lang="en"), "\n")


@cache
def _asset(name: str) -> str:
    return resources.files("harness.report").joinpath(name).read_text(encoding="utf-8")


def _shapes() -> Markup:
    """The marks' shapes, defined once for the page."""
    shapes = (el("g", Markup(drawing), id=f"m-{shape}") for shape, drawing in _SHAPES.items())
    return el("svg", el("defs", *shapes), width=0, height=0, style="position:absolute", aria_hidden="true")


def _header(models: Sequence[RunModel]) -> Markup:
    outcome = worst_outcome(model.outcome for model in models)
    held = sum(model.counts[Outcome.PASS] for model in models)
    total = sum(len(model.view.verdicts) for model in models)
    said = f"{held} of {total} claims hold in {_runs(len(models))}"
    top = el(
        "div",
        el("span", el("b", "deadair"), " run report"),
        el("button", "light / dark", type="button", id="theme"),
        class_="top",
    )
    why = explanation(models)
    verdict = el(
        "div",
        el("h1", headline(models)),
        el("p", why) if why else None,
        el("p", said, class_="soft"),
        class_=f"verdict {outcome.value}",
    )
    return el("header", top, verdict)


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _prefix(place: int) -> str:
    return f"r{place}"


def _sections(models: Sequence[RunModel], *, base: Path | None) -> dict[int, Markup]:
    """The sections that fit, by the run's place; what did not pass comes first, on the page and for its room."""
    album = Album()
    sections: dict[int, Markup] = {}
    room = MOST_BYTES - len(_asset("page.css")) - len(_asset("page.js")) - 700 * len(models)
    log_bytes = max(_LOG_BYTES // max(len(models), 1), _LEAST_LOG_BYTES)
    for place in sorted(range(len(models)), key=lambda place: models[place].outcome is Outcome.PASS):
        section = run_section(models[place], prefix=_prefix(place), album=album, base=base, log_bytes=log_bytes)
        size = len(section.encode()) - _embedded(section)
        if size <= room or not sections:
            room -= size
            sections[place] = section
    return sections


def _embedded(section: str) -> int:
    """Bytes of the pictures in a section."""
    return sum(len(piece.split('"', 1)[0]) for piece in section.split('src="data:')[1:])


# --- matrix --------------------------------------------------------------------------------------------------------


def _matrix(models: Sequence[RunModel], shown: set[int], *, base: Path | None) -> Markup | None:
    """Runs against checks; a single run needs none."""
    if len(models) < 2:
        return None
    checks = list(dict.fromkeys(verdict.check for model in models for verdict in model.view.verdicts))
    head = [
        el("th", "run"),
        el("th", "verdict"),
        *(el("th", check.replace("_", " "), class_="check") for check in checks),
    ]
    head += [el("th", "longest freeze", class_="num"), el("th", "took", class_="num")]
    rows = [_matrix_row(place, model, checks, place in shown, base) for place, model in enumerate(models)]
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), class_="matrix")
    return el("div", el("h3", "All runs"), table, class_="wide")


def _matrix_row(place: int, model: RunModel, checks: Sequence[str], shown: bool, base: Path | None) -> Markup:
    link = f"#{_prefix(place)}" if shown else _own_page(model, base)
    name = el("a", model.title, href=link) if link else model.title
    frozen = max((freeze.end_ns - freeze.start_ns for freeze in model.freezes), default=0)
    return el(
        "tr",
        el("td", name),
        el("td", chip(model.outcome)),
        *(_cell(model, check) for check in checks),
        el("td", format_duration(frozen) if frozen else "none", class_="num"),
        el("td", format_duration(model.took_ns), class_="num"),
    )


def _own_page(model: RunModel, base: Path | None) -> str | None:
    if base is None or model.view.run_dir is None:
        return None
    return relative(model.view.run_dir / "report.html", base)


def _cell(model: RunModel, check: str) -> Markup:
    verdicts = [verdict for verdict in model.view.verdicts if verdict.check == check]
    if not verdicts:
        return el("td", class_="cell")
    outcome = worst_outcome(verdict.outcome for verdict in verdicts)
    tip = "; ".join(verdict.claim for verdict in verdicts)
    return el("td", el("span", GLYPHS[outcome], class_=outcome.value, title=tip), class_="cell")
