"""Who can play which role, and with which command line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.checks import CHECKS, EVERY_RUN
from harness.errors import DeadairError, HarnessError
from harness.planted import run_planted
from harness.playbook.engine import Seat
from harness.playbook.loader import SCENARIOS, SUFFIX, load_playbook
from harness.systems import planted
from harness.systems.reference import ROLES, ReferenceSystem
from harness.systems.registry import Defect, defects, names_by_role, system_for, systems


def seat(role: str, **options: str) -> Seat:
    return Seat(role, "node", Path("/run"), 7, options)


def test_every_role_has_the_reference() -> None:
    assert {role for role, name in systems() if name == "reference"} == set(ROLES)


def test_every_planted_file_is_a_system_and_a_defect() -> None:
    files = {path.stem for path in Path(planted.__file__ or "").parent.glob("[!_]*.py")}
    assert {f"reference-{stem.replace('_', '-')}" for stem in files} == {defect.system for defect in defects()}
    assert all((defect.role, defect.system) in systems() for defect in defects())


@pytest.mark.parametrize("defect", defects(), ids=lambda defect: defect.system)
def test_what_is_read_of_a_planted_file_is_what_it_says_when_imported(defect: Defect) -> None:
    stem = defect.system.removeprefix("reference-").replace("-", "_")
    module = importlib.import_module(f"{planted.__name__}.{stem}")
    said = (module.ROLE, module.DEFECT, module.CAUGHT_BY, module.CLAIM)
    assert (defect.role, defect.sentence, defect.caught_by, defect.claim) == said
    assert defect.partners == getattr(module, "WITH", {})
    assert callable(module.main)


@pytest.mark.parametrize("defect", defects(), ids=lambda defect: defect.system)
def test_a_defect_is_caught_by_a_claim_that_its_playbook_makes(defect: Defect) -> None:
    playbook = load_playbook(SCENARIOS / f"{defect.caught_by}{SUFFIX}")
    assert defect.claim in CHECKS
    assert defect.claim in {*EVERY_RUN, *(entry.limits.check for entry in playbook.expectations)}
    assert all(pair in systems() for pair in defect.cast.items())


def test_a_defect_that_shows_only_beside_another_is_tried_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        verdicts = [{"check": "gate_held", "outcome": "fail"}]
        answer = json.dumps([{"outcome": "fail", "verdicts": verdicts}])
        return subprocess.CompletedProcess(command, 1, answer, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert run_planted(["reference-no-gate"], jobs=1, out=tmp_path) == 0
    assert [word for word in commands[0] if "=reference" in word] == [
        "publisher=reference-no-idr",
        "gateway=reference-no-gate",
    ]


NOT_PLANTED = {
    "reconnects": "a count; deaf_watchdog, which never reconnects, turns it red beside outage_detected",
    "media_resumed": "a latency, late for many causes; forgets_workers turns it red beside leftover_ended",
    "longest_gap": "a latency, like media_resumed; refuses_returning and forgets_workers turn it red on the way",
    "frames_lost": "claimed where TCP loses nothing; hasty turns it red beside no_reconnect",
    "publish_accepted": "refuses_returning turns it red beside never_refused, the stricter claim",
    "egress_kept": "ends_at_once turns it red beside session_kept: no session, no egress",
}
"""Checks that no planted defect is for, and why; the stories of tests/checks break each of them."""


def test_every_check_that_a_playbook_may_claim_has_a_defect_that_it_catches_or_a_reason_why_not() -> None:
    caught = {defect.claim for defect in defects()}
    assert caught | set(NOT_PLANTED) | set(EVERY_RUN) == set(CHECKS)
    assert not caught & set(NOT_PLANTED)


def test_an_unknown_system_is_told_with_those_who_can() -> None:
    with pytest.raises(
        DeadairError, match="no system 'reference-no-gat' can play gateway; did you mean 'reference-no-ga"
    ):
        system_for("gateway", "reference-no-gat")
    with pytest.raises(DeadairError, match=r"can play viewer.* \(known: reference\)"):
        system_for("viewer", "reference-no-idr")
    assert names_by_role()["viewer"] == ["reference"]


@pytest.mark.parametrize("role", ROLES)
def test_a_reference_program_is_started_by_its_module_with_the_roles_options(role: str) -> None:
    launch = ReferenceSystem(role).launch(seat(role))
    assert launch.argv[:2] == [sys.executable, "-m"] and launch.argv[2] == launch.program
    assert importlib.util.find_spec(launch.program) is not None
    assert launch.harnessed


def test_the_playbooks_options_replace_those_of_the_role() -> None:
    argv = ReferenceSystem("publisher").launch(seat("publisher", seed="99", bitrate="1M")).argv
    assert argv.count("--seed") == 1 and argv[argv.index("--seed") + 1] == "99"
    assert argv[argv.index("--bitrate") + 1] == "1M"


def test_a_planted_variant_is_another_module_in_the_same_seat() -> None:
    good, bad = (system_for("publisher", name).launch(seat("publisher")) for name in ("reference", "reference-no-idr"))
    assert bad.program == "harness.systems.planted.no_idr"
    assert list(bad.argv[3:]) == list(good.argv[3:])


def test_without_pyav_a_reference_program_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else real(name))
    with pytest.raises(HarnessError, match=r"publisher needs PyAV(.|\n)*pip install 'deadair\[media\]'"):
        ReferenceSystem("publisher").launch(seat("publisher"))


def test_lists_and_schema_do_not_need_pyav() -> None:
    code = (
        "import sys; sys.modules['av'] = None; sys.modules['pyroute2'] = None\n"
        "from harness.cli import main\n"
        "sys.exit(main(['list', '--systems', '--defects']) or main(['list']) or main(['schema']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "reference-no-idr" in done.stdout
