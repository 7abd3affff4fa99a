"""``deadair run`` and pytest itself, in processes of their own, over the engine of ``tests/playbook/fake_lab.py``."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "name: {name}\nwhy: tests\nsteady: {{before: 0, after: 1 ms, within: 200 ms}}\n"
SCRIPT = "steps:\n  - {at: 5 ms, for: 5 ms, black_hole: {link: backhaul}}\nexpect:\n  - never_refused\n"


class Desk:
    """A working directory with playbooks of our own, and the commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def playbook(self, name: str, *, body: str = "", mood: str = "") -> str:
        moods = f"systems: {{gateway: {{options: {{fake: {mood}}}}}}}\n" if mood else ""
        path = self.folder / f"{name}.playbook.yaml"
        path.write_text(HEAD.format(name=name) + moods + (body or SCRIPT), encoding="utf-8")
        return str(path.relative_to(self.folder))

    def deadair(self, *words: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        return self._python("-m", "harness.cli", "run", "--no-packets", *words, before=before)

    def pytest(self, *words: str) -> subprocess.CompletedProcess[str]:
        options = ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
        return self._python("-m", "pytest", *options, *words)

    def _python(self, *words: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, *words, before=before)

    def run(self, *words: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "playbook")])
        return subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "PYTEST_PLUGINS": "fake_lab"},
            preexec_fn=before,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def latest(self) -> Path:
        return self.folder / "reports" / "latest"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def no_traceback(done: subprocess.CompletedProcess[str]) -> None:
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text and "INTERNALERROR" not in text and "Warning" not in text, text


