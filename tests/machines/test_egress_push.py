"""One push in virtual time: never ACTIVE without bytes, fails fast on a bad key, gives a wedged destination up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.machines.push import (
    TRANSITIONS,
    Action,
    Changed,
    Connect,
    Disconnect,
    Finish,
    PushMachine,
    PushSettings,
    PushState,
    Retrying,
)


def states(actions: Sequence[Action]) -> list[PushState]:
    return [action.state for action in actions if isinstance(action, Changed)]


def active_push(settings: PushSettings | None = None) -> PushMachine:
    """Published at 0.1 s, 100 kB acknowledged by 1 s."""
    machine = PushMachine(settings or PushSettings())
    assert machine.begin(now=0.0) == [Connect(1)]
    machine.fed(now=0.1)
    assert machine.published(acked_bytes=3000, now=0.1) == []
    machine.fed(now=1.0)
    assert states(machine.sampled(acked_bytes=103_000, waiting_bytes=500, now=1.0)) == [PushState.ACTIVE]
    return machine


def run_until(
    machine: PushMachine, end: float, *, acked: int, waiting: int, source: bool
) -> list[tuple[float, Action]]:
    """Samples every 0.25 s with these figures and every connection attempt failing at its own deadline."""
    told, now = [], 1.0
    while now < end and not machine.final:
        now += 0.25
        if source:
            machine.fed(now=now)
        actions = machine.sampled(acked_bytes=acked, waiting_bytes=waiting, now=now) if machine.publishing else []
        due = machine.next_deadline()
        if due is not None and due <= now:
            actions = [*actions, *machine.tick(now=now)]
        told += [(now, action) for action in actions]
    return told


def test_an_accepted_publish_alone_is_not_active() -> None:
    machine = PushMachine(PushSettings())
    machine.begin(now=0.0)
    machine.fed(now=0.1)
    machine.published(acked_bytes=3000, now=0.1)
    assert machine.sampled(acked_bytes=3000, waiting_bytes=90_000, now=0.5) == []
    assert machine.state is PushState.STARTING


def test_without_a_source_it_holds_and_is_active_again_with_bytes() -> None:
    machine = active_push()
    assert machine.sampled(acked_bytes=104_000, waiting_bytes=0, now=2.9) == []
    assert states(machine.sampled(acked_bytes=104_000, waiting_bytes=0, now=3.0)) == [PushState.HOLDING]
    machine.fed(now=40.0)
    assert machine.sampled(acked_bytes=104_000, waiting_bytes=5000, now=40.1) == []
    assert states(machine.sampled(acked_bytes=109_000, waiting_bytes=0, now=40.3)) == [PushState.ACTIVE]


def test_a_destination_without_progress_is_left_after_ten_seconds_and_failed_after_thirty() -> None:
    told = run_until(active_push(), 60.0, acked=103_000, waiting=50_000, source=True)
    changes = [(now, action.state) for now, action in told if isinstance(action, Changed)]
    assert [state for _, state in changes] == [PushState.RECONNECTING, PushState.FAILED]
    assert 10.0 <= changes[0][0] - 1.0 <= 10.5
    assert 25.0 <= changes[1][0] - 1.0 <= 35.0


def test_a_slow_but_living_destination_is_not_stalled() -> None:
    machine = active_push()
    for step in range(1, 100):
        now = 1.0 + step * 0.5
        machine.fed(now=now)
        assert machine.sampled(acked_bytes=103_000 + step * 500, waiting_bytes=1_000_000, now=now) == []
    assert machine.state is PushState.ACTIVE


def test_an_idle_source_is_no_stall_of_the_destination() -> None:
    told = run_until(active_push(), 120.0, acked=103_000, waiting=0, source=False)
    assert [action.state for _, action in told if isinstance(action, Changed)] == [PushState.HOLDING]


def test_a_bad_key_fails_at_once_without_a_retry() -> None:
    machine = PushMachine(PushSettings())
    machine.begin(now=0.0)
    actions = machine.refused(code="NetStream.Publish.BadName", description="no such key", now=0.2)
    assert actions == [Changed(PushState.FAILED, "refused, NetStream.Publish.BadName: no such key", "")]
    assert machine.next_deadline() is None


def test_a_host_that_does_not_exist_fails_at_once() -> None:
    machine = PushMachine(PushSettings())
    machine.begin(now=0.0)
    assert states(machine.unreachable(reason="no such host", now=0.2)) == [PushState.FAILED]


def test_a_refusal_after_progress_is_our_own_ghost_and_is_retried() -> None:
    machine = active_push()
    machine.lost(reason="reset", now=1.5)
    machine.tick(now=2.0)
    actions = machine.refused(code="NetStream.Publish.BadName", description="already publishing", now=2.1)
    assert isinstance(actions[-1], Retrying)


def test_a_lost_connection_is_retried_with_back_off_and_counts_anew_after_progress() -> None:
    machine = active_push()
    actions = machine.lost(reason="reset", now=1.5)
    assert actions == [Disconnect("reset"), Changed(PushState.RECONNECTING, "reset", ""), Retrying(1, 0.5)]
    delays, now = [], 2.0
    for _ in range(4):
        assert isinstance(machine.tick(now=now)[0], Connect)
        retry = machine.lost(reason="refused", now=now)[-1]
        assert isinstance(retry, Retrying)
        delays.append(retry.delay_s)
        now += retry.delay_s
    assert delays == [0.5, 1.0, 2.0, 4.0]


def test_an_attempt_without_an_answer_is_given_up_after_five_seconds() -> None:
    machine = PushMachine(PushSettings())
    machine.begin(now=0.0)
    assert machine.next_deadline() == 5.0
    assert machine.tick(now=5.0) == [Disconnect("no answer"), Retrying(2, 0.5)]


def test_a_stop_finishes_in_order_and_a_second_one_changes_nothing() -> None:
    machine = active_push()
    assert machine.stop(reason="session ended", now=2.0) == [Changed(PushState.ENDING, "session ended"), Finish()]
    assert machine.stop(reason="again", now=2.1) == []
    assert states(machine.lost(reason="closed", now=2.2)) == [PushState.COMPLETE]


def test_a_destination_that_does_not_close_is_reset_after_a_second() -> None:
    machine = active_push()
    machine.stop(reason="session ended", now=2.0)
    actions = machine.tick(now=3.0)
    assert isinstance(actions[0], Disconnect)
    assert states(actions) == [PushState.COMPLETE]


def test_a_stop_while_starting_ends_and_is_called_aborted() -> None:
    machine = PushMachine(PushSettings())
    machine.begin(now=0.0)
    actions = machine.stop(reason="user", now=0.1)
    assert states(actions) == [PushState.ENDING, PushState.ABORTED]
    assert Disconnect("user") in actions


def test_a_stop_right_after_the_first_bytes_completes() -> None:
    machine = PushMachine(PushSettings())
    machine.begin(now=0.0)
    machine.fed(now=0.1)
    machine.published(acked_bytes=3000, now=0.1)
    assert states(machine.sampled(acked_bytes=3600, waiting_bytes=0, now=0.2)) == [PushState.ACTIVE]
    machine.stop(reason="user", now=0.3)
    assert states(machine.lost(reason="closed", now=0.4)) == [PushState.COMPLETE]


def test_a_stop_between_two_attempts_ends_at_once() -> None:
    machine = active_push()
    machine.lost(reason="reset", now=1.5)
    assert states(machine.stop(reason="user", now=1.6)) == [PushState.ENDING, PushState.COMPLETE]
    assert machine.tick(now=9.0) == []


def test_a_setting_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match="stall_after"):
        PushSettings(stall_after=0.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fed", "published", "lost", "refused", "sampled", "stop", "time"]),
        st.integers(min_value=0, max_value=20_000),
        st.sampled_from([0.05, 0.5, 3.0, 12.0]),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(STEPS)
def test_whatever_happens_the_push_keeps_its_laws(steps: list[tuple[str, int, float]]) -> None:
    machine, now, acked = PushMachine(PushSettings()), 0.0, 0
    connections, previous, moved_at = 0, machine.state, 0.0
    actions: list[Action] = machine.begin(now=now)
    for what, figure, wait in [("time", 0, 0.1), *steps]:
        now += wait
        if (due := machine.next_deadline()) is not None and due <= now:
            actions += machine.tick(now=now)
        if what == "fed":
            machine.fed(now=now)
        elif what == "published":
            actions += machine.published(acked_bytes=acked, now=now)
        elif what == "lost":
            actions += machine.lost(reason="reset", now=now)
        elif what == "refused":
            actions += machine.refused(code="no", description="", now=now)
        elif what == "sampled":
            moved_at = now if figure > 0 else moved_at
            acked += figure
            actions += machine.sampled(acked_bytes=acked, waiting_bytes=figure % 3 * 1000, now=now)
        elif what == "stop":
            actions += machine.stop(reason="user", now=now)
        for action in actions:
            if isinstance(action, Changed):
                assert action.state in TRANSITIONS[previous]
                assert action.state is not PushState.ACTIVE or moved_at == now, "active although nothing moved"
                previous = action.state
            connections += isinstance(action, Connect)
            assert not (machine.final and machine.publishing)
        actions = []
    if machine.final:
        assert machine.next_deadline() is None
