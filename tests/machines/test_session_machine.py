"""The session in virtual time: stalls, windows, takeovers, and what old epochs cannot do."""

from __future__ import annotations

import pytest

from reference_impl.machines.session import (
    TRANSITIONS,
    Accepted,
    Ended,
    IllegalTransitionError,
    Lost,
    Opened,
    Recovered,
    Refused,
    Release,
    Resumed,
    SessionMachine,
    SessionSettings,
    SessionState,
    Stale,
    Stalled,
    TakenOver,
    Trigger,
)


def live_session(settings: SessionSettings | None = None, *, token: str = "") -> SessionMachine:
    """A session whose first epoch was accepted at 0 s and delivered at 1 s."""
    machine = SessionMachine(settings or SessionSettings())
    machine.publish(now=0.0, token=token)
    machine.media(1, now=1.0)
    return machine


def test_the_first_publish_opens_the_session_as_epoch_one() -> None:
    machine = SessionMachine(SessionSettings())
    assert machine.publish(now=0.0) == [Opened(), Accepted(1)]
    assert machine.state is SessionState.LIVE


def test_two_seconds_of_silence_are_a_stall_and_media_recover_it() -> None:
    machine = live_session()
    assert machine.next_deadline() == 3.0
    assert machine.tick(now=2.9) == []
    assert machine.tick(now=3.0) == [Stalled(1, 2.0, "stall_after=2s")]
    assert machine.media(1, now=4.5) == [Recovered(1, 3.5)]
    assert machine.state is SessionState.LIVE


def test_a_deadline_that_does_not_survive_the_subtraction_is_due_all_the_same() -> None:
    machine = SessionMachine(SessionSettings())
    machine.publish(now=0.01)
    due = machine.next_deadline()
    assert due is not None
    assert due - 0.01 < 2.0, "0.01 + 2 - 0.01 is less than 2 in binary"
    assert [type(action) for action in machine.tick(now=due)] == [Stalled]


def test_a_silent_open_connection_is_reaped_and_its_window_counts_from_the_last_media() -> None:
    machine = live_session(SessionSettings(reconnect_window=60.0, idle_reap=10.0))
    machine.tick(now=3.0)
    actions = machine.tick(now=11.0)
    assert actions == [Release(1, "idle"), Lost(1, "silent, idle_reap=10s", 50.0)]
    assert machine.next_deadline() == 61.0


def test_a_tick_that_is_very_late_still_stalls_reaps_and_ends_in_order() -> None:
    machine = live_session(SessionSettings(reconnect_window=20.0))
    kinds = [type(action) for action in machine.tick(now=500.0)]
    assert kinds == [Stalled, Release, Lost, Ended]


def test_the_window_ends_the_session_and_names_itself() -> None:
    machine = live_session(SessionSettings(reconnect_window=5.0))
    assert machine.connection_closed(1, reason="reset", now=1.5) == [Lost(1, "reset", 4.5)]
    assert machine.tick(now=5.9) == []
    assert machine.tick(now=6.0) == [Ended("publisher did not return", "reconnect_window=5s")]


def test_a_window_of_zero_ends_with_the_connection() -> None:
    machine = live_session(SessionSettings(reconnect_window=0.0))
    actions = machine.connection_closed(1, reason="closed", now=1.5)
    assert [type(action) for action in actions] == [Lost, Ended]


def test_a_publisher_that_returns_inside_the_window_resumes_the_same_session() -> None:
    machine = live_session()
    machine.connection_closed(1, reason="reset", now=2.0)
    assert machine.publish(now=30.0) == [Accepted(2)]
    assert machine.media(2, now=30.1) == [Resumed(2, 29.1)]
    assert machine.state is SessionState.LIVE


def test_an_accepted_publish_without_media_is_not_called_resumed() -> None:
    machine = live_session()
    machine.connection_closed(1, reason="reset", now=2.0)
    machine.publish(now=30.0)
    assert machine.tick(now=32.0) == [Stalled(2, 2.0, "stall_after=2s")]


