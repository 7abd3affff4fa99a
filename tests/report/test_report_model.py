"""What every report shows is derived once, from events and verdicts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic_history import S, Story, drop_run

from harness.checks.verdict import Outcome, Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.report.model import (
    RunView,
    build_model,
    derive_faults,
    fields_text,
    receipt_text,
    summary_sentence,
    worst_outcome,
)


def event(number: int, t_ns: int, name: str, *, source: str = "publisher", **data: Any) -> Event:
    return Event(number, t_ns, "phone", source, name, data)


def entered(number: int, t_ns: int, fault: str) -> Event:
    return event(
        number,
        t_ns,
        "fault:entered",
        source="network",
        fault=fault,
        kind="black_hole",
        scope="network",
        target="backhaul",
        what=f"{fault} swallows",
        settings={},
    )


def left(number: int, t_ns: int, fault: str, touched: int) -> Event:
    return event(number, t_ns, "fault:left", source="network", fault=fault, touched=touched, receipt={})


def test_a_run_whose_claims_all_hold_passes_and_says_how_long_the_picture_stood_still() -> None:
    model = build_model(drop_run(idr=True))
    assert model.outcome is Outcome.PASS
    assert model.sentence == (
        "hotspot/backhaul_drop_4s passed: all 5 claims hold; the longest freeze was 4.41 s at the destination."
    )


def test_a_failed_run_names_the_system_the_claim_and_what_was_observed() -> None:
    model = build_model(drop_run(idr=False))
    assert model.outcome is Outcome.FAIL
    assert model.sentence.startswith("hotspot/backhaul_drop_4s publisher=reference-no-idr failed: ")
    assert '"the first frame after the reconnect is an IDR" does not hold; observed: frame 342' in model.sentence


def test_the_replay_line_is_derived_and_names_only_unusual_systems() -> None:
    assert build_model(drop_run(idr=False)).replay == (
        "deadair run hotspot/backhaul_drop_4s --engine netns --seed 42 --system publisher=reference-no-idr"
    )
    assert build_model(drop_run(idr=True)).replay.endswith("--seed 42")


def test_a_replay_line_in_the_provenance_wins() -> None:
    assert build_model(replace(drop_run(idr=True), provenance={"replay": "make it so"})).replay == "make it so"


@pytest.mark.parametrize("kept", [0, 5])
def test_a_cut_history_is_unknown_whatever_its_verdicts_say(kept: int) -> None:
    run = drop_run(idr=True)
    model = build_model(replace(run, verdicts=run.verdicts[:kept], cut="it has no closing line"))
    assert model.outcome is Outcome.UNKNOWN
    assert "it has no closing line" in model.sentence


def test_a_failure_over_a_cut_history_is_unknown_too() -> None:
    assert build_model(replace(drop_run(idr=False), cut="altered")).outcome is Outcome.UNKNOWN


def test_a_run_in_which_nothing_was_checked_is_unknown() -> None:
    assert build_model(replace(drop_run(idr=True), verdicts=[])).outcome is Outcome.UNKNOWN


def test_an_empty_history_can_be_shown() -> None:
    model = build_model(RunView(events=[], verdicts=[]))
    assert (model.outcome, model.playbook, model.took_ns) == (Outcome.UNKNOWN, "unnamed run", 0)
    assert model.lanes == [] and model.charts == [] and model.films == []


def test_a_view_of_a_loaded_history_carries_how_it_was_cut() -> None:
    history = History([entered(0, 1, "f1")], cut="line 3 is not whole")
    assert RunView.of(history, []).cut == "line 3 is not whole"


def test_a_fault_is_joined_with_the_receipt_that_follows_it() -> None:
    events = [entered(0, 1 * S, "f1"), left(1, 2 * S, "f1", 1234), entered(2, 3 * S, "f1"), left(3, 4 * S, "f1", 0)]
    first, second = derive_faults(events)
    assert (first.start, first.end, receipt_text(first)) == (1 * S, 2 * S, "touched 1,234")
    assert (second.start, second.end, receipt_text(second)) == (3 * S, 4 * S, "touched nothing")


def test_a_fault_that_never_left_has_no_end_and_no_receipt() -> None:
    (fault,) = derive_faults([entered(0, S, "f1")])
    assert fault.end is None
    assert receipt_text(fault) == "no receipt: still active at the end"


def failing(evidence: tuple[int, ...]) -> Verdict:
    return Verdict(Outcome.FAIL, "check", "claim", "expected", "observed", evidence=evidence)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (3, "f1 swallows (since t=1.000 s)"),
        (5, "none any more (f1 swallows; healed at t=3.000 s)"),
        (0, "none yet"),
    ],
)
def test_a_failure_names_the_fault_that_was_active_in_the_playbooks_time(evidence: int, said: str) -> None:
    events = [
        event(0, 0, "keyframe:requested", reason="early"),
        event(1, S, "script:started", source="runner", steps=1),
        entered(2, 2 * S, "f1"),
        event(3, 3 * S, "keyframe:requested", reason="during"),
        left(4, 4 * S, "f1", 3),
        event(5, 5 * S, "keyframe:requested", reason="after"),
    ]
    (failure,) = build_model(RunView(events=events, verdicts=[failing((evidence,))])).failures
    assert failure.active_fault == said


def test_a_failure_names_the_setting_that_its_evidence_told_and_the_events_before_it() -> None:
    story = Story()
    for n in range(9):
        story.tell(n, "publisher", "keyframe:requested", reason=str(n))
    story.tell(
        8.5,
        "publisher",
        "stall:detected",
        connection=1,
        watchdog="bytes_accepted",
        age_ms=1,
        setting="stall_after = 1 s",
    )
    story.tell(9, "publisher", "keyframe:requested", reason="later")
    (failure,) = build_model(RunView(events=story.events(), verdicts=[failing((9,))])).failures
    assert failure.setting == "stall_after = 1 s"
    assert [e.data.get("reason", e.name) for e in failure.last_events] == ["5", "6", "7", "8", "stall:detected"]


def test_failures_come_before_unknowns() -> None:
    outcomes = [failure.verdict.outcome for failure in build_model(drop_run(idr=False)).failures]
    assert outcomes == [Outcome.FAIL, Outcome.UNKNOWN]


def test_several_runs_are_summed_up_with_the_first_failure() -> None:
    models = [build_model(drop_run(idr=True)), build_model(drop_run(idr=False))]
    said = summary_sentence(models)
    assert said.startswith(
        "2 runs: 1 failed, 1 passed. First: hotspot/backhaul_drop_4s publisher=reference-no-idr failed"
    )
    assert summary_sentence(models[:1] * 3) == "3 runs: 3 passed."
    assert summary_sentence([]) == "Nothing ran, so nothing is known."


def test_the_worst_of_nothing_is_unknown() -> None:
    assert worst_outcome([]) is Outcome.UNKNOWN
    assert worst_outcome([Outcome.PASS, Outcome.UNKNOWN, Outcome.FAIL]) is Outcome.FAIL


def test_fields_are_readable_and_cut_where_they_are_endless() -> None:
    told = event(0, 0, "x:told", a=709.9999999999973, b=True, c="z" * 900)
    line = fields_text(told, most=60)
    assert line.startswith("a=710 b=yes c=zzz")
    assert len(line) == 60
