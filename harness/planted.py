"""``deadair planted``: every planted defect against the playbook that must catch it.

A check that has never failed proves nothing. Here each one that guards something has to fail: a defect that its
playbook lets pass makes this command fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.checks.parameters import did_you_mean
from harness.errors import DeadairError
from harness.runs import new_invocation
from harness.systems.registry import Defect, defects

_WITHIN_S = 300


@dataclass(frozen=True, slots=True)
class Trial:
    """One defect's run: which claims turned red, or why there was no answer."""

    defect: Defect
    red: Sequence[str]
    problem: str

    @property
    def caught(self) -> bool:
        """Red where it must be; another red claim beside it is no proof that the right check works."""
        return self.defect.claim in self.red


def run_planted(names: Sequence[str], *, jobs: int, out: Path | None) -> int:
    """Exit code: 0 all caught, 1 one slipped through, 2 one gave no answer."""
    chosen = _chosen(names)
    directory = new_invocation(out, latest=False)
    with ThreadPoolExecutor(jobs) as pool:
        trials = [_shown(trial) for trial in pool.map(lambda defect: _try(defect, directory), chosen)]
    caught = sum(trial.caught for trial in trials)
    print(f"\n{caught} of {len(trials)} planted defects were caught; their runs are in {directory}")
    if caught == len(trials):
        return 0
    return 2 if any(trial.problem for trial in trials) else 1


def _chosen(names: Sequence[str]) -> list[Defect]:
    known = {defect.system: defect for defect in defects()}
    for name in names:
        if name not in known:
            raise DeadairError(f"no planted defect is called {name!r}; {did_you_mean(name, known)}")
    return [known[name] for name in names or known]


def _try(defect: Defect, directory: Path) -> Trial:
    out = directory / defect.system
    command = [sys.executable, "-m", "harness.cli", "run", defect.caught_by, "--json", "--no-packets"]
    command += ["--out", str(out)]
    for role, system in defect.cast.items():
        command += ["--system", f"{role}={system}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        return Trial(defect, [], f"gave no answer within {_WITHIN_S} s")
    try:
        (run,) = json.loads(done.stdout)
    except ValueError:
        return Trial(defect, [], done.stderr.strip() or f"gave no answer (exit code {done.returncode})")
    if run["outcome"] == "unknown":
        return Trial(defect, [], run["sentence"])
    return Trial(defect, [v["check"] for v in run["verdicts"] if v["outcome"] == "fail"], "")


def _shown(trial: Trial) -> Trial:
    defect = trial.defect
    word = "caught" if trial.caught else "UNKNOWN" if trial.problem else "SLIPPED THROUGH"
    print(f"{word:<16}{defect.system:<30}{defect.caught_by}", flush=True)
    partners = "".join(f" (with {role}={system})" for role, system in defect.partners.items())
    print(f"{'':<16}{defect.role} {defect.sentence}{partners}", flush=True)
    red = ", ".join(trial.red) or "nothing"
    answer = trial.problem or f"must turn red: {defect.claim}; red: {red}"
    print(f"{'':<16}{answer}", flush=True)
    return trial