def test_a_connection_silent_for_a_second_is_taken_over_at_once() -> None:
    machine = live_session()
    assert machine.publish(now=2.0) == [Release(1, "taken over"), Accepted(2), TakenOver(1, 2, "silent")]


def test_a_live_connection_is_not_taken_over_by_a_stranger() -> None:
    machine = live_session()
    (refused,) = machine.publish(now=1.9)
    assert isinstance(refused, Refused)
    assert refused.code == "NetStream.Publish.BadName"
    assert refused.setting == "takeover_silence=1s"
    assert machine.epoch == 1


def test_the_same_client_takes_over_its_own_live_connection() -> None:
    machine = live_session(token="phone")
    assert machine.publish(now=1.01, token="phone")[-1] == TakenOver(1, 2, "token")


def test_an_empty_token_is_nobodys_token() -> None:
    machine = live_session(token="")
    assert isinstance(machine.publish(now=1.01, token="")[0], Refused)


def test_a_newcomer_has_a_second_to_deliver_before_it_can_be_taken_over() -> None:
    machine = SessionMachine(SessionSettings())
    machine.publish(now=0.0)
    assert isinstance(machine.publish(now=0.9)[0], Refused)
    assert isinstance(machine.publish(now=1.0)[-1], TakenOver)


def test_late_media_close_and_unpublish_of_an_old_epoch_change_nothing_and_are_told_once() -> None:
    machine = live_session()
    machine.publish(now=3.0)
    machine.media(2, now=3.1)
    assert machine.media(1, now=3.2) == [Stale(1, "media")]
    assert machine.media(1, now=3.3) == ()
    assert machine.connection_closed(1, reason="reset", now=3.4) == [Stale(1, "close")]
    assert machine.unpublished(1, now=3.5) == [Stale(1, "unpublish")]
    assert machine.state is SessionState.LIVE
    assert machine.next_deadline() == pytest.approx(5.1)


def test_an_unpublish_ends_at_once_lingers_or_counts_as_a_loss() -> None:
    at_once = live_session().unpublished(1, now=2.0)
    assert at_once == [Ended("unpublished", "unpublish_ends=immediate")]

    lingering = live_session(SessionSettings(unpublish_ends="linger", linger=5.0))
    assert lingering.unpublished(1, now=2.0) == [Lost(1, "unpublished", 5.0)]
    assert lingering.tick(now=7.0) == [Ended("publisher did not return", "linger=5s")]

    never = live_session(SessionSettings(unpublish_ends="never"))
    assert never.unpublished(1, now=2.0) == [Lost(1, "unpublished", 59.0)]


def test_the_hard_cap_ends_even_a_healthy_session() -> None:
    machine = live_session(SessionSettings(max_duration=100.0))
    machine.media(1, now=99.9)
    actions = machine.tick(now=100.0)
    assert actions == [
        Release(1, "max duration reached", orderly=True),
        Ended("max duration reached", "max_duration=100s"),
    ]


def test_an_operator_ends_a_session_once() -> None:
    machine = live_session()
    assert machine.end(reason="user") == [Release(1, "user", orderly=True), Ended("user", "")]
    assert machine.end(reason="user") == []
    assert machine.connection_closed(1, reason="closed", now=9.0) == [Stale(1, "close")]


def test_an_illegal_input_raises_and_changes_nothing() -> None:
    machine = live_session()
    machine.end(reason="user")
    with pytest.raises(IllegalTransitionError, match="a session that is ended cannot be published"):
        machine.publish(now=2.0)
    assert machine.state is SessionState.ENDED
    assert machine.epoch == 1


def test_every_state_but_the_last_can_finish() -> None:
    for state in SessionState:
        assert (Trigger.FINISHED in TRANSITIONS[state]) == (state is not SessionState.ENDED)


@pytest.mark.parametrize(
    ("wrong", "culprit"),
    [
        ({"reconnect_window": 1801.0}, "reconnect_window"),
        ({"stall_after": 0.0}, "stall_after"),
        ({"idle_reap": 1.0}, "idle_reap"),
        ({"unpublish_ends": "sometimes"}, "unpublish_ends"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(wrong: dict[str, float], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        SessionSettings(**wrong)  # type: ignore[arg-type]