def test_a_pass_is_0_and_leaves_a_run_behind_with_latest_pointing_at_it(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("good"))
    no_traceback(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert "BROKEN: black hole on backhaul" in done.stdout, "progress is shown"
    assert "passed" in done.stdout.splitlines()[-1] and "report: " in done.stdout
    names = {path.name for path in (desk.latest() / "good").iterdir()}
    assert {"events.jsonl", "run.json", "report.html", "summary.md", "junit.xml", "trace.json"} <= names
    assert (desk.latest() / "report.html").exists() and (desk.folder / "reports" / "latest").is_symlink()


def test_a_failure_is_1_and_says_why_and_how_to_repeat_it(desk: Desk) -> None:
    path = desk.playbook("refused", mood="refuses")
    done = desk.deadair(path, "--seed", "7")
    no_traceback(done)
    assert done.returncode == 1
    replay = next(line for line in done.stdout.splitlines() if line.strip().startswith("replay"))
    words = shlex.split(replay)[1:]
    assert words[-3:] == ["--seed", "7", "--no-packets"]
    assert desk.run(*words).returncode == 1, "the replay line works as it stands"


@pytest.mark.parametrize(
    ("mood", "words"), [("ends", "gateway (reference) ended at once"), ("mute", "was not ready"), ("deaf", "passed")]
)
def test_unknown_is_2_with_its_reason(desk: Desk, mood: str, words: str) -> None:
    done = desk.deadair(desk.playbook("poor", mood=mood))
    no_traceback(done)
    assert done.returncode == (0 if mood == "deaf" else 2)
    assert words in done.stdout


def test_a_failure_beside_an_unknown_is_1(desk: Desk) -> None:
    playbooks = [desk.playbook("refused", mood="refuses"), desk.playbook("poor", mood="ends"), desk.playbook("good")]
    done = desk.deadair(*playbooks)
    assert done.returncode == 1
    assert len(json.loads(desk.deadair(*playbooks, "--json").stdout)) == 3


def test_json_is_all_that_stands_on_standard_output(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("good"), "--json")
    (run,) = json.loads(done.stdout)
    assert run["outcome"] == "pass"
    assert Path(run["run_dir"]).is_dir() and "script is over" in done.stderr


def test_repeat_counts_seeds_up_in_directories_of_their_own(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("good"), "--repeat", "3", "--seed", "5")
    assert done.returncode == 0
    seeds = {json.loads(path.read_text())["seed"] for path in desk.latest().glob("good*/run.json")}
    assert seeds == {5, 6, 7}


def test_two_at_a_time_are_gathered_into_one_report_and_one_exit_code(desk: Desk) -> None:
    playbooks = [desk.playbook("one"), desk.playbook("two"), desk.playbook("bad", mood="refuses")]
    done = desk.deadair(*playbooks, "--jobs", "2")
    no_traceback(done)
    assert done.returncode == 1, done.stdout + done.stderr
    page = (desk.latest() / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("one", "two", "bad"))
    table = [line for line in done.stdout.splitlines() if line.startswith(("pass ", "FAIL "))]
    assert len([line for line in table if "claims" not in line]) >= 3
    assert len(list((desk.folder / "reports").glob("2*"))) == 1, "workers write where the controller says"


def test_out_names_the_directory_and_latest_stays_as_it_is(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("good"), "--out", "here/it/is")
    assert done.returncode == 0
    assert (desk.folder / "here/it/is/good/events.jsonl").exists() and not (desk.folder / "reports").exists()


def test_a_directory_that_cannot_be_made_is_2_with_a_cure(desk: Desk) -> None:
    for jobs in ((), ("--jobs", "2")):
        done = desk.deadair(desk.playbook("good"), "--out", "/dev/null/x", *jobs)
        no_traceback(done)
        assert done.returncode == 2
        assert "/dev/null/x cannot be written" in done.stderr and "--out" in done.stderr


def _tiny_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_disk_that_fills_up_during_the_run_is_2_with_a_cure(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("long", mood="chatty"), before=_tiny_disk)
    no_traceback(done)
    assert done.returncode == 2
    assert "cannot be written" in done.stdout + done.stderr and "cure" in done.stdout + done.stderr


def test_a_disk_that_fills_up_with_the_report_is_2_with_a_cure(desk: Desk) -> None:
    def barely_enough() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    done = desk.deadair(desk.playbook("good"), before=barely_enough)
    no_traceback(done)
    assert done.returncode == 2
    assert "report.html cannot be written" in done.stdout + done.stderr


@pytest.mark.parametrize("mood", ["ctrl_c", "terminated"])
def test_ctrl_c_and_sigterm_are_2_and_leave_a_report_on_what_there_is(desk: Desk, mood: str) -> None:
    done = desk.deadair(desk.playbook("stopped", mood=mood))
    no_traceback(done)
    assert done.returncode == 2
    reports = next(path for path in (desk.folder / "reports").iterdir() if path.name.startswith("2"))
    told = next(line for line in done.stderr.splitlines() if "interrupted; nothing was left behind" in line)
    assert told.endswith(f"what there is stands in reports/{reports.name}/report.html")
    assert (reports / "report.html").exists()
    run = desk.latest() / "stopped"
    history = (run / "events.jsonl").read_text().splitlines()
    assert "run:interrupted" in "".join(history) and '"closed"' not in history[-1]
    assert "lab:closed" in "".join(history)
    assert json.loads((run / "run.json").read_text())["error"] and (run / "report.html").exists()


def test_an_interrupted_run_keeps_its_packets_as_a_capture_and_no_spool(desk: Desk) -> None:
    done = desk.run(sys.executable, "-m", "harness.cli", "run", desk.playbook("stopped", mood="ctrl_c"))
    assert done.returncode == 2
    run = desk.latest() / "stopped"
    assert (run / "capture.pcapng").exists() and not (run / "capture.spool").exists()


def test_a_run_is_judged_again_where_it_was_moved_and_by_the_playbook_of_its_time(desk: Desk) -> None:
    path = desk.playbook("good")
    assert desk.deadair(path).returncode == 0
    (desk.latest() / "good").rename(desk.folder / "elsewhere")
    (desk.folder / path).write_text("expect: nothing of this", encoding="utf-8")
    done = desk.run(sys.executable, "-m", "harness.cli", "report", "elsewhere")
    no_traceback(done)
    assert done.returncode == 0 and "good passed" in done.stdout, done.stderr


def test_without_pyav_nothing_runs_and_the_cure_is_one_line(desk: Desk) -> None:
    hide = "import sys, importlib.util as u; f = u.find_spec\n"
    hide += "u.find_spec = lambda name, *a: None if name == 'av' else f(name, *a)\n"
    hide += "from harness.cli import main; sys.exit(main())"
    done = desk.run(sys.executable, "-c", hide, "run", desk.playbook("one"), desk.playbook("two"))
    no_traceback(done)
    assert done.returncode == 2 and not (desk.folder / "reports").exists()
    assert done.stderr.splitlines() == [
        "the reference programs need PyAV; install the extra: pip install 'deadair[media]'"
    ]


# --- mistakes ------------------------------------------------------------------------------------------------

BROKEN = "steps:\n  - {at: 1, kill: publisher}\nexpect:\n  - never_refusd\n"
TOLD = [
    "broken.playbook.yaml:5:6: at: '1' has no unit; write for example '250 ms'",
    "broken.playbook.yaml:7:5: no check is called 'never_refusd' (did you mean 'never_refused'?)",
]


def test_a_wrong_playbook_is_told_by_line_and_column_and_nothing_runs(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("broken", body=BROKEN), desk.playbook("good"))
    no_traceback(done)
    assert done.returncode == 2 and not (desk.folder / "reports").exists()
    lines = done.stderr.splitlines()
    assert all(any(told in line for line in lines) for told in TOLD)
    assert lines[0].startswith(f"{desk.folder}/broken.playbook.yaml:5:6: ") and "interrupted" not in done.stderr


def test_pytest_tells_the_same_of_a_wrong_playbook(desk: Desk) -> None:
    done = desk.pytest(desk.playbook("broken", body=BROKEN))
    no_traceback(done)
    assert done.returncode == 2 and all(told in done.stdout for told in TOLD)


def test_pytest_points_a_failure_at_the_claims_line_without_a_traceback(desk: Desk) -> None:
    done = desk.pytest(desk.playbook("refused", mood="refuses"))
    no_traceback(done)
    assert done.returncode == 1 and "refused.playbook.yaml:8" in done.stdout
    assert "harness/pytest_plugin.py" not in done.stdout


def test_pytest_calls_what_proved_nothing_an_error_without_a_traceback(desk: Desk) -> None:
    done = desk.pytest(desk.playbook("poor", mood="ends"))
    no_traceback(done)
    assert done.returncode == 2 and "1 error" in done.stdout and "ended at once" in done.stdout
    assert "pluggy" not in done.stdout.split("ERRORS")[1]


def test_a_seed_that_is_no_number_is_2(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("good"), "--seed", "x")
    no_traceback(done)
    assert done.returncode == 2 and "argument --seed: invalid int value: 'x'" in done.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("publisher", "--system 'publisher': write ROLE=NAME, for example publisher=reference-no-idr"),
        ("pilot=reference", "has no role 'pilot' to give a system to; its roles: publisher, gateway"),
        ("publisher=reference-no-id", "can play publisher; did you mean 'reference-no-idr'?"),
    ],
)
def test_a_wrong_system_is_2_before_anything_runs(desk: Desk, given: str, told: str) -> None:
    done = desk.deadair(desk.playbook("good"), "--system", given)
    no_traceback(done)
    assert done.returncode == 2 and told in done.stderr and not (desk.folder / "reports").exists()


