"""Terminal, summary, JUnit, trace, and the files of a run."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from synthetic_history import drop_run

from harness.checks.verdict import Outcome, Verdict
from harness.errors import HarnessError
from harness.report import terminal
from harness.report.files import write_invocation, write_run
from harness.report.junit import render_junit
from harness.report.model import RunModel, RunView, build_model
from harness.report.summary import MOST_BYTES, render_summary
from harness.report.trace import render_trace


@pytest.fixture
def models() -> list[RunModel]:
    return [build_model(drop_run(idr=True)), build_model(drop_run(idr=False))]


def failing(**changes: Any) -> RunModel:
    fields = {"check": "c", "claim": "claim", "expected": "e", "observed": "o", **changes}
    return build_model(RunView(events=[], verdicts=[Verdict(Outcome.FAIL, **fields)]))


# --- terminal ------------------------------------------------------------------------------------------------------


def test_the_terminal_ends_with_the_verdict_in_one_sentence(models: list[RunModel]) -> None:
    lines = terminal.render(models, report="reports/latest/report.html").splitlines()
    assert lines[-1].startswith("2 runs: 1 failed, 1 passed. First: ")
    assert "report: reports/latest/report.html" in lines


def test_nothing_on_the_terminal_is_wider_than_100_columns_but_what_must_stay_whole(models: list[RunModel]) -> None:
    long = failing(claim="claim " * 60, expected="e" * 500, observed="o " * 400, because="b " * 90)
    lines = terminal.render([*models, long, replace(models[0], playbook="p" * 300)]).splitlines()
    wide = [line for line in lines[:-1] if len(line) > 100 and not line.startswith("  replay")]
    assert wide == []


def test_a_failure_block_says_expected_observed_fault_setting_and_replay(models: list[RunModel]) -> None:
    block = terminal.failure_blocks(models)[0]
    names = re.findall(r"^  (\S.*?)  ", block, flags=re.MULTILINE)
    assert names == ["expected", "observed", "because", "active fault", "decided by", "replay"]
    assert block.splitlines()[-1].endswith(models[1].replay)


def test_columns_of_the_table_are_aligned(models: list[RunModel]) -> None:
    head, *rows = terminal.table(models).splitlines()
    assert {row.index("hotspot/") for row in rows} == {head.index("run")}


def test_colour_only_on_a_terminal_and_never_with_no_color(models: list[RunModel]) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert terminal.wants_colour(Screen(), {})
    assert terminal.wants_colour(Screen(), {"NO_COLOR": ""})
    assert not terminal.wants_colour(Screen(), {"NO_COLOR": "1"})
    assert not terminal.wants_colour(io.StringIO(), {})
    assert "\x1b" not in terminal.render(models)
    assert "\x1b[1;31mFAIL\x1b[0m" in terminal.render(models, colour=True)


def test_what_a_peer_sent_cannot_steer_the_terminal() -> None:
    text = terminal.render([failing(observed="\x1b[2Jgone\nforged: all passed", claim="\x07ding")])
    assert "\x1b" not in text and "\x07" not in text
    assert "\nforged" not in text


# --- summary -------------------------------------------------------------------------------------------------------


def test_the_summary_has_the_verdict_the_failed_run_first_and_its_replay_line(models: list[RunModel]) -> None:
    text = render_summary(models)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert "**fail**" in rows[1] and "pass" in rows[2]
    assert f"```sh\n{models[1].replay}\n```" in text


def test_a_thousand_failures_stay_under_64_kb_and_are_counted(models: list[RunModel]) -> None:
    text = render_summary([models[1]] * 1000)
    assert len(text.encode()) < MOST_BYTES
    assert "1980 more failures in report.html" in text
    assert "850 more runs in report.html" in text


def test_twenty_huge_failures_stay_under_64_kb() -> None:
    huge = failing(**dict.fromkeys(("claim", "expected", "observed", "because"), "ü|" * 50_000))
    assert len(render_summary([huge] * 20).encode()) < MOST_BYTES


def test_markdown_in_what_was_observed_stays_text() -> None:
    text = render_summary([failing(observed="a|b <img src=x> [x](y)\n# heading")])
    assert r"a\|b \<img src=x\> \[x\](y) \# heading" in text


# --- JUnit ---------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_verdict_and_the_sentence_as_the_failures_message(models: list[RunModel]) -> None:
    suite = ET.fromstring(render_junit([models[1]]).encode()).find("testsuite")
    assert suite is not None
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["6", "1", "1", "0"]
    properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert properties["seed"] == "42"
    assert properties["replay"] == models[1].replay
    (failure,) = suite.iter("failure")
    message = failure.get("message") or ""
    assert message.startswith("the first frame after the reconnect is an IDR: expected an IDR")
    assert "active fault: none any more" in (failure.text or "")
    (error,) = suite.iter("error")
    assert error.get("type") == "unknown"


def test_a_run_without_verdicts_is_an_error_in_junit_and_not_an_empty_success() -> None:
    suite = ET.fromstring(render_junit([build_model(RunView(events=[], verdicts=[]))]).encode()).find("testsuite")
    assert suite is not None
    assert [suite.get(key) for key in ("tests", "errors")] == ["1", "1"]


def test_junit_stays_xml_whatever_was_observed() -> None:
    text = render_junit([failing(observed="\x00\x1b\ud800<&]]>\uffff", claim='"<failure>"')])
    (failure,) = ET.fromstring(text.encode()).iter("failure")
    assert "\ufffd\ufffd\ufffd<&]]>\ufffd" in (failure.get("message") or "")


# --- trace ---------------------------------------------------------------------------------------------------------


def traced(model: RunModel) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(render_trace(model))["traceEvents"]
    return events


def test_the_trace_names_a_process_for_each_node_and_holds_the_fault_in_microseconds(models: list[RunModel]) -> None:
    events = traced(models[0])
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert {"faults", "phone", "gateway", "viewer", "viewer2", "platform", "curves"} <= processes
    (fault,) = [event for event in events if event["ph"] == "X" and event["name"].startswith("backhaul swallows")]
    assert (fault["ts"], fault["dur"], fault["args"]["receipt"]) == (8_300_000.0, 4_000_000.0, "touched 487")


def test_durations_on_one_thread_of_the_trace_nest(models: list[RunModel]) -> None:
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in traced(models[1]):
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) >= 6
    for spans in threads.values():
        for start, end in spans:
            assert all(
                end <= s or e <= start or (s <= start and end <= e) or (start <= s and e <= end) for s, e in spans
            )


def test_the_trace_has_a_counter_for_each_flow(models: list[RunModel]) -> None:
    counters = {event["name"] for event in traced(models[0]) if event["ph"] == "C"}
    assert {"phone → gateway:1935 [bit/s]", "publisher outstanding [B]", "viewer media delay [ms]"} <= counters


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_run_gets_all_its_derived_files(tmp_path: Path) -> None:
    model = write_run(drop_run(idr=False, run_dir=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "summary.md", "junit.xml", "trace.json"}
    page = write_invocation([model, model], tmp_path)
    assert "2 runs: 2 failed." in page.read_text(encoding="utf-8")


def test_half_a_surrogate_pair_from_a_peer_does_not_stop_the_report(tmp_path: Path) -> None:
    verdict = Verdict(Outcome.FAIL, "c", "claim \ud800", "e", "o")
    write_run(RunView(events=[], verdicts=[verdict], run_dir=tmp_path))
    assert "claim ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(HarnessError, match=r"report\.html cannot be written"):
        write_run(drop_run(idr=True, run_dir=tmp_path))


def test_a_run_without_a_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere to write"):
        write_run(drop_run(idr=True))
