"""A limit for a sender that waits follows TCP's own timer, and only for a sender that waits."""

from __future__ import annotations

import pytest
from stories import BEFORE_THE_SCRIPT, Story, a_live_stream, a_wait

from harness.checks import Outcome, expectation, run_check
from harness.checks.retransmission import next_mark
from harness.history.query import History
from harness.units import MILLISECOND, SECOND


def at(seconds: float) -> int:
    return round((seconds + BEFORE_THE_SCRIPT) * SECOND)


def mark_after(history: History, *, cut: float, heal: float) -> float:
    mark = next_mark(history, fault_start=at(cut), heal=at(heal))
    assert mark is not None
    return mark.at / SECOND - BEFORE_THE_SCRIPT


def test_the_next_mark_is_one_rto_after_the_last_retransmission_that_was_seen() -> None:
    # fired at 8.0 s (seen at 8.05 s), the timer then runs 3.2 s
    assert mark_after(a_wait(resumed=11.3).history(), cut=5, heal=8.5) == pytest.approx(11.25)


@pytest.mark.parametrize(
    ("outage", "freeze"), [(0.3, 0.63), (1.0, 1.46), (2.0, 3.1), (5.0, 6.6), (7.0, 13.3), (20.0, 26.6), (30.0, 54.5)]
)
def test_marks_of_a_whole_outage_are_those_that_were_measured(outage: float, freeze: float) -> None:
    # facts, rtmp.md: T_k = RTO0 * (2^k - 1) with RTO0 = 0.21 s; only the first sample after the cut is known
    story = a_live_stream().black_hole(5, 5 + outage).sampled(5.0, rto_s=0.21, backoff=0)
    assert mark_after(story.history(), cut=5, heal=5 + outage) - 5 == pytest.approx(freeze, rel=0.03)


def test_the_timer_never_waits_longer_than_two_minutes() -> None:
    story = a_live_stream().sampled(5, rto_s=100, backoff=9)
    assert mark_after(story.history(), cut=5, heal=300) == pytest.approx(5 + 100 + 120 + 120)


def test_a_wait_may_last_to_the_next_mark_although_the_limit_is_shorter() -> None:
    verdict = run_check(a_wait(resumed=11.4).history(), expectation("media_resumed", {"within": "1 s"}).limits)
    assert verdict.outcome is Outcome.PASS, verdict
    assert "next retransmission was due 2.75 s after the heal (RTO 3200 ms, back-off 4)" in verdict.because


def test_a_wait_that_goes_on_past_the_mark_is_too_long() -> None:
    # 11.25 s + 100 ms + 4 round trips of 50 ms + 250 ms slack
    verdict = run_check(a_wait(resumed=11.9).history(), expectation("media_resumed", {"within": "1 s"}).limits)
    assert verdict.outcome is Outcome.FAIL
    assert "100 ms too late" in verdict.observed


def test_the_slack_is_the_playbooks_to_set() -> None:
    given = {"within": "1 s", "slack": "500 ms"}
    assert run_check(a_wait(resumed=11.9).history(), expectation("media_resumed", given).limits).outcome is Outcome.PASS


def test_who_reconnects_has_no_excuse_in_the_old_connections_timer() -> None:
    story = a_wait(resumed=11.4).tell(10.9, "publisher", "publish:started", connection=2)
    verdict = run_check(story.history(), expectation("media_resumed", {"within": "1 s"}).limits)
    assert verdict.outcome is Outcome.FAIL
    assert "the publisher reconnected" in verdict.because


def test_without_samples_of_tcp_the_plain_limit_holds() -> None:
    story = a_wait(resumed=11.4).without("tcp:sampled")
    verdict = run_check(story.history(), expectation("media_resumed", {"within": "1 s"}).limits)
    assert verdict.outcome is Outcome.FAIL
    assert next_mark(story.history(), fault_start=at(5), heal=at(8.5)) is None


def test_an_outage_too_short_for_a_sample_of_its_own_counts_from_the_cut() -> None:
    story = a_live_stream().sampled(4.9, rto_s=0.21, backoff=0)
    assert mark_after(story.history(), cut=5, heal=5.4) == pytest.approx(5.63)


def test_only_the_heals_that_leave_enough_time_are_judged() -> None:
    story = flapping()
    assert run_check(story.history(), expectation("media_resumed", {"within": "2 s"}).limits).outcome is Outcome.PASS
    # with 1 s to come back in, the first heal leaves enough time and is judged too
    verdict = run_check(story.history(), expectation("media_resumed", {"within": "1 s"}).limits)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.observed == "never at gateway after the heal at t=8.00 s"


def flapping() -> Story:
    """Dead 5-8 s and 9.5-12 s; between them media does not come back, after them it does within 100 ms."""
    story = a_live_stream().black_hole(5, 8, fault="first").black_hole(9.5, 12, fault="second")
    for role in ("gateway", "viewer", "destination"):
        story.freeze(role, 5.1, 12.1, missing=0)
    return story.progress(13, 16).ends(17)


def test_a_receiver_that_tells_nothing_does_not_hide_another_ones_failure() -> None:
    story = a_wait(resumed=11.9)
    story.lines = [line for line in story.lines if line.source != "destination" or line.at < 4.5]
    limits = expectation("media_resumed", {"within": "1 s", "at": ["destination", "viewer"]}).limits
    assert run_check(story.history(), limits).outcome is Outcome.FAIL


def test_slack_beyond_the_mark_is_stated_in_time() -> None:
    mark = next_mark(a_wait(resumed=11.3).history(), fault_start=at(5), heal=at(8.5))
    assert mark is not None
    assert mark.limit(250 * MILLISECOND) == at(11.25 + 0.1 + 4 * 0.05 + 0.25)
