"""The two kinds of exception that deadair raises for a person to read.

    DeadairError
    ├── PlaybookError   your playbook (or scenario, or command line) is wrong: where, what, did you mean
    └── HarnessError    the harness or this machine let you down: what, and the cure

That the *system under test* failed is never an exception: it is a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class DeadairError(Exception):
    """Shown to a person as its message, without a traceback."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a playbook: where it stands, what is wrong with it, what would be right."""

    line: int
    column: int
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return self.what + (f" ({self.hint})" if self.hint else "")


class PlaybookError(DeadairError):
    """Every mistake found in one playbook, each with line and column (both counted from 1)."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(f"{path}:{p.line}:{p.column}: {p}" for p in problems))


class HarnessError(DeadairError):
    """The harness or the host failed; ``cure`` says what to do about it."""

    def __init__(self, what: str, *, cure: str = "") -> None:
        self.what = what
        self.cure = cure
        super().__init__(f"{what}\n  cure: {cure}" if cure else what)
