"""What ``deadair doctor`` says, on this machine and where something is denied."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness import doctor
from harness.doctor import Finding, exit_status, judge_way, render
from harness.engines.netns import probes
from harness.engines.netns.probes import Probe, in_child

GOOD, DENIED = Probe(True, "fine"), Probe(False, "Operation not permitted")
TREE = str(Path(doctor.__file__).resolve().parents[1])
AS_JSON = [sys.executable, "-c", "import sys; from harness import doctor; sys.exit(doctor.main(as_json=True))"]


def test_every_probe_answers_and_every_trouble_has_a_cure() -> None:
    findings = doctor.examine()
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert {"python", "namespaces", "veth", "packet socket", "scheduling", "open files", "PyAV", "ffmpeg"} <= set(names)
    for finding in findings:
        assert finding.detail
        assert bool(finding.cure) is (finding.state != "ok"), finding


@pytest.mark.parametrize(
    ("as_root", "userns", "state"),
    [(GOOD, GOOD, "ok"), (GOOD, DENIED, "ok"), (DENIED, GOOD, "ok"), (DENIED, DENIED, "fail")],
)
def test_one_way_to_namespaces_is_enough(as_root: Probe, userns: Probe, state: str) -> None:
    assert judge_way(as_root, userns, settings={}).state == state


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({doctor._APPARMOR: "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ({doctor._CLONE_SWITCH: "0"}, "unprivileged_userns_clone=1"),
        ({doctor._MOST_NAMESPACES: "0"}, "max_user_namespaces=10000"),
        ({doctor._APPARMOR: "0", doctor._MOST_NAMESPACES: "9000"}, "--cap-add SYS_ADMIN"),
    ],
)
def test_the_cure_names_the_switch_that_denies(settings: Mapping[str, str], cure: str) -> None:
    assert cure in judge_way(DENIED, DENIED, settings=settings).cure


def _without(capabilities: str, *, limit: str = "") -> dict[str, Finding]:
    """The findings of a doctor that lacks capabilities (and, where given, runs under a shell's limit)."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv to take capabilities away")
    dropped = [setpriv, f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    shell = ["sh", "-c", f'{limit or ":"}; exec "$@"', "sh"]
    path = os.pathsep.join([TREE, *filter(None, sys.path)])
    done = subprocess.run(
        [*shell, *dropped, *AS_JSON], capture_output=True, env={**os.environ, "PYTHONPATH": path}, timeout=60
    )
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["ok"] else 2)
    return {entry["name"]: Finding(**entry) for entry in answer["findings"]}


def test_without_sys_admin_and_user_namespaces_the_lab_is_impossible_and_the_cure_is_given() -> None:
    found = _without("-sys_admin,-setfcap")
    assert found["namespaces"].state == "fail"
    assert "Operation not permitted" in found["namespaces"].detail
    assert "SYS_ADMIN" in found["namespaces"].cure or "sysctl" in found["namespaces"].cure
    assert found["veth"].state == "fail"


def test_without_sys_nice_the_scheduling_is_a_warning_with_the_class_that_is_left() -> None:
    found = _without("-sys_nice,-sys_resource")
    assert found["scheduling"].state == "warn"
    assert "slice" in found["scheduling"].detail
    assert found["namespaces"].state in ("ok", "fail")


def test_a_low_limit_of_open_files_is_a_warning() -> None:
    found = _without("-wake_alarm", limit="ulimit -n 256")
    assert found["open files"].state == "warn"
    assert "256" in found["open files"].detail


def test_a_probe_that_raises_is_a_denial_and_one_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise PermissionError(1, "Operation not permitted")

    def hang() -> str:
        import time

        time.sleep(60)
        return "never"

    assert in_child(refuse) == DENIED
    monkeypatch.setattr(probes, "_WITHIN_S", 1)
    assert in_child(hang) == Probe(False, "no answer within 1 s")


def test_a_probe_leaves_this_process_as_it_is() -> None:
    before = (Path("/proc/self/ns/net").readlink(), resource.getrlimit(resource.RLIMIT_NOFILE))
    in_child(probes.user_namespace)
    assert (Path("/proc/self/ns/net").readlink(), resource.getrlimit(resource.RLIMIT_NOFILE)) == before


def test_missing_third_party_programs_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    peers = doctor._peers()
    assert {finding.state for finding in peers} == {"warn"}
    assert all("skipped" in finding.detail and finding.cure.startswith("apt install") for finding in peers)


def test_a_folder_that_cannot_be_written_to_is_a_warning() -> None:
    finding = doctor._disk(Path("/proc"))
    assert finding.state == "warn"
    assert "cannot be written" in finding.detail


def test_the_table_shows_cures_below_their_findings_and_closes_with_a_sentence() -> None:
    findings = [Finding("python", "ok", "3.11"), Finding("veth", "fail", "no such device", "sudo modprobe veth")]
    text = render(findings)
    assert text.splitlines()[1].startswith("FAIL veth")
    assert "cure: sudo modprobe veth" in text.splitlines()[2]
    assert text.endswith("This machine cannot run everything: veth.")
    assert exit_status(findings) == 2


def test_warnings_do_not_fail() -> None:
    findings = [Finding("tshark", "warn", "not installed", "apt install tshark")]
    assert exit_status(findings) == 0
    assert render(findings).endswith("This machine can run deadair (1 warning).")
    assert json.loads(render(findings, as_json=True))["ok"] is True
