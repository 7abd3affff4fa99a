"""``deadair bench``: what it prints and returns, told by benchmarks that measure nothing, and a few real ones."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from harness import bench, cli, cputime
from harness.bench import Benchmark, Goal, Measured, Result, Session
from harness.engines.netns import leftovers
from harness.engines.netns.leftovers import Trial
from harness.engines.netns.probes import denial
from harness.errors import DeadairError, HarnessError
from harness.network.presets import PRESETS

BURN_S = 0.4
BURNER = f"import time; end = time.process_time() + {BURN_S}\nwhile time.process_time() < end: pass"
# as the forge does with labs: a parent that ignores SIGCHLD, so that nobody ever waits for the burner
DEAF_PARENT = f"""
import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    open("/proc/self/comm", "w").write("planted-lab")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", {BURNER!r}])
    os.wait()
    time.sleep(0.5)
    os._exit(0)
time.sleep(1.5)
"""


async def _quick(_session: Session) -> Measured:
    return Measured(3.5, {"median_ms": 1.25})


async def _broken(_session: Session) -> Measured:
    raise OSError(28, "No space left on device")


async def _endless(_session: Session) -> Measured:
    await asyncio.Event().wait()
    raise AssertionError


FAKES: Mapping[str, Benchmark] = {
    "broken_ms": Benchmark("ms", Goal("<", 9), "never", _broken),
    "quick_ms": Benchmark("ms", Goal("<", 5), "a number", _quick),
    "slow_pps": Benchmark("packets/s", Goal("≥", 60_000), "a number", _quick),
    "free": Benchmark("cores", None, "a number", _quick),
    "asked_for_s": Benchmark("s", None, "a number", _quick, by_default=False),
}


def _run(*names: str, benches: Mapping[str, Benchmark] = FAKES) -> dict[str, Result]:
    results = bench.run_benches(names, kills=1, progress=lambda _line: None, benches=benches)
    return {result.name: result for result in results}


def test_a_figure_is_told_with_its_goal_whether_it_was_met_how_it_was_had_and_more_figures() -> None:
    told = _run("quick_ms")["quick_ms"].to_json()
    assert told.pop("load_before") >= 0
    assert told == {"value": 3.5, "unit": "ms", "goal": "< 5", "how": "a number", "met": True, "median_ms": 1.25}


def test_without_names_all_run_but_those_that_must_be_asked_for() -> None:
    assert list(_run()) == ["broken_ms", "quick_ms", "slow_pps", "free"]
    assert list(_run("asked_for_s", "quick_ms", "asked_for_s")) == ["asked_for_s", "quick_ms"]


def test_a_benchmark_that_fails_is_a_result_with_its_error_and_does_not_stop_the_others() -> None:
    results = _run()
    told = results["broken_ms"].to_json()
    assert told["value"] is None
    assert told["met"] is None
    assert told["error"] == "OSError: [Errno 28] No space left on device"
    assert results["quick_ms"].value == 3.5


def test_a_benchmark_that_does_not_end_is_given_up() -> None:
    endless = {"endless": Benchmark("s", None, "never", _endless, limit_s=lambda kills: 0.01 * kills)}
    assert _run(benches=endless)["endless"].error == "not done within 0.01 s"


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [("<", 5.0, False), ("<", 4.9, True), ("≥", 5.0, True), ("≥", 4.9, False), ("=", 5.0, True), ("=", 6.0, False)],
)
def test_a_goal_is_met_on_its_own_side_only(goal: str, value: float, met: bool) -> None:
    assert Result("x", "ms", Goal(goal, 5), "", value=value).met is met  # type: ignore[arg-type]


def test_an_unknown_name_is_an_error_that_says_which_was_meant() -> None:
    with pytest.raises(DeadairError, match=r"no benchmark is called 'wire_pp'; did you mean 'wire_pps'\?"):
        bench.run_benches(["wire_pp"], kills=1, progress=lambda _line: None)


def test_the_table_has_a_line_for_each_figure_aligned() -> None:
    lines = bench.table(list(_run().values())).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["name", "value", "unit", "goal", "how"],
        ["broken_ms", "-", "ms", "<", "9", "ERROR", "OSError:", "[Errno", "28]", "No", "space", "left", "on", "device"],
        ["quick_ms", "3.5", "ms", "<", "5", "met", "a", "number"],
    ]
    assert "≥ 60,000  MISSED  a number" in lines[3]
    assert len({line.index("a number") for line in lines[2:]} | {lines[0].index("how")}) == 1


@pytest.mark.parametrize(("value", "shown"), [(65310.4, "65,310"), (0.1534, "0.153"), (18.24, "18.2"), (0, "0")])
def test_numbers_are_shown_as_people_read_them(value: float, shown: str) -> None:
    assert bench._number(value) == shown


def test_the_command_prints_a_table_or_json_and_says_by_its_code_that_one_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "BENCHES", FAKES)
    assert cli.main(["bench", "quick_ms"]) == 0
    assert capsys.readouterr().out == bench.table([*_run("quick_ms").values()]) + "\n"
    assert cli.main(["bench", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["broken_ms", "quick_ms", "slow_pps", "free"]
    assert cli.main(["bench", "quick"]) == 2
    assert "did you mean 'quick_ms'?" in capsys.readouterr().err


def test_each_kill_trial_has_a_seed_of_its_own_and_what_it_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[float] = []

    def trial(rng: object) -> Trial:
        draws.append(rng.random())  # type: ignore[attr-defined]
        left = ("process 7 'sleep'",) if len(draws) == 2 else ()
        return Trial("forge", 0.5, 0.25, left)

    monkeypatch.setattr(leftovers, "kill_trial", trial)
    found = asyncio.run(bench._leftovers(Session(kills=5, progress=lambda _line: None)))
    assert len(set(draws)) == 5
    assert found.value == 1
    assert found.figures["victims"] == {"forge": 5}
    assert found.figures["left"] == ["forge killed after 0.500 s: process 7 'sleep'"]


def test_the_network_is_measured_by_packets_that_all_arrive() -> None:
    plain = bench._bulk_topology()
    assert bench._bulk_pps(plain, rebuilt=True, every_ns=5_000, count=500) > 0
    lossy = plain.with_link("wifi", up=plain.links[0].up.changed(mtu=600))
    with pytest.raises(DeadairError, match="delivered 0 of 500"):
        bench._bulk_pps(lossy, rebuilt=False, every_ns=5_000, count=500)


def test_what_a_measured_packet_comes_out_as_has_right_checksums() -> None:
    inet = pytest.importorskip("scapy.layers.inet")
    interfaces = [PRESETS["hotspot"].interfaces(node)[0].ipv4.ip.packed for node in ("phone", "gateway")]
    raw = bench._datagram(*interfaces)
    again = inet.IP(raw)
    del again.chksum
    del again[inet.UDP].chksum
    assert bytes(again) == raw
    assert len(raw) == 1200


def test_cpu_time_that_nobody_waits_for_is_seen_while_it_is_used() -> None:
    before = _waited_s()
    parent = subprocess.Popen([sys.executable, "-c", DEAF_PARENT])
    watch = cputime.LabWatch(parent.pid, lab="planted-lab")
    deadline = time.monotonic() + 30
    while parent.poll() is None and time.monotonic() < deadline:
        watch.look()
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert BURN_S - 0.02 <= watch.total_s < BURN_S + 0.3
    assert sum(watch.by_program().values()) <= watch.total_s + 0.02
    assert _waited_s() - before < BURN_S, "the rusage of children would have been enough"


def _waited_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def test_a_run_that_does_not_pass_has_no_time() -> None:
    with pytest.raises(HarnessError, match=r"deadair run hotspot/no_such ended with 2: .*no playbook is called"):
        await bench._timed_run("hotspot/no_such")


def test_descendants_are_found_through_all_generations() -> None:
    table = {pid: cputime.Process(pid, parent, "x", 0, 0) for pid, parent in {1: 0, 5: 1, 7: 5, 9: 7, 6: 1}.items()}
    assert set(cputime.descendants(table, 5)) == {7, 9}


@pytest.mark.netns
def test_a_lab_is_timed_up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    if denial(rootless=True) and denial(rootless=False):
        pytest.skip(f"no namespaces: {denial(rootless=True)}")
    monkeypatch.setattr(bench, "_LABS", 3)
    results = _run("lab_up_ms", "lab_down_ms", benches=bench.BENCHES)
    up, down = results["lab_up_ms"], results["lab_down_ms"]
    assert not up.error
    assert not down.error
    assert up.value is not None
    assert 1 < up.value <= up.figures["max_ms"] < 5000
    assert up.figures["count"] == 3
