"""One run, over a fake engine: the order of things, and that every path cleans up and tells the truth."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_lab import FakeEngine, FakeLab, hurry
from playbook_kit import EXPECT, HOLE, loaded, moods

from harness.checks import Outcome
from harness.errors import HarnessError
from harness.history.query import History
from harness.playbook.engine import System
from harness.playbook.model import Playbook
from harness.playbook.runner import HISTORY_FILE, RunOutcome, perform
from harness.playbook.stage import STOP_ORDER
from harness.systems.registry import system_for

STOPS = [*(f"stop {role}" for role in STOP_ORDER), "ledger after", "close"]
SLACK_MS = 4
ALWAYS = """\
always:
  - kill: viewer
  - control: {role: gateway, verb: stop_egress}
"""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


class Bed:
    """A playbook, an engine, and what they made of each other."""

    def __init__(self, playbook: Playbook, run_dir: Path) -> None:
        self.playbook = playbook
        self.run_dir = run_dir
        self.engine = FakeEngine()
        self.shown: list[str] = []
        self.answers: list[str] = []

    async def run(self, cast: Mapping[str, System] | None = None) -> RunOutcome:
        return await perform(
            self.playbook,
            engine=self.engine,
            cast=cast or {role: system_for(role, "reference") for role in self.playbook.cast},
            seed=1,
            run_dir=self.run_dir,
            capture=False,
            progress=self.shown.append,
            ask=self._answer,
        )

    async def _answer(self, question: str) -> str:
        self.answers.append(question)
        return "yes"

    @property
    def lab(self) -> FakeLab:
        assert self.engine.lab is not None
        return self.engine.lab


def bed(folder: Path, body: str = HOLE + EXPECT) -> Bed:
    return Bed(loaded(folder, body), folder)


def verdict(outcome: RunOutcome, check: str) -> Outcome:
    return next(verdict.outcome for verdict in outcome.verdicts if verdict.check == check)


async def test_a_good_run_passes_and_does_everything_in_order(tmp_path: Path) -> None:
    this = bed(tmp_path)
    outcome = await this.run()
    assert outcome.outcome is Outcome.PASS, outcome.verdicts
    starts = [f"start {role}" for role in ("destination", "gateway", "publisher", "viewer", "viewer2")]
    faults = ["schedule 1-black_hole", "heal 1-black_hole"]
    calls = list(dict.fromkeys(this.lab.calls))
    assert calls == ["ledger before", *starts, *faults, *STOPS]
    names = [event.name for event in outcome.history.events if event.source == "runner"]
    assert names == [
        "run:started", "steady:reached", "script:started", "step:begun", "script:ended", "run:ended"
    ]  # fmt: skip
    assert outcome.history.complete


async def test_a_fault_enters_at_its_time_and_is_healed_at_its_time(tmp_path: Path) -> None:
    history = (await bed(tmp_path).run()).history
    zero, entered, left = (history.first(name) for name in ("script:started", "fault:entered", "fault:left"))
    assert zero is not None and entered is not None and left is not None
    # the script counts from the moment that script:started tells, give or take what the event loop needs to tell it
    assert (entered.t_ns - zero.t_ns) / 1e6 >= 5 - SLACK_MS
    assert (left.t_ns - zero.t_ns) / 1e6 >= 10 - SLACK_MS


async def test_a_missed_steady_state_is_unknown_and_names_who_has_no_picture(tmp_path: Path) -> None:
    this = bed(tmp_path, moods(viewer="blank") + HOLE + EXPECT)
    outcome = await this.run()
    assert outcome.outcome is Outcome.UNKNOWN
    assert "viewer has no picture" in outcome.error and "viewer2" not in outcome.error
    assert verdict(outcome, "script_ran") is Outcome.UNKNOWN
    assert this.lab.calls[-len(STOPS) :] == STOPS
    assert "schedule 1-black_hole" not in this.lab.calls


@pytest.mark.parametrize(("mood", "words"), [("ends", "ended at once"), ("mute", "was not ready within 30.0 ms")])
async def test_a_program_that_does_not_get_ready_is_unknown_and_names_itself(
    tmp_path: Path, mood: str, words: str
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "gateway.log").write_text("Traceback\nOSError: port in use\n")
    this = bed(tmp_path, moods(gateway=mood) + HOLE + EXPECT)
    outcome = await this.run()
    assert outcome.outcome is Outcome.UNKNOWN
    assert f"gateway (reference) {words}: OSError: port in use" in outcome.error
    told = next(v for v in outcome.verdicts if v.check == "script_ran")
    assert words in told.observed, "the verdict says why, not only that run:ended is missing"
    assert this.lab.calls[-1] == "close" and "stop gateway" in this.lab.calls


async def test_a_step_that_fails_is_unknown_and_every_fault_is_healed(tmp_path: Path) -> None:
    steps = """\
