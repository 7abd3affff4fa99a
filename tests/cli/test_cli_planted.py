"""``deadair planted`` itself: a defect counts as caught only where its own claim turned red."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import planted
from harness.errors import DeadairError
from harness.runs import new_invocation

NO_IDR = "reference-no-idr"


def _runs_that_say(monkeypatch: pytest.MonkeyPatch, *, outcome: str, red: Sequence[str]) -> list[list[str]]:
    """Every run answers so; the commands that were asked for."""
    asked: list[list[str]] = []
    verdicts = [{"check": check, "outcome": "fail"} for check in red] + [{"check": "gate_held", "outcome": "pass"}]
    answer = json.dumps([{"outcome": outcome, "sentence": "it was so", "verdicts": verdicts}])

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, answer, "")

    monkeypatch.setattr(subprocess, "run", run)
    return asked


@pytest.mark.parametrize(
    ("outcome", "red", "code"),
    [
        ("fail", ["keyframe_first", "longest_gap"], 0),
        ("fail", ["longest_gap"], 1),
        ("pass", [], 1),
        ("unknown", ["keyframe_first"], 2),
    ],
)
def test_only_the_defects_own_claim_catches_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: str, red: Sequence[str], code: int
) -> None:
    asked = _runs_that_say(monkeypatch, outcome=outcome, red=red)
    assert planted.run_planted([NO_IDR], jobs=1, out=tmp_path) == code
    assert "publisher=reference-no-idr" in asked[0]


def test_an_answer_that_is_no_json_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    died = subprocess.CompletedProcess([], 2, "", "deadair: no namespaces")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: died)
    assert planted.run_planted([NO_IDR], jobs=1, out=tmp_path) == 2
    assert "no namespaces" in capsys.readouterr().out


def test_an_unknown_defect_is_named_with_a_guess(tmp_path: Path) -> None:
    with pytest.raises(DeadairError, match="did you mean 'reference-no-idr'"):
        planted.run_planted(["reference-no-idx"], jobs=1, out=tmp_path)


def test_runs_that_are_meant_to_fail_are_not_the_latest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shown = new_invocation(None)
    new_invocation(None, latest=False)
    assert (tmp_path / "reports" / "latest").readlink().name == shown.name