def test_a_wrong_system_in_the_playbook_is_told_by_its_line(desk: Desk) -> None:
    body = "systems:\n  viewer: refrence\n" + SCRIPT
    done = desk.deadair(desk.playbook("cast", body=body))
    no_traceback(done)
    assert done.returncode == 2
    assert "cast.playbook.yaml:5:3: no system 'refrence' can play viewer; did you mean 'reference'?" in done.stderr


def test_a_system_of_the_command_line_is_in_the_replay_line_and_the_history(desk: Desk) -> None:
    done = desk.deadair(desk.playbook("good"), "--system", "publisher=reference-no-idr", "--json")
    (run,) = json.loads(done.stdout)
    assert run["replay"].endswith("--system publisher=reference-no-idr --no-packets")
    first = (Path(run["run_dir"]) / "events.jsonl").read_text().splitlines()[1]
    assert json.loads(first)["data"]["systems"]["publisher"] == "reference-no-idr"


def test_a_playbook_of_over_two_minutes_needs_soak_or_its_name(desk: Desk) -> None:
    (desk.folder / "mine").mkdir()
    path = desk.playbook("mine/long", body="soak: true\n" + SCRIPT)
    done = desk.pytest("mine")
    assert done.returncode == 5 and not (desk.folder / "reports").exists()
    assert desk.pytest("mine", "--soak").returncode == 0
    assert desk.deadair(path).returncode == 0


def test_a_playbook_from_elsewhere_does_not_write_beside_itself(
    desk: Desk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Desk(tmp_path_factory.mktemp("other"))
    path = other.folder / other.playbook("far")
    assert desk.deadair(str(path)).returncode == 0
    assert sorted(other.folder.iterdir()) == [path]
    assert len(list(desk.latest().glob("**/events.jsonl"))) == 1
