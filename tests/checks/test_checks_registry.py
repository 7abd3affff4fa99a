"""Reading expectations, judging a whole run, and what happens when a check itself breaks."""

from __future__ import annotations

import dataclasses

import pytest
from stories import a_blip, a_drop_with_a_reconnect, a_live_stream

from harness.checks import (
    CHECKS,
    EVERY_RUN,
    CheckSpec,
    LimitError,
    Outcome,
    Verdict,
    evaluate,
    expectation,
    overall,
    registry,
    run_check,
)
from harness.checks.limits import Limits, NeverStopped, OutageDetected
from harness.history.query import History
from harness.units import SECOND


def test_a_playbooks_text_becomes_limits_in_nanoseconds() -> None:
    assert expectation("outage_detected", {"by": "gateway", "within": "2.0 s"}).limits == OutageDetected(
        by="gateway", within_ns=2 * SECOND
    )


@pytest.mark.parametrize(
    ("name", "given", "what", "hint"),
    [
        ("outage_detectd", {}, "no check is called 'outage_detectd'", "did you mean 'outage_detected'?"),
        ("outage_detected", {"witin": "2 s"}, "no limit is called 'witin' here", "did you mean 'within'?"),
        ("no_reconnect", {"within": "2 s"}, "no limit is called 'within' here", "it takes no limits"),
        ("outage_detected", {"within": 2}, "within: 2 has no unit", "write for example 2.00 s"),
        ("outage_detected", {"within": "2 parsecs"}, "within: '2 parsecs'", ""),
        ("reconnects", {"at_most": "two"}, "at_most: 'two' is not a number of things", ""),
        ("reconnects", {"at_most": True}, "at_most: True is not a number of things", ""),
        ("keyframe_first", {"at": []}, "at: [] is not a list of roles", "[gateway, viewer]"),
        ("egress_stopped", {"after": "sesion_ended"}, "after: 'sesion_ended' is not one of", "'session_ended'"),
    ],
)
def test_a_mistake_in_an_expectation_is_named_with_what_would_be_right(
    name: str, given: dict[str, object], what: str, hint: str
) -> None:
    with pytest.raises(LimitError) as caught:
        expectation(name, given)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_one_role_may_be_written_without_brackets() -> None:
    assert expectation("longest_gap", {"at": "viewer"}) == expectation("longest_gap", {"at": ["viewer"]})


@pytest.mark.parametrize("spec", CHECKS.values(), ids=lambda spec: spec.name)
def test_every_check_explains_itself_and_every_default_names_its_source(spec: CheckSpec) -> None:
    limits = spec.read()
    assert spec.sentence.endswith(".")
    assert limits.claim()[0].islower() and limits.expected()
    for parameter in spec.parameters.values():
        assert parameter.meaning and parameter.source and parameter.show_default()
        assert parameter.field.removesuffix("_ns") == parameter.name
        assert (parameter.kind == "duration") == parameter.field.endswith("_ns")


def test_a_run_has_its_own_checks_first_and_the_playbooks_lines_in_the_verdicts() -> None:
    verdicts = evaluate(a_blip().history(), [expectation("no_reconnect", line=21)])
    assert [(verdict.check, verdict.line) for verdict in verdicts] == [
        *((name, 0) for name in EVERY_RUN),
        ("no_reconnect", 21),
    ]
    assert overall(verdicts) is Outcome.PASS


def test_naming_a_check_of_every_run_sets_its_limits_instead_of_doubling_it() -> None:
    verdicts = evaluate(a_blip().history(), [expectation("emulator_punctual", {"late_p99": "100 us"})])
    assert [verdict.outcome for verdict in verdicts if verdict.check == "emulator_punctual"] == [Outcome.UNKNOWN]


def test_a_fault_that_touched_nothing_makes_the_run_unknown_even_where_something_failed() -> None:
    story = a_drop_with_a_reconnect()
    asked = [expectation("no_reconnect")]
    assert overall(evaluate(story.history(), asked)) is Outcome.FAIL
    assert overall(evaluate(story.but("fault:left", touched=0).history(), asked)) is Outcome.UNKNOWN


def test_one_failure_outweighs_what_a_check_could_not_tell() -> None:
    verdicts = evaluate(
        a_blip().history(), [expectation("publish_accepted"), expectation("frames_lost", {"at_most": 0})]
    )
    assert overall(verdicts) is Outcome.UNKNOWN
    failed = dataclasses.replace(verdicts[-1], outcome=Outcome.FAIL)
    assert overall([*verdicts, failed]) is Outcome.FAIL


def test_no_verdicts_are_no_success() -> None:
    assert overall([]) is Outcome.UNKNOWN


def test_a_check_that_crashes_is_unknown_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_history: History, _limits: Limits) -> Verdict:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(registry, "CHECKS", {**CHECKS, "never_stopped": CheckSpec(NeverStopped, crash)})
    verdict = run_check(a_blip().history(), NeverStopped(), line=7)
    assert (verdict.outcome, verdict.line) == (Outcome.UNKNOWN, 7)
    assert "ZeroDivisionError: by accident" in verdict.observed
    assert "test_checks_registry.py" in verdict.because


@pytest.mark.parametrize("name", CHECKS)
def test_no_check_crashes_on_a_history_with_little_in_it(name: str) -> None:
    stories = [History([]), a_live_stream().history()]
    for history in stories:
        assert "the check itself failed" not in run_check(history, expectation(name).limits).observed


@pytest.mark.parametrize("name", CHECKS)
def test_no_check_crashes_whatever_a_single_event_is_missing(name: str) -> None:
    whole = a_drop_with_a_reconnect()
    for gone in {(line.name, line.source) for line in whole.lines}:
        story = a_drop_with_a_reconnect().without(*gone)
        assert "the check itself failed" not in run_check(story.history(), expectation(name).limits).observed, gone


def test_checks_are_pure() -> None:
    history = a_drop_with_a_reconnect().history()
    asked = [expectation(name) for name in CHECKS]
    assert evaluate(history, asked) == evaluate(history, asked)
