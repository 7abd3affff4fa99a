"""The laws of the reconnect machine under everything that a network and a server can do, in any order."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect import FINAL, Reconnect, ReconnectSettings, State
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
from reference_impl.telemetry import verify

MOST_ATTEMPTS = 13
"""Three seconds of attempts, one each quarter of a second, and the one that begins as the first one ends."""


class World(RuleBasedStateMachine):
    """The driver's side: which connections exist, in which phase, and what the machine did to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.machine = Reconnect(ReconnectSettings(give_up_after=30), Backoff(random.Random(1)))
        self.dialling: set[int] = set()
        self.up: set[int] = set()
        self.publishing: set[int] = set()
        """Publish was asked for and neither refused nor ended."""
        self.dead: set[int] = set()
        self.keyframe_requested = False
        self.ends: list[Finish] = []
        self.statuses: list[str] = []

    # --- carrying out ------------------------------------------------------------------------------------------

    def feed(self, event: Event) -> list[Action]:
        actions = self.machine.handle(event, now=self.now)
        for action in actions:
            self.carry_out(action, actions)
        return actions

    def carry_out(self, action: Action, together: list[Action]) -> None:
        if isinstance(action, OpenConnection):
            assert action.connection not in self.dialling | self.up | self.dead, "a number is never used twice"
            self.dialling.add(action.connection)
        elif isinstance(action, StartPublish):
            assert not self.publishing, "the old connection is ended before the new one publishes"
            self.publishing.add(action.connection)
        elif isinstance(action, RequestKeyframe):
            self.keyframe_requested = True
        elif isinstance(action, UseConnection):
            assert self.keyframe_requested, "an IDR is asked for before media flow"
            assert action.connection in self.publishing
            self.keyframe_requested = False
        elif isinstance(action, (ResetConnection, CloseConnection, FinishConnection)):
            self.end(action.connection, together)
        elif isinstance(action, Tell):
            verify(action.name, action.data)
            self.tell(action)
        elif isinstance(action, Finish):
            self.ends.append(action)

    def end(self, number: int, together: list[Action]) -> None:
        assert number in self.dialling | self.up, "only what exists is ended"
        was_main = number in self.publishing and self.machine_had_published(number)
        if was_main and not self.ends_for_a_reason(number, together):
            raise AssertionError(f"connection {number} was dropped with nothing in its place")
        self.dialling.discard(number)
        self.up.discard(number)
        self.publishing.discard(number)
        self.dead.add(number)

    def machine_had_published(self, number: int) -> bool:
        return number in self.started

    def ends_for_a_reason(self, number: int, together: list[Action]) -> bool:
        """A publishing connection ends by ours only for a successor, by refusal, or at the end of everything."""
        successor = any(isinstance(action, StartPublish) and action.connection != number for action in together)
        final = any(isinstance(action, Finish) for action in together)
        return successor or final or number in self.refused

    def tell(self, action: Tell) -> None:
        if action.name == "status:changed":
            self.statuses.append(action.data["status"])

    # --- what the world does -----------------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.started: set[int] = set()
        self.refused: set[int] = set()
        self.feed(Start())

    @precondition(lambda self: self.machine.state not in FINAL)
    @rule(seconds=st.sampled_from([0.001, 0.1, 0.25, 0.5, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(1000):
            deadline = self.machine.next_deadline()
            if deadline is None or deadline > until:
                self.now = until
                return
            assert deadline >= self.now - 1e-6
            self.now = max(self.now, deadline)
            self.feed(Tick())
        raise AssertionError("the machine spins")

    @precondition(lambda self: self.dialling)
    @rule(data=st.data())
    def a_connect_succeeds(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.remove(number)
        self.up.add(number)
        self.feed(ConnectionUp(number))

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), refused=st.booleans())
    def a_connect_fails(self, data: st.DataObject, refused: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.remove(number)
        self.dead.add(number)
        self.feed(ConnectFailed(number, "no", refused))

    @precondition(lambda self: self.publishing - self.started)
    @rule()
    def the_server_says_start(self) -> None:
        [number] = self.publishing
        self.started.add(number)
        self.feed(PublishStarted(number))

    @precondition(lambda self: self.publishing)
    @rule(code=st.sampled_from(["NetStream.Publish.BadName"] * 4 + ["NetStream.Publish.Unauthorized"]))
    def the_server_refuses(self, code: str) -> None:
        [number] = self.publishing
        self.refused.add(number)
        self.feed(PublishRefused(number, code))

    @precondition(lambda self: self.publishing)
    @rule()
    def the_connection_breaks(self) -> None:
        [number] = self.publishing
        self.publishing.remove(number)
        self.up.remove(number)
        self.dead.add(number)
        self.feed(ConnectionLost(number, "reset"))

    @precondition(lambda self: self.publishing and self.machine.state is not State.RACING)
    @rule()
    def the_watchdog_fires(self) -> None:
        [number] = self.publishing
        actions = self.feed(StallDetected(number, "ack_progress", 1.0, "--stall-after 1 s"))
        assert number in self.publishing, "a stalled connection is held"
        assert any(isinstance(action, OpenConnection) for action in actions)

    @precondition(lambda self: self.publishing)
    @rule()
    def acknowledgements_come(self) -> None:
        [number] = self.publishing
        racing = self.machine.state is State.RACING
        self.feed(ProgressSeen(number, "ack_progress"))
        if racing:
            assert not self.machine.open_attempts, "the held connection delivers: the attempts are dropped"
            assert self.machine.main == number

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def something_stale_comes(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.dead)))
        stale: list[Event] = [
            ConnectionUp(number),
            ConnectFailed(number, "late"),
            PublishStarted(number),
            PublishRefused(number, "late"),
            ConnectionLost(number, "late"),
            ProgressSeen(number, "late"),
        ]
        event: Event = data.draw(st.sampled_from(stale))
        before = (self.machine.state, self.machine.main, self.machine.open_attempts, self.machine.next_deadline())
        [ignored] = self.feed(event)
        assert isinstance(ignored, Ignore)
        after = (self.machine.state, self.machine.main, self.machine.open_attempts, self.machine.next_deadline())
        assert before == after

    @precondition(lambda self: self.machine.state not in FINAL and self.now > 80)
    @rule()
    def somebody_stops_it(self) -> None:
        self.feed(Stop("control"))
        assert self.machine.state is State.STOPPED

    # --- what must always hold -----------------------------------------------------------------------------------

    @invariant()
    def at_most_one_connection_publishes(self) -> None:
        assert len(self.publishing) <= 1
        assert self.up == self.publishing

    @invariant()
    def attempts_are_bounded(self) -> None:
        assert len(self.dialling) <= MOST_ATTEMPTS
        assert self.machine.open_attempts == self.dialling

    @invariant()
    def stopped_is_said_only_at_the_end(self) -> None:
        if self.machine.state in FINAL:
            assert len(self.ends) == 1
            assert not self.dialling | self.up
            assert self.machine.next_deadline() is None
        else:
            assert not {"stopped", "failed"} & set(self.statuses)
            assert self.machine.next_deadline() is not None or self.machine.state in (State.IDLE, State.LIVE)


TestLaws = World.TestCase
TestLaws.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
