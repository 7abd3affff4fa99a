"""``deadair list`` and ``deadair explain``."""

from __future__ import annotations

import pytest

from harness.catalogue import listing
from harness.checks import CHECKS
from harness.cli import main
from harness.errors import DeadairError
from harness.faults import REGISTRY
from harness.network.presets import PRESETS
from harness.playbook.loader import SCENARIOS, SUFFIX, handle_of
from harness.systems.registry import defects, systems

EVERYTHING = {
    "playbooks": [handle_of(path) for path in SCENARIOS.rglob(f"*{SUFFIX}")],
    "systems": [name for _, name in systems()],
    "defects": [defect.system for defect in defects()] + [defect.caught_by for defect in defects()],
    "checks": list(CHECKS),
    "faults": list(REGISTRY),
    "topologies": list(PRESETS),
}


@pytest.mark.parametrize("what", EVERYTHING)
def test_a_list_is_complete_and_fits_a_page(what: str) -> None:
    text = listing(what)
    assert max(map(len, text.splitlines())) <= 100
    missing = [name for name in EVERYTHING[what] if name not in text]
    assert not missing


@pytest.mark.parametrize("name", PRESETS)
def test_a_picture_keeps_its_branches_under_its_fork(name: str) -> None:
    lines = listing("topologies").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"  {name} "))
    picture = [line for line in lines[at : at + 9] if "┬" in line or "├─v" in line or "└─platform" in line]
    column = picture[0].index("┬")
    assert [line[column] for line in picture] == ["┬", "├", "├", "└"]


def test_a_check_is_listed_with_its_limits_their_defaults_and_sources() -> None:
    block = listing("checks").split("longest_gap")[1].split("frames_lost")[0]
    assert "at_most: 3.00 s" in block and "(S3: viewer-visible gap <= 3 s)" in block


def test_an_unknown_list_names_those_there_are() -> None:
    with pytest.raises(DeadairError, match="there are playbooks, systems"):
        listing("weather")


def test_the_command_prints_each_list_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.startswith("playbooks (")
    assert main(["list", "--faults", "--topologies"]) == 0
    printed = capsys.readouterr().out
    assert "black_hole" in printed and "dual_path" in printed


def test_explain_explains_a_playbook_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "hotspot/backhaul_drop_4s"]) == 0
    assert "BREAKS: black hole on backhaul" in capsys.readouterr().out


def test_explain_of_an_unknown_playbook_says_what_was_probably_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "hotspot/backhaul_drop_4"]) == 2
    assert "did you mean 'hotspot/backhaul_drop_4s'?" in capsys.readouterr().err


def test_an_unknown_playbook_of_a_known_folder_is_answered_with_what_is_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "hotspot/zzz"]) == 2
    told = capsys.readouterr().err
    assert "did you mean" not in told and "in hotspot there is hotspot/" in told and "tcp/" not in told


def test_an_unknown_playbook_unlike_any_other_is_answered_with_where_to_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "weather_forecast"]) == 2
    assert "no playbook is called 'weather_forecast'; see `deadair list`" in capsys.readouterr().err
