"""The reconnect machine as conversations in virtual time: what happened, what it asks for, in which state it is."""

from __future__ import annotations

import random
from typing import Any

import pytest

from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect import FINAL, TRANSITIONS, IllegalEventError, Reconnect, ReconnectSettings, State
from reference_impl.machines.reconnect_events import (
    Action,
    CloseConnection,
    ConnectFailed,
    ConnectionLost,
    ConnectionUp,
    Event,
    Finish,
    FinishConnection,
    Ignore,
    OpenConnection,
    ProgressSeen,
    PublishRefused,
    PublishStarted,
    RequestKeyframe,
    ResetConnection,
    StallDetected,
    Start,
    StartPublish,
    Stop,
    Tell,
    Tick,
    UseConnection,
)


class Conversation:
    """A machine and its clock; says what the driver would, keeps what the machine answered."""

    def __init__(self, **settings: float) -> None:
        self.now = 100.0
        self.machine = Reconnect(ReconnectSettings(**settings), Backoff(random.Random(5)))
        self.answers: list[Action] = []

    def say(self, event: Event) -> list[Action]:
        """One event now; the actions without telemetry."""
        answer = self.machine.handle(event, now=self.now)
        self.answers += answer
        return [action for action in answer if not isinstance(action, Tell)]

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, with a Tick at every deadline; the actions without telemetry."""
        until = self.now + seconds
        done: list[Action] = []
        for _ in range(10_000):
            deadline = self.machine.next_deadline()
            if deadline is None or deadline > until:
                self.now = until
                return done
            assert deadline >= self.now - 1e-6, "a deadline in the past would spin"
            self.now = max(self.now, deadline)
            done += self.say(Tick())
        raise AssertionError("10,000 deadlines: the machine spins")

    def told(self, name: str) -> list[dict[str, Any]]:
        return [dict(action.data) for action in self.answers if isinstance(action, Tell) and action.name == name]

    def statuses(self) -> list[str]:
        return [data["status"] for data in self.told("status:changed")]

    def go_live(self, *, settled: bool = True) -> int:
        """Start and publish; the live connection's number."""
        self.say(Start())
        self.publish(1)
        if settled:
            self.wait(6)
            self.say(ProgressSeen(1, "ack progress"))
        return 1

    def publish(self, number: int) -> None:
        self.say(ConnectionUp(number))
        self.say(PublishStarted(number))
        self.wait(0.5)
        assert self.machine.state is State.LIVE

    def stall(self, number: int) -> list[Action]:
        return self.say(StallDetected(number, "ack_progress", 1.05, "--stall-after 1 s"))


def numbers(actions: list[Action], kind: type) -> list[int]:
    """The connections that the actions of one kind name."""
    return [action.connection for action in actions if isinstance(action, kind)]  # type: ignore[union-attr]


def test_the_first_publish_opens_publishes_and_starts_with_a_keyframe() -> None:
    talk = Conversation()
    assert talk.say(Start()) == [OpenConnection(1, 1)]
    assert talk.say(ConnectionUp(1)) == [StartPublish(1)]
    assert talk.say(PublishStarted(1)) == [RequestKeyframe("start"), UseConnection(1)]
    assert talk.wait(1) == []
    assert talk.machine.state is State.LIVE
    assert talk.statuses() == ["connecting", "live"]
    assert talk.told("reconnect:completed") == []


def test_a_stalled_connection_is_held_while_a_connect_starts_every_quarter_second() -> None:
    talk = Conversation()
    talk.go_live()
    assert talk.stall(1) == [OpenConnection(2, 1)]
    actions = talk.wait(2.9)
    assert numbers(actions, OpenConnection) == list(range(3, 14))
    assert numbers(actions, ResetConnection) == numbers(actions, CloseConnection) == []
    assert talk.machine.main == 1


