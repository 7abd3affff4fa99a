"""What ``deadair run`` shows: progress while it runs, then the table, failures, the report's place, one sentence."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

import pytest

from harness.checks import Outcome
from harness.pytest_plugin import REPORTER, models_of, out_dir, run_dir_of, written_to
from harness.report.model import RunModel
from harness.report.terminal import render, wants_colour


class Reporter:
    """A pytest plugin in the place of pytest's own terminal output."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._errors: list[str] = []
        self._failed: list[tuple[str, str]] = []
        """(run directory, what pytest says) of items that failed; those with a verdict are in the table."""
        self._models: list[RunModel] = []
        self._report = ""
        self._interrupted = False
        self._begun: set[str] = set()

    def progress(self, line: str) -> None:
        """One line of what happens now."""
        _print(line, file=sys.stderr if self._as_json else sys.stdout)

    def pytest_configure(self, config: pytest.Config) -> None:
        # register under the name by which the plugin looks for somebody to show progress to
        if not config.pluginmanager.has_plugin(REPORTER):
            config.pluginmanager.register(_Shower(self), REPORTER)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors.append(str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._begun.add(location[2])
        if not self._quiet:
            self.progress(f"\n{location[2]}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup" and self._quiet:
            self.progress(f"{report.duration:6.1f} s  {report.location[2]}")
        if report.failed:
            self._failed.append((run_dir_of(report), str(report.longrepr)))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if excinfo.type is KeyboardInterrupt:  # pytest also stops in this way where playbooks are wrong
            self._interrupted = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self._models = models_of(session.config)
        judged = {str(model.view.run_dir) for model in self._models}
        self._errors += [said for run_dir, said in self._failed if run_dir not in judged]
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            self._errors.append(
                "deadair: nothing to run: playbooks of more than two minutes need --soak, or their own name"
            )
        if self._models:
            self._report = str(out_dir(session.config) / "report.html")
        left = [item.name for item in session.items if item.name not in self._begun]
        if self._interrupted:
            place = self._report or written_to(session.config)
            there = f"; what there is stands in {place}" if place else ""
            left_out = f"; not run: {', '.join(left)}" if left else ""
            self._errors.append(f"deadair: interrupted; nothing was left behind{there}{left_out}")

    def pytest_unconfigure(self) -> None:
        self._show()

    def _show(self) -> None:
        for error in dict.fromkeys(self._errors):
            _print(error, file=sys.stderr)
        if self._as_json:
            _print(json.dumps([_as_json(model) for model in self._models], indent=2, ensure_ascii=False))
        elif self._models:
            colour = wants_colour(sys.stdout, os.environ)
            _print("\n" + render(self._models, colour=colour, report=self._report).rstrip("\n"))

    def exit_code(self, code: int) -> int:
        """pytest's code as deadair's: 0, 1, or 2 for everything that is neither a pass nor a failure."""
        outcomes = {model.outcome for model in self._models}
        if code == pytest.ExitCode.OK and not self._errors:
            return 0
        return 1 if Outcome.FAIL in outcomes and code == pytest.ExitCode.TESTS_FAILED else 2


def _print(text: str, *, file: TextIO | None = None) -> None:
    """Print now. Whoever has stopped reading (``| head``) hears no more; the run goes on to its end and its report."""
    stream = sys.stdout if file is None else file
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Shower:
    """What the playbook items find when they look for somebody to show progress to."""

    def __init__(self, reporter: Reporter) -> None:
        self.progress = reporter.progress


def _as_json(model: RunModel) -> dict[str, Any]:
    verdicts = [
        {
            "outcome": verdict.outcome.value,
            "check": verdict.check,
            "claim": verdict.claim,
            "expected": verdict.expected,
            "observed": verdict.observed,
            "because": verdict.because,
            "line": verdict.line,
            "evidence": list(verdict.evidence),
        }
        for verdict in model.view.verdicts
    ]
    return {
        "playbook": model.playbook,
        "outcome": model.outcome.value,
        "sentence": model.sentence,
        "replay": model.replay,
        "run_dir": str(model.view.run_dir),
        "verdicts": verdicts,
    }