steps:
  - at: 2 ms
    black_hole: {link: backhaul}
    for: 10 s
  - at: 8 ms
    control: {role: gateway, verb: refresh}
"""
    this = bed(tmp_path, moods(gateway="deaf") + steps + EXPECT)
    async with asyncio.timeout(5):
        outcome = await this.run()
    assert outcome.outcome is Outcome.UNKNOWN and "gateway did not answer refresh" in outcome.error
    failed = outcome.history.named("step:failed")
    assert [event.data["step"] for event in failed] == [1]
    assert not this.lab.broken and this.lab.calls[-len(STOPS) :] == STOPS
    assert outcome.history.complete


async def test_two_steps_that_fail_at_once_are_told_as_the_first(tmp_path: Path) -> None:
    steps = "steps:\n" + "  - {at: 2 ms, control: {role: gateway, verb: refresh}}\n" * 2
    outcome = await bed(tmp_path, moods(gateway="deaf") + steps + EXPECT).run()
    assert outcome.error == "gateway did not answer refresh" and outcome.outcome is Outcome.UNKNOWN


async def test_a_fault_without_an_end_of_its_own_is_healed_when_the_script_is_over(tmp_path: Path) -> None:
    steps = "steps:\n  - {at: 2 ms, black_hole: {link: backhaul}}\n  - {at: 8 ms, kill: viewer}\n"
    history = (await bed(tmp_path, steps + EXPECT).run()).history
    names = [event.name for event in history.events if event.name in ("fault:left", "step:begun", "script:ended")]
    assert names == ["step:begun", "step:begun", "fault:left", "fault:left", "script:ended"]


async def test_the_second_error_does_not_mask_the_first(tmp_path: Path) -> None:
    this = bed(tmp_path, moods(publisher="fragile", gateway="stubborn") + HOLE + EXPECT)
    outcome = await this.run()
    assert outcome.error == "1-black_hole cannot be done here"
    also = [line for line in this.shown if "also:" in line]
    assert "gateway does not stop" in also[0] and "could not be taken down" in also[1]
    assert this.lab.calls[-len(STOPS) :] == STOPS


async def test_an_error_while_stopping_is_unknown_but_the_others_are_still_stopped(tmp_path: Path) -> None:
    this = bed(tmp_path, moods(publisher="stubborn") + HOLE + EXPECT)
    outcome = await this.run()
    assert outcome.outcome is Outcome.UNKNOWN and outcome.error == "publisher does not stop"
    assert [call for call in this.lab.calls if call.startswith("stop")] == STOPS[:5]
    assert this.lab.calls[-1] == "close"


async def test_what_is_done_always_is_done_after_a_good_run(tmp_path: Path) -> None:
    this = bed(tmp_path, HOLE + ALWAYS + EXPECT)
    outcome = await this.run()
    assert outcome.outcome is Outcome.PASS, outcome.verdicts
    at = this.lab.calls.index
    assert at("heal 1-black_hole") < at("schedule 2-kill") < at("request gateway stop_egress") < at(STOPS[0])
    faults = [event.data["fault"] for event in outcome.history.named("fault:entered")]
    assert len(faults) == len(set(faults)) == 2, "a fault's name is unique in the run"


@pytest.mark.parametrize("mood", ["blank", "ends"])
async def test_what_is_done_always_is_done_on_bad_paths_too(tmp_path: Path, mood: str) -> None:
    this = bed(tmp_path, moods(viewer=mood) + HOLE + ALWAYS + EXPECT)
    outcome = await this.run()
    assert "schedule 2-kill" in this.lab.calls and "request gateway stop_egress" in this.lab.calls
    assert "viewer" in outcome.error and outcome.outcome is Outcome.UNKNOWN


async def test_one_thing_done_always_that_fails_does_not_keep_the_next_from_being_done(tmp_path: Path) -> None:
    always = "always:\n  - control: {role: viewer, verb: a}\n  - control: {role: gateway, verb: b}\n"
    this = bed(tmp_path, moods(viewer="deaf") + HOLE + always + EXPECT)
    outcome = await this.run()
    assert outcome.error == "viewer did not answer a"
    assert "request gateway b" in this.lab.calls


async def test_asking_a_program_that_was_never_started_does_not_mask_why_it_was_not(tmp_path: Path) -> None:
    always = "always:\n  - control: {role: viewer, verb: a}\n"
    this = bed(tmp_path, moods(gateway="ends") + HOLE + always + EXPECT)
    outcome = await this.run()
    assert "gateway (reference) ended at once" in outcome.error
    assert any("viewer is not running" in line for line in this.shown)


async def test_a_program_that_tells_an_unknown_event_fails_the_run_and_not_the_harness(tmp_path: Path) -> None:
    outcome = await bed(tmp_path, moods(viewer="stranger") + HOLE + EXPECT).run()
    assert outcome.outcome is Outcome.FAIL and not outcome.error
    failed = outcome.history.named("program:failed")
    assert len(failed) == 1 and "weather:changed" in failed[0].data["error"], "told once, however often it repeats"
    assert verdict(outcome, "nothing_crashed") is Outcome.FAIL


async def test_an_interrupted_run_is_cut_short_and_leaves_nothing_running(tmp_path: Path) -> None:
    steps = "steps:\n  - at: 2 ms\n    black_hole: {link: backhaul}\n    for: 10 s\n"
    this = bed(tmp_path, steps + ALWAYS + EXPECT)
    run = asyncio.create_task(this.run())
    async with asyncio.timeout(5):
        await this.engine.hurt.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert not this.lab.broken and this.lab.calls[-len(STOPS) :] == STOPS
    assert "request gateway stop_egress" in this.lab.calls
    history = History.load(tmp_path / HISTORY_FILE)
    assert not history.complete and history.first("run:interrupted") is not None
    assert history.first("lab:closed") is not None and history.first("run:ended") is None


async def test_a_history_that_can_no_longer_be_written_ends_the_run_in_order(tmp_path: Path) -> None:
    steps = "steps:\n  - at: 1 ms\n    black_hole: {link: backhaul}\n    for: 20 s\n"
    this = bed(tmp_path, moods(viewer2="chatty") + steps + EXPECT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        async with asyncio.timeout(5):
            outcome = await this.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.outcome is Outcome.UNKNOWN
    assert "cannot be written" in outcome.error and "cure" in outcome.error
    assert this.lab.calls[-len(STOPS) :] == STOPS and not this.lab.broken


async def test_a_step_can_wait_for_an_event_of_another_step(tmp_path: Path) -> None:
    steps = """\