def test_a_connect_that_gets_no_answer_is_dropped_after_three_seconds() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    actions = talk.wait(3.0)
    assert CloseConnection(2, "no answer within connect_limit=3 s") in actions
    talk.wait(30)
    assert len(talk.machine.open_attempts) <= 12
    assert talk.machine.main == 1


def test_the_first_connect_that_is_up_wins_and_only_then_the_old_one_is_reset() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    talk.wait(0.6)
    actions = talk.say(ConnectionUp(3))
    assert actions == [
        ResetConnection(1, "connection 3 is up"),
        CloseConnection(2, "connection 3 is up"),
        CloseConnection(4, "connection 3 is up"),
        StartPublish(3),
    ]
    assert talk.say(PublishStarted(3)) == [RequestKeyframe("reconnect"), UseConnection(3)]


def test_a_reconnect_is_completed_only_when_the_connection_has_stayed_open_half_a_second() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    talk.wait(0.2)
    talk.say(ConnectionUp(2))
    talk.wait(0.1)
    talk.say(PublishStarted(2))
    talk.wait(0.4)
    assert talk.told("reconnect:completed") == []
    talk.wait(0.2)
    [completed] = talk.told("reconnect:completed")
    assert completed == {"reconnect": 1, "connection": 2, "attempts": 1, "took_ms": pytest.approx(300)}
    assert talk.statuses() == ["connecting", "live", "reconnecting", "live"]


def test_the_held_connection_that_delivers_first_stays_and_the_attempts_are_dropped() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    talk.wait(0.3)
    actions = talk.say(ProgressSeen(1, "ack progress"))
    assert actions == [
        CloseConnection(2, "the held connection delivers"),
        CloseConnection(3, "the held connection delivers"),
    ]
    assert talk.machine.state is State.LIVE
    [cleared] = talk.told("stall:cleared")
    assert cleared == {"connection": 1, "age_ms": pytest.approx(1350), "by": "ack progress"}
    assert talk.told("reconnect:abandoned") == [{"reason": "the held connection delivers"}]
    assert talk.wait(60) == []
    assert talk.statuses()[-1] == "live"


def test_a_hard_error_on_the_live_connection_is_answered_at_once() -> None:
    talk = Conversation()
    talk.go_live()
    assert talk.say(ConnectionLost(1, "connection reset by peer")) == [OpenConnection(2, 1)]
    assert talk.told("reconnect:started") == [{"reason": "connection reset by peer", "setting": "socket error"}]


def test_a_hard_error_while_racing_leaves_the_race_going() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    assert talk.say(ConnectionLost(1, "reset")) == []
    assert talk.machine.state is State.CONNECTING
    assert numbers(talk.wait(0.25), OpenConnection) == [3]
    assert talk.say(ConnectionUp(3)) == [CloseConnection(2, "connection 3 is up"), StartPublish(3)]


def test_a_refused_connect_is_answered_with_back_off_not_with_the_race() -> None:
    talk = Conversation()
    talk.say(Start())
    opened = []
    for _ in range(12):
        number = max(talk.machine.open_attempts)
        opened.append(talk.now)
        talk.say(ConnectFailed(number, "ECONNREFUSED", refused=True))
        assert talk.machine.state is State.WAITING
        while not talk.machine.open_attempts:
            deadline = talk.machine.next_deadline()
            assert deadline is not None
            talk.wait(deadline - talk.now)
    ceilings = [min(8.0, 0.25 * 1.5**n) for n in range(12)]
    delays = [data["delay_ms"] / 1000 for data in talk.told("reconnect:scheduled")]
    assert all(delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))
    assert max(delays) > 2


def test_a_path_that_is_not_there_is_tried_again_every_quarter_second() -> None:
    talk = Conversation()
    talk.go_live()
    talk.say(ConnectionLost(1, "no carrier"))
    for _ in range(40):
        talk.say(ConnectFailed(max(talk.machine.open_attempts), "network is unreachable"))
        talk.wait(0.25)
    assert talk.told("reconnect:scheduled") == []
    assert talk.machine.attempts == 41


