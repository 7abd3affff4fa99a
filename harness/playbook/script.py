"""Carries out a playbook's steps: each at its time, faults loaded beforehand so that they are punctual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from harness.errors import DeadairError
from harness.faults import Fault
from harness.playbook.board import Board, Told, named
from harness.playbook.engine import Lab
from harness.playbook.model import After, Ask, Control, Start, Step
from harness.playbook.stage import Stage
from harness.units import MILLISECOND, SECOND, format_duration

LEAD_NS = 250 * MILLISECOND
"""How long before its time a fault is handed to the engine."""

_AFTER_WITHIN_NS = 60 * SECOND
"""How long after the last step with a fixed time an event may be waited for."""
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
        self._patience_ns = _AFTER_WITHIN_NS
        self._faults: list[str] = []

    async def run(self, steps: tuple[Step, ...]) -> None:
        """Perform the steps side by side, each at its own time; the first that fails is raised after healing."""
        self._zero = self._lab.now_ns() + LEAD_NS
        self._patience_ns = _last_moment(steps) + _AFTER_WITHIN_NS
        await self._sleep_until(self._zero)
        # whoever waits for an event listens before anything is told, so that nothing slips past
        awaited = {step.number: self._listen(step.after) for step in steps if step.after is not None}
        self._tell("script:started", {"steps": len(steps)})
        failure: DeadairError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(self._perform(step, awaited.get(step.number)))
        except* DeadairError as failures:
            failure = _first(failures)
        finally:
            await self._heal_all(also=failure)
        if failure is not None:
            raise failure

    async def run_now(self, steps: tuple[Step, ...]) -> None:
        """What a playbook does always, at the end: one after the other, whether or not the one before worked."""
        failure: DeadairError | None = None
        for step in steps:
            try:
                await self._attempt(step, self._lab.now_ns())
            except DeadairError as error:
                failure = failure or error
        await self._heal_all(also=failure)
        if failure is not None:
            raise failure

    def _listen(self, after: After) -> asyncio.Future[Told]:
        return self._board.next(named(after.name, source=after.source))

    async def _perform(self, step: Step, awaited: asyncio.Future[Told] | None) -> None:
        if awaited is not None and step.after is not None:
            due = await self._moment(step, step.after, awaited)
        else:
            due = self._zero + (step.at_ns or 0)
        await self._attempt(step, due)

    async def _attempt(self, step: Step, due: int) -> None:
        try:
            await self._carry_out(step, due)
        except DeadairError as error:
            self._failed(step, str(error))
            raise

    async def _moment(self, step: Step, after: After, awaited: asyncio.Future[Told]) -> int:
        try:
            async with asyncio.timeout(self._patience_ns / SECOND):
                told = await awaited
        except TimeoutError:
            who = after.source or "anybody"
            within = format_duration(self._patience_ns)
            error = f"{after.name} was not told by {who} within {within} of the script's start"
            self._failed(step, error)
            raise DeadairError(error) from None
        return told.t_ns + after.delay_ns

    def _failed(self, step: Step, error: str) -> None:
        self._tell("step:failed", {"step": step.number, "line": step.line, "error": error})

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

    async def _heal_all(self, *, also: DeadairError | None) -> None:
        """Leave every fault; raises the first that cannot be left, unless something failed before."""
        failure = also
        while self._faults:
            try:
                await self._lab.heal(self._faults.pop())
            except DeadairError as error:
                failure = failure or error
        if failure is not None and also is None:
            raise failure

    async def _sleep_until(self, t_ns: int) -> None:
        await asyncio.sleep(max(0, t_ns - self._lab.now_ns()) / SECOND)


def _last_moment(steps: tuple[Step, ...]) -> int:
    """When the last step with a fixed time is over, ns from the script's zero."""
    return max((step.at_ns + (step.for_ns or 0) for step in steps if step.at_ns is not None), default=0)


def _first(failures: BaseExceptionGroup[DeadairError]) -> DeadairError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