steps:
  - at: 5 ms
    black_hole: {link: backhaul}
    for: 10 ms
  - after: network fault:left + 2 ms
    kill: viewer
"""
    history = (await bed(tmp_path, steps + EXPECT).run()).history
    left = history.first("fault:left", fault="1-black_hole")
    killed = history.first("fault:entered", kind="kill")
    assert left is not None and killed is not None and killed.t_ns - left.t_ns >= 2_000_000


async def test_a_step_hears_the_very_first_event_of_the_script(tmp_path: Path) -> None:
    steps = "steps:\n  - after: runner script:started\n    kill: viewer\n"
    outcome = await bed(tmp_path, steps + EXPECT).run()
    assert not outcome.error and outcome.history.first("fault:entered") is not None


async def test_a_step_that_waits_in_vain_is_unknown_and_says_for_what(tmp_path: Path) -> None:
    steps = "steps:\n  - after: publisher stall:detected\n    kill: viewer\n"
    outcome = await bed(tmp_path, steps + EXPECT).run()
    assert outcome.outcome is Outcome.UNKNOWN
    assert "stall:detected was not told by publisher within 20.0 ms" in outcome.error
    assert len(outcome.history.named("step:failed")) == 1


async def test_a_persons_answer_goes_into_the_history(tmp_path: Path) -> None:
    steps = "steps:\n  - at: 1 ms\n    ask: Is the picture good?\n  - at: 2 ms\n    observe: Look at the phone.\n"
    this = bed(tmp_path, steps + EXPECT)
    history = (await this.run()).history
    asked = [(event.data["question"], event.data["answer"]) for event in history.named("person:asked")]
    assert asked == [("Is the picture good?", "yes"), ("Look at the phone.", "")]
    assert this.answers == ["Is the picture good?"]


async def test_a_role_can_be_started_again(tmp_path: Path) -> None:
    this = bed(tmp_path, "steps:\n  - at: 1 ms\n    start: viewer\n" + EXPECT)
    assert (await this.run()).outcome is Outcome.PASS
    assert this.lab.calls.count("start viewer") == 2


async def test_a_system_that_cannot_play_here_is_unknown_with_its_reason(tmp_path: Path) -> None:
    class Unwilling:
        name, role = "unwilling", "gateway"

        def launch(self, seat: object) -> object:
            raise HarnessError("unwilling is not installed", cure="install it")

    this = bed(tmp_path)
    cast: dict[str, System] = {role: system_for(role, "reference") for role in this.playbook.cast}
    outcome = await this.run({**cast, "gateway": Unwilling()})  # type: ignore[dict-item]
    assert outcome.outcome is Outcome.UNKNOWN and "cure: install it" in outcome.error
    assert this.lab.calls[-1] == "close"