def test_already_publishing_is_asked_again_within_the_give_up_time() -> None:
    talk = Conversation()
    talk.go_live()
    talk.say(ConnectionLost(1, "reset"))
    talk.say(ConnectionUp(2))
    actions = talk.say(PublishRefused(2, "NetStream.Publish.BadName", "Already publishing"))
    assert actions == [CloseConnection(2, "NetStream.Publish.BadName Already publishing")]
    assert talk.machine.state is State.WAITING
    assert numbers(talk.wait(0.3), OpenConnection)[:1] == [3]


@pytest.mark.parametrize("code", ["NetStream.Publish.Unauthorized", "NetConnection.Connect.Rejected"])
def test_a_bad_key_fails_at_once_without_a_retry(code: str) -> None:
    talk = Conversation()
    talk.say(Start())
    talk.say(ConnectionUp(1))
    actions = talk.say(PublishRefused(1, code, "no such key"))
    assert actions[-1] == Finish(f"refused: {code} no such key", failed=True)
    assert talk.machine.state is State.REFUSED
    assert talk.wait(600) == []
    assert talk.statuses() == ["connecting", "failed"]


def test_a_name_that_does_not_exist_fails_at_once_without_a_retry() -> None:
    talk = Conversation()
    talk.say(Start())
    actions = talk.say(ConnectFailed(1, "no such host gatway.test", hopeless=True))
    assert actions == [Finish("no such host gatway.test", failed=True)]
    assert talk.machine.state is State.REFUSED


def test_a_server_that_says_start_and_then_closes_is_asked_ever_more_slowly() -> None:
    """node-media-server does this to a second publisher of the same key."""
    talk = Conversation(give_up_after=60)
    talk.go_live()
    talk.say(ConnectionLost(1, "reset"))
    while talk.machine.state not in FINAL:
        for number in sorted(talk.machine.open_attempts):
            talk.say(ConnectionUp(number))
            talk.say(PublishStarted(number))
            talk.say(ConnectionLost(number, "end of file"))
        deadline = talk.machine.next_deadline()
        assert deadline is not None
        talk.wait(max(0.0, deadline - talk.now))
    assert talk.machine.state is State.GAVE_UP
    assert talk.told("reconnect:completed") == []
    assert 8 <= talk.machine.attempts <= 40


def test_publish_that_gets_no_answer_for_five_seconds_is_dropped_and_begun_again() -> None:
    talk = Conversation()
    talk.say(Start())
    talk.say(ConnectionUp(1))
    assert talk.wait(4.9) == []
    assert talk.wait(0.2) == [ResetConnection(1, "no answer within publish_limit=5 s"), OpenConnection(2, 2)]


def test_a_connection_that_stalls_before_publish_started_is_raced_too() -> None:
    """Catalogue row X15: black hole after the publish command, before the first chunk."""
    talk = Conversation()
    talk.say(Start())
    talk.say(ConnectionUp(1))
    assert talk.stall(1) == [OpenConnection(2, 2)]
    assert talk.say(PublishStarted(1)) == [
        CloseConnection(2, "connection 1 publishes"),
        RequestKeyframe("start"),
        UseConnection(1),
    ]
    assert talk.machine.state is State.PROVING


def test_the_count_of_attempts_is_true_until_five_seconds_of_acknowledged_media() -> None:
    talk = Conversation()
    talk.go_live()
    for round_ in range(3):
        main = talk.machine.main
        assert main is not None
        talk.say(ConnectionLost(main, "reset"))
        talk.publish(main + 1)
        talk.wait(2)
        talk.say(ProgressSeen(main + 1, "ack progress"))
        assert talk.told("reconnect:completed")[-1]["attempts"] == round_ + 1
    talk.wait(3)
    assert talk.machine.main is not None
    talk.say(ProgressSeen(talk.machine.main, "ack progress"))
    assert talk.machine.attempts == 0


