"""The supervisor of one egress: exactly one stop, never two workers, always an end."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reference_impl.machines.egress import (
    Action,
    AskStop,
    EgressSettings,
    EgressSupervisor,
    Exit,
    GaveUp,
    IllegalTransitionError,
    Kill,
    Launch,
    Restarting,
    Stopped,
    Terminate,
    WorkerState,
)


def running(settings: EgressSettings | None = None) -> EgressSupervisor:
    """A supervisor whose first worker was launched at 0 s."""
    supervisor = EgressSupervisor(settings or EgressSettings())
    assert supervisor.source_live(now=0.0) == [Launch(1)]
    return supervisor


def test_nothing_is_launched_or_stopped_before_the_session_is_live() -> None:
    supervisor = EgressSupervisor(EgressSettings(source_lost="stop"))
    assert supervisor.source_lost(now=0.0) == []
    assert supervisor.user_stop(now=0.0) == []
    assert supervisor.user_start(now=1.0) == []
    assert supervisor.session_ended(reason="over", now=2.0) == []
    assert supervisor.finished


def test_the_policy_stop_stops_once_when_the_source_is_lost_and_starts_anew_when_it_is_back() -> None:
    supervisor = running(EgressSettings(source_lost="stop"))
    assert supervisor.source_lost(now=5.0) == [AskStop("source lost", "source_lost=stop")]
    assert supervisor.source_lost(now=5.1) == []
    assert supervisor.exited(Exit.COMPLETE, now=5.5) == [Stopped(1, "source lost", Exit.COMPLETE, 0.5)]
    assert supervisor.source_live(now=8.0) == [Launch(2)]


def test_the_policy_hold_keeps_the_worker_until_the_session_ends() -> None:
    supervisor = running()
    assert supervisor.source_lost(now=5.0) == []
    assert supervisor.source_live(now=8.0) == []
    supervisor.source_lost(now=20.0)
    ended = supervisor.session_ended(reason="publisher did not return", setting="reconnect_window=60s", now=80.0)
    assert ended == [AskStop("publisher did not return", "reconnect_window=60s")]


def test_a_users_stop_cancels_the_stop_that_would_have_come_by_itself() -> None:
    supervisor = running(EgressSettings(source_lost="stop"))
    assert supervisor.user_stop(now=1.0) == [AskStop("user", "")]
    supervisor.exited(Exit.COMPLETE, now=1.2)
    assert supervisor.source_lost(now=5.0) == []
    assert supervisor.source_live(now=6.0) == []
    assert supervisor.session_ended(reason="over", now=9.0) == []


def test_a_user_may_start_again_what_a_user_stopped() -> None:
    supervisor = running()
    supervisor.user_stop(now=1.0)
    supervisor.exited(Exit.COMPLETE, now=1.2)
    assert supervisor.user_start(now=2.0) == [Launch(2)]


def test_a_worker_that_does_not_end_is_terminated_then_killed_within_five_seconds() -> None:
    supervisor = running()
    supervisor.session_ended(reason="over", now=10.0)
    assert supervisor.tick(now=11.9) == []
    assert supervisor.tick(now=12.0) == [Terminate()]
    assert supervisor.tick(now=15.0) == [Kill()]
    assert supervisor.next_deadline() is None
    assert supervisor.exited(Exit.DIED, now=15.0)[0] == Stopped(1, "over", Exit.DIED, 5.0)
    assert supervisor.finished


def test_a_source_that_returns_during_the_stop_gets_its_worker_only_when_the_old_one_is_gone() -> None:
    supervisor = running(EgressSettings(source_lost="stop"))
    supervisor.source_lost(now=5.0)
    assert supervisor.source_live(now=5.1) == []
    assert supervisor.exited(Exit.COMPLETE, now=6.0)[-1] == Launch(2)


def test_a_worker_that_died_is_started_again_with_back_off_and_given_up_after_the_window() -> None:
    supervisor = running()
    now, delays = 1.0, []
    for _ in range(20):
        actions = supervisor.exited(Exit.DIED, now=now)
        assert isinstance(actions[0], Stopped)
        if isinstance(actions[-1], GaveUp):
            break
        assert isinstance(actions[-1], Restarting)
        delays.append(actions[-1].delay_s)
        now += actions[-1].delay_s
        assert isinstance(supervisor.tick(now=now)[0], Launch)
        now += 0.1
    assert delays[:5] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert isinstance(actions[-1], GaveUp)
    assert 30 <= now - 1.0 <= 37


def test_a_destination_that_failed_is_not_tried_again_by_itself() -> None:
    supervisor = running()
    assert supervisor.exited(Exit.FAILED, now=31.0)[-1] == GaveUp("the destination failed", "")
    assert supervisor.source_live(now=40.0) == []
    assert supervisor.user_start(now=50.0) == [Launch(2)]


def test_a_session_that_ends_during_the_back_off_launches_nothing_more() -> None:
    supervisor = running()
    supervisor.exited(Exit.DIED, now=1.0)
    assert supervisor.session_ended(reason="over", now=1.1) == []
    assert supervisor.finished
    assert supervisor.next_deadline() is None


def test_the_exit_of_no_worker_is_an_error() -> None:
    supervisor = EgressSupervisor(EgressSettings())
    with pytest.raises(IllegalTransitionError, match="absent"):
        supervisor.exited(Exit.DIED, now=0.0)


@pytest.mark.parametrize(("name", "value"), [("source_lost", "pause"), ("ask_for", 0.0), ("restart_cap", -1.0)])
def test_a_setting_that_makes_no_sense_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        EgressSettings(**{name: value})  # type: ignore[arg-type]


class EgressLaws(RuleBasedStateMachine):
    """A source comes and goes, workers die or obey, a user meddles."""

    policy = "stop"

    def __init__(self) -> None:
        super().__init__()
        self.supervisor = EgressSupervisor(EgressSettings(source_lost=self.policy))  # type: ignore[arg-type]
        self.now = 0.0
        self.worker = False
        self.runs: list[list[Action]] = []
        self.was_live = self.user_stopped = self.over = False

    def note(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Launch):
                assert not self.worker, "two workers at once"
                assert self.was_live, "launched before the session was live"
                assert not (self.user_stopped or self.over), "launched against the user's will or after the end"
                self.worker = True
                self.runs.append([])
            elif isinstance(action, (AskStop, Terminate, Kill)):
                assert self.worker, "a signal for nobody"
                self.runs[-1].append(action)

    @precondition(lambda self: not self.over)
    @rule()
    def source_comes(self) -> None:
        self.was_live = True
        self.note(self.supervisor.source_live(now=self.now))

    @precondition(lambda self: not self.over)
    @rule()
    def source_goes(self) -> None:
        asked = self.asked()
        self.note(self.supervisor.source_lost(now=self.now))
        if self.policy == "hold":
            assert self.asked() == asked, "stopped although it should hold"

    @rule()
    def user_stops(self) -> None:
        self.user_stopped = True
        self.note(self.supervisor.user_stop(now=self.now))

    @rule()
    def user_starts(self) -> None:
        self.user_stopped = False
        self.note(self.supervisor.user_start(now=self.now))

    @precondition(lambda self: self.was_live)
    @rule()
    def session_ends(self) -> None:
        self.over = True
        self.note(self.supervisor.session_ended(reason="over", now=self.now))
        if self.worker:
            assert self.asked() == 1, "a worker was left when the session ended"

    @precondition(lambda self: self.worker)
    @rule(how=st.sampled_from(Exit))
    def worker_exits(self, how: Exit) -> None:
        self.worker = False
        self.note(self.supervisor.exited(how, now=self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.supervisor.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.note(self.supervisor.tick(now=self.now))
        self.now = end

    def asked(self) -> int:
        return sum(isinstance(action, AskStop) for action in self.runs[-1]) if self.runs else 0

    @invariant()
    def each_run_is_asked_to_stop_at_most_once(self) -> None:
        for run in self.runs:
            names = [type(action) for action in run]
            assert names == [AskStop, Terminate, Kill][: len(names)]

    @invariant()
    def the_machine_knows_whether_there_is_a_worker(self) -> None:
        assert self.worker == (self.supervisor.state is not WorkerState.ABSENT)

    def teardown(self) -> None:
        """However it went, an ended session is left by its worker in bounded time."""
        if not self.was_live:
            return
        self.session_ends()
        self.time_passes(5.0)
        assert not self.worker or isinstance(self.runs[-1][-1], Kill)


class HoldLaws(EgressLaws):
    """The same with the other policy."""

    policy = "hold"


TestEgressLaws = EgressLaws.TestCase
TestEgressLaws.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestHoldLaws = HoldLaws.TestCase
TestHoldLaws.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
