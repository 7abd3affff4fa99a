"""History in, verdict out."""

from harness.checks.parameters import LimitError, Parameter
from harness.checks.registry import CHECKS, EVERY_RUN, CheckSpec, Expectation, evaluate, expectation, overall, run_check
from harness.checks.verdict import Outcome, Verdict

__all__ = [
    "CHECKS",
    "EVERY_RUN",
    "CheckSpec",
    "Expectation",
    "LimitError",
    "Outcome",
    "Parameter",
    "Verdict",
    "evaluate",
    "expectation",
    "overall",
    "run_check",
]
