"""``summary.md``: the matrix and the first failures, for a CI job's summary or a chat.

GitHub drops the *whole* summary of a step when it is over 1 MiB; chats cut far earlier. So: under 64 kB, always.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from harness.checks.verdict import Outcome
from harness.report.markup import encodable
from harness.report.model import Failure, RunModel, summary_sentence
from harness.units import format_duration

MOST_BYTES = 64_000
_MOST_ROWS = 150
_MOST_FAILURES = 20
_LONGEST = 300
_WORDS: Mapping[Outcome, str] = {Outcome.PASS: "✅ pass", Outcome.FAIL: "❌ **fail**", Outcome.UNKNOWN: "❔ unknown"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~@])")


def render_summary(models: Sequence[RunModel]) -> str:
    """Markdown with the verdict first, then the table, then the failures that fit."""
    head = ["## deadair", _plain(summary_sentence(models)), _matrix(models)]
    found = [(model, failure) for model in models for failure in model.failures]
    return _assemble(head, [_failure(model, failure) for model, failure in found])


def _matrix(models: Sequence[RunModel]) -> str:
    lines = ["| verdict | run | claims | longest freeze | took |", "|---|---|--:|--:|--:|"]
    # What is wrong must be in the table, whatever has to be left out.
    ordered = sorted(models, key=lambda model: model.outcome is Outcome.PASS)
    lines += [_row(model) for model in ordered[:_MOST_ROWS]]
    if len(models) > _MOST_ROWS:
        lines.append(f"| | {len(models) - _MOST_ROWS} more runs in report.html | | | |")
    return "\n".join(lines)


def _row(model: RunModel) -> str:
    frozen = max((freeze.end_ns - freeze.start_ns for freeze in model.freezes), default=0)
    cells = [
        _WORDS[model.outcome],
        _plain(model.title),
        f"{model.counts[Outcome.PASS]}/{len(model.view.verdicts)}",
        format_duration(frozen) if frozen else "none",
        format_duration(model.took_ns),
    ]
    return f"| {' | '.join(cells)} |"


def _failure(model: RunModel, failure: Failure) -> str:
    verdict = failure.verdict
    fields = {
        "expected": verdict.expected,
        "observed": verdict.observed,
        "because": verdict.because,
        "active fault": failure.active_fault,
        "decided by": failure.setting,
    }
    lines = [f"### {_WORDS[verdict.outcome]} {_plain(model.title)}: {_plain(verdict.claim)}", ""]
    lines += [f"- {name}: {_plain(value)}" for name, value in fields.items() if value]
    return "\n".join([*lines, "", *_code(model.replay)])


def _code(line: str) -> list[str]:
    """A fenced block with a fence longer than any run of backticks in the line."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    return [f"{fence}sh", " ".join(encodable(line).split()), fence]


def _assemble(head: list[str], failures: list[str]) -> str:
    text = "\n\n".join(head) + "\n"
    for shown, block in enumerate(failures):
        note = f"\n{len(failures) - shown} more failures in report.html\n"
        if shown == _MOST_FAILURES or len((text + block + note).encode()) > MOST_BYTES:
            return text + note
        text += f"\n{block}\n"
    return text


def _plain(text: str) -> str:
    """Text on one line in which nothing is Markdown."""
    line = " ".join(encodable(text).split())
    return _SPECIAL.sub(r"\\\1", line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…")
