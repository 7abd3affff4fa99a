"""The session's laws under any order of events: Hypothesis drives two encoders, a clock and an operator."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reference_impl.machines.session import (
    Accepted,
    Action,
    Ended,
    Lost,
    Opened,
    Refused,
    Release,
    Resumed,
    SessionMachine,
    SessionSettings,
    SessionState,
    TakenOver,
)

SETTINGS = SessionSettings(reconnect_window=20.0, max_duration=500.0)


class SessionLaws(RuleBasedStateMachine):
    """Two encoders with their own tokens come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = SessionMachine(SETTINGS)
        self.now = 0.0
        self.heard = 0.0
        self.open: set[int] = set()
        self.actions: list[Action] = []

    def note(self, actions: object) -> list[Action]:
        assert isinstance(actions, (list, tuple))
        self.actions += actions
        for action in actions:
            if isinstance(action, (Release, Lost)):
                self.open.discard(action.epoch)
        return list(actions)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            before = self.machine.next_deadline(), self.machine.state
            self.note(self.machine.tick(now=self.now))
            assert (self.machine.next_deadline(), self.machine.state) != before, "a due tick must make progress"
        self.now = end

    @precondition(lambda self: self.machine.state is not SessionState.ENDED)
    @rule(token=st.sampled_from(["", "phone", "tablet"]))
    def publish(self, token: str) -> None:
        before, silent = self.machine.epoch, self.now - self.heard
        was_open, same = before in self.open, token != "" and token == getattr(self, "token", "")
        actions = self.note(self.machine.publish(now=self.now, token=token))
        if any(isinstance(action, Refused) for action in actions):
            assert was_open and not same and silent < SETTINGS.takeover_silence, "refused without need"
            assert self.machine.epoch == before
            return
        assert Accepted(before + 1) in actions
        assert not was_open or same or silent >= SETTINGS.takeover_silence, "a live encoder was evicted"
        self.open.add(self.machine.epoch)
        self.token, self.heard = token, self.now

    @rule(age=st.integers(min_value=0, max_value=3))
    def media(self, age: int) -> None:
        epoch = self.machine.epoch - age
        before = self.machine.state, self.machine.next_deadline()
        self.note(self.machine.media(epoch, now=self.now))
        if epoch in self.open:
            self.heard = self.now
        else:
            assert (self.machine.state, self.machine.next_deadline()) == before, "stale media changed something"

    @rule(age=st.integers(min_value=0, max_value=3), orderly=st.booleans())
    def connection_ends(self, age: int, orderly: bool) -> None:
        epoch = self.machine.epoch - age
        before = self.machine.state, self.machine.epoch, self.machine.next_deadline()
        stale = epoch not in self.open
        if orderly:
            self.note(self.machine.unpublished(epoch, now=self.now))
        else:
            self.note(self.machine.connection_closed(epoch, reason="reset", now=self.now))
        if stale:
            after = self.machine.state, self.machine.epoch, self.machine.next_deadline()
            assert after == before, "the end of an old connection changed something"
        self.open.discard(epoch)

    @rule()
    def operator_ends_it(self) -> None:
        self.note(self.machine.end(reason="user"))

    @invariant()
    def it_opens_and_ends_at_most_once(self) -> None:
        assert sum(isinstance(action, Opened) for action in self.actions) <= 1
        ended = [action for action in self.actions if isinstance(action, Ended)]
        assert len(ended) == (self.machine.state is SessionState.ENDED)
        assert all(action.reason for action in ended)
        if ended:
            assert self.actions[-1] is ended[0] or not any(
                isinstance(action, (Accepted, Lost, Resumed, TakenOver))
                for action in self.actions[self.actions.index(ended[0]) :]
            )

    @invariant()
    def at_most_one_connection_is_current(self) -> None:
        assert len(self.open) <= 1

    def teardown(self) -> None:
        """Left alone, every session comes to its end."""
        if self.machine.state is SessionState.NEW:
            return
        self.time_passes(60.0)
        assert self.machine.state is SessionState.ENDED


TestSessionLaws = SessionLaws.TestCase
TestSessionLaws.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