def test_it_gives_up_after_five_minutes_with_one_final_event() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    talk.wait(299)
    assert talk.statuses()[-1] == "reconnecting"
    assert "stopped" not in talk.statuses()
    talk.wait(2)
    assert talk.machine.state is State.GAVE_UP
    [gave_up] = talk.told("reconnect:gave_up")
    assert gave_up["after_ms"] == pytest.approx(300_000)
    assert gave_up["setting"] == "--give-up-after 300 s"
    assert talk.statuses()[-1] == "failed"
    assert talk.machine.next_deadline() is None


def test_three_minutes_of_outage_are_survived() -> None:
    """Catalogue row S7: a client with ten attempts would have ended at 113 s."""
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    talk.wait(180)
    newest = max(talk.machine.open_attempts)
    talk.publish(newest)
    assert talk.machine.state is State.LIVE


def test_the_give_up_time_starts_anew_with_every_proven_connection() -> None:
    """Three seconds on, three seconds off for ten minutes: media flow half of the time, so nobody gives up."""
    talk = Conversation()
    talk.go_live()
    for _ in range(100):
        main = talk.machine.main
        assert main is not None
        talk.stall(main)
        talk.wait(3)
        talk.publish(max(talk.machine.open_attempts))
        talk.wait(2.5)
    assert talk.machine.state is State.LIVE


def test_a_stop_says_goodbye_on_the_publishing_connection_and_drops_the_attempts() -> None:
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    assert talk.say(Stop("control")) == [
        CloseConnection(2, "control"),
        FinishConnection(1),
        Finish("control", failed=False),
    ]
    assert talk.statuses()[-1] == "stopped"


def test_late_callbacks_of_dropped_connections_change_nothing() -> None:
    """Catalogue row S19: late success after stop, stale timer."""
    talk = Conversation()
    talk.go_live()
    talk.stall(1)
    talk.say(ConnectionUp(2))
    before = (talk.machine.state, talk.machine.main, talk.machine.attempts)
    for event in (ConnectionLost(1, "reset"), ProgressSeen(1, "ack progress"), PublishStarted(1), ConnectionUp(2)):
        [ignored] = talk.say(event)
        assert isinstance(ignored, Ignore)
    assert (talk.machine.state, talk.machine.main, talk.machine.attempts) == before
    talk.say(Stop("control"))
    [late] = talk.say(PublishStarted(2))
    assert isinstance(late, Ignore)
    assert talk.say(Tick()) == []
    assert talk.machine.state is State.STOPPED


def test_an_event_that_cannot_happen_is_an_error_and_changes_nothing() -> None:
    talk = Conversation()
    talk.go_live()
    with pytest.raises(IllegalEventError, match="LIVE"):
        talk.say(Start())
    with pytest.raises(IllegalEventError, match="PublishStarted"):
        talk.say(PublishStarted(1))
    assert talk.machine.state is State.LIVE


def test_every_state_of_the_table_can_be_left_and_every_target_exists() -> None:
    assert set(TRANSITIONS) == set(State) - FINAL
    for state, row in TRANSITIONS.items():
        assert row[Stop] == (State.STOPPED,)
        assert any(target is not state for targets in row.values() for target in targets)


def test_everything_it_tells_is_in_the_table_of_events() -> None:
    from reference_impl.telemetry import verify

    talk = Conversation(give_up_after=20)
    talk.go_live()
    talk.stall(1)
    talk.say(ProgressSeen(1, "ack progress"))
    talk.stall(1)
    talk.publish(max(talk.machine.open_attempts))
    talk.say(PublishRefused(talk.machine.main or 0, "NetStream.Publish.BadName"))
    talk.wait(30)
    tells = [action for action in talk.answers if isinstance(action, Tell)]
    assert {tell.name for tell in tells} >= {"stall:cleared", "reconnect:gave_up", "reconnect:scheduled"}
    for tell in tells:
        verify(tell.name, tell.data)
