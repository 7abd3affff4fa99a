"""Carries out a playbook's steps: each at its time, faults loaded beforehand so that they are punctual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from harness.errors import DeadairError
from harness.faults import Fault
from harness.playbook.board import Board, named
from harness.playbook.engine import Lab
from harness.playbook.model import After, Ask, Control, Start, Step
from harness.playbook.stage import Stage
from harness.units import MILLISECOND, SECOND

LEAD_NS = 250 * MILLISECOND
"""How long before its time a fault is handed to the engine."""

_AFTER_WITHIN_NS = 60 * SECOND
_CONTROL_WITHIN_NS = 10 * SECOND

Tell = Callable[[str, Mapping[str, Any]], None]
AskPerson = Callable[[str], Awaitable[str]]


class Script:
    """The steps of one run under way. All faults are healed when :meth:`run` is over, however it ends."""

    def __init__(self, *, lab: Lab, stage: Stage, board: Board, tell: Tell, ask: AskPerson | None) -> None:
        self._lab = lab
        self._stage = stage
        self._board = board
        self._tell = tell
        self._ask = ask
        self._zero = 0
        self._faults: list[str] = []

    async def run(self, steps: tuple[Step, ...]) -> None:
        """Perform the steps side by side, each at its own time; the first that fails is raised after healing."""
        self._zero = self._lab.now_ns() + LEAD_NS
        await self._sleep_until(self._zero)
        self._tell("script:started", {"steps": len(steps)})
        try:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(self._perform(step))
        except* DeadairError as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._heal_all()

    async def run_now(self, steps: tuple[Step, ...]) -> None:
        """What a playbook does always, at the end, one after the other."""
        for step in steps:
            await self._carry_out(step, self._lab.now_ns())
        await self._heal_all()

    async def _perform(self, step: Step) -> None:
        due = self._zero + step.at_ns if step.at_ns is not None else await self._moment(step)
        try:
            await self._carry_out(step, due)
        except DeadairError as error:
            self._tell("step:failed", {"step": step.number, "line": step.line, "error": str(error)})
            raise

    async def _moment(self, step: Step) -> int:
        after = step.after
        assert isinstance(after, After)
        condition = named(after.name, source=after.source)
        try:
            async with asyncio.timeout(_AFTER_WITHIN_NS / SECOND):
                told = await self._board.next(condition)
        except TimeoutError:
            who = after.source or "anybody"
            error = f"{after.name} was not told by {who} within {_AFTER_WITHIN_NS // SECOND} s of the script's start"
            self._tell("step:failed", {"step": step.number, "line": step.line, "error": error})
            raise DeadairError(error) from None
        return told.t_ns + after.delay_ns

    async def _carry_out(self, step: Step, due: int) -> None:
        if isinstance(step.verb, Fault):
            await self._break(step, step.verb, due)
            return
        await self._sleep_until(due)
        self._tell_begun(step, due)
        await self._do(step, step.verb)

    async def _break(self, step: Step, fault: Fault, due: int) -> None:
        fault_id = f"{step.number + 1}-{fault.kind}"
        self._faults.append(fault_id)
        leave = None if step.for_ns is None else due + step.for_ns
        await self._sleep_until(due - LEAD_NS)
        late = self._lab.now_ns() >= due
        await self._lab.schedule(fault_id, fault, enter_ns=None if late else due, leave_ns=leave)
        await self._sleep_until(due)
        self._tell_begun(step, due)
        if leave is not None:
            await self._sleep_until(leave)
            await self._lab.heal(fault_id)

    async def _do(self, step: Step, verb: Ask | Control | Start) -> None:
        if isinstance(verb, Start):
            await self._stage.start(verb.role)
        elif isinstance(verb, Control):
            await self._stage.request(verb.role, verb.verb, within_ns=_CONTROL_WITHIN_NS, **verb.arguments)
        else:
            answer = await self._ask(verb.question) if self._ask is not None and verb.answered else ""
            self._tell("person:asked", {"step": step.number, "question": verb.question, "answer": answer})

    def _tell_begun(self, step: Step, due: int) -> None:
        late_ms = (self._lab.now_ns() - due) / MILLISECOND
        self._tell("step:begun", {"step": step.number, "line": step.line, "text": step.text, "late_ms": late_ms})

    async def _heal_all(self) -> None:
        while self._faults:
            await self._lab.heal(self._faults.pop())

    async def _sleep_until(self, t_ns: int) -> None:
        await asyncio.sleep(max(0, t_ns - self._lab.now_ns()) / SECOND)
