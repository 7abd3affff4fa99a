"""A run's verdicts on a terminal: a table, a block for each failure, and one last sentence.

Nothing is wider than 100 columns except what must stay on one line: a replay command, to be copied, and the last
sentence, to be grepped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO

from harness.checks.verdict import Outcome
from harness.report.model import Failure, RunModel, summary_sentence, worst_outcome
from harness.units import format_duration

WIDTH = 100
_WORDS: Mapping[Outcome, str] = {Outcome.PASS: "pass", Outcome.FAIL: "FAIL", Outcome.UNKNOWN: "unknown"}
_COLOURS: Mapping[Outcome, str] = {Outcome.PASS: "32", Outcome.FAIL: "1;31", Outcome.UNKNOWN: "33"}
_FIELD = 14
_LONGEST_FIELD = 600


def wants_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Colour only on a terminal, and not where ``NO_COLOR`` is set (https://no-color.org: set and not empty)."""
    return stream.isatty() and not environment.get("NO_COLOR")


def render(models: Sequence[RunModel], *, colour: bool = False, report: str = "") -> str:
    """Table, failures, place of the report, and the verdict in one sentence as the last line."""
    parts = [table(models, colour=colour), *failure_blocks(models, colour=colour)]
    parts += [f"report: {report}"] if report else []
    return "\n\n".join([*parts, last_line(models, colour=colour)]) + "\n"


def table(models: Sequence[RunModel], *, colour: bool = False) -> str:
    """One line for each run: outcome, claims held, longest freeze, time taken, name."""
    rows = [_row(model) for model in models]
    head = ("verdict", "claims", "frozen", "took", "run")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]
    lines = [_line(head, widths)]
    for model, row in zip(models, rows, strict=True):
        lines.append(_painted(_line(row, widths), row[0], model.outcome, colour=colour))
    return "\n".join(lines)


def _row(model: RunModel) -> tuple[str, str, str, str, str]:
    frozen = max((freeze.end_ns - freeze.start_ns for freeze in model.freezes), default=0)
    return (
        _WORDS[model.outcome],
        f"{model.counts[Outcome.PASS]}/{len(model.view.verdicts)}",
        format_duration(frozen) if frozen else "-",
        format_duration(model.took_ns),
        model.title,
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    verdict, *figures = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))  # noqa: B905
    return _fit("  ".join([verdict, *figures, printable(row[-1])]), WIDTH)


def failure_blocks(models: Sequence[RunModel], *, colour: bool = False) -> list[str]:
    """A block for every verdict that is not a pass: what was expected, what was seen, why, and how to see it again."""
    return [_block(model, failure, colour=colour) for model in models for failure in model.telling]


def _block(model: RunModel, failure: Failure, *, colour: bool) -> str:
    verdict = failure.verdict
    word = _WORDS[verdict.outcome]
    head = "\n".join(textwrap.wrap(_fit(printable(f"{word} {model.title}: {verdict.claim}"), _LONGEST_FIELD), WIDTH))
    fields = {
        "expected": verdict.expected,
        "observed": verdict.observed,
        "because": verdict.because,
        "active fault": failure.active_fault,
        "decided by": failure.setting,
    }
    lines = [line for name, value in fields.items() if value for line in _field(name, value)]
    replay = f"  {'replay':<{_FIELD}}{printable(model.replay)}"
    return "\n".join([_painted(head, word, verdict.outcome, colour=colour), *lines, replay])


def _field(name: str, value: str) -> list[str]:
    body = textwrap.wrap(_fit(printable(value), _LONGEST_FIELD), WIDTH - _FIELD - 2) or [""]
    return [f"  {label:<{_FIELD}}{line}" for label, line in zip([name, *[""] * (len(body) - 1)], body, strict=True)]


def last_line(models: Sequence[RunModel], *, colour: bool = False) -> str:
    """The verdict over everything that ran, in one sentence on one line."""
    outcome = worst_outcome(model.outcome for model in models)
    sentence = printable(summary_sentence(models))
    return f"\x1b[{_COLOURS[outcome]}m{sentence}\x1b[0m" if colour else sentence


def printable(text: str) -> str:
    """``text`` on one line without control characters: what a peer sent must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _painted(line: str, word: str, outcome: Outcome, *, colour: bool) -> str:
    if not colour:
        return line
    return line.replace(word, f"\x1b[{_COLOURS[outcome]}m{word}\x1b[0m", 1)
