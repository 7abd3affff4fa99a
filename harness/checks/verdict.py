"""What a check returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """Three answers: *unknown* means that the harness or the host let us down, never "probably fine"."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim about a history, and whether the history bears it out."""

    outcome: Outcome
    check: str
    """Name of the check as the playbook's ``expect`` gives it."""
    claim: str
    """The claim as a sentence: "the outage is detected within 2.00 s"."""
    expected: str
    observed: str
    because: str = ""
    """Why it came so, with the setting that decided, where one did."""
    evidence: Sequence[int] = field(default=())
    """Numbers of the events that the verdict rests on."""
    line: int = 0
    """Line of the playbook that asked for it; 0 for checks that every run has."""
