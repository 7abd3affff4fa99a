"""One run: build the lab, let everything flow, do the script, take everything down, judge.

The order of a run, which the history shows too:

1. the lab comes up, and the ledger of what is in it is taken;
2. programs start, each receiver gets its first picture (*steady*), and all flows undisturbed for ``steady.before``;
3. the script; everything that was broken is healed when it is over;
4. undisturbed flow for ``steady.after``, then the script counts as ended;
5. what the playbook does ``always``, then programs stop in order, the ledger is taken again, the lab goes down;
6. the history is closed. Verdicts are a function of it alone.

Steps 5 and 6 happen on every path, also on an error or Ctrl-C; the first failure is the one that is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks import Outcome, Verdict, evaluate, overall
from harness.errors import DeadairError, HarnessError
from harness.history.journal import HARNESS_SOURCES, Journal
from harness.history.query import History
from harness.playbook.board import Board, Told
from harness.playbook.engine import Engine, Lab, System
from harness.playbook.model import Playbook
from harness.playbook.progress import ProgressLines
from harness.playbook.script import AskPerson, Script
from harness.playbook.stage import Stage
from harness.units import MILLISECOND, SECOND, format_duration

HISTORY_FILE = "events.jsonl"
_DRAIN_NS = 300 * MILLISECOND
"""How long the last events of programs and forwarder may take through their pipes."""

_WRITE_EVERY_NS = 100 * MILLISECOND

Progress = Callable[[str], None]
Exit = Callable[[object, BaseException | None, object], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What came out of one run."""

    run_dir: Path
    history: History
    verdicts: Sequence[Verdict]
    outcome: Outcome
    zero_ns: int
    """The run's zero on CLOCK_MONOTONIC."""
    error: str = ""
    """Why the run could not be finished, where it could not."""


async def perform(
    playbook: Playbook,
    *,
    engine: Engine,
    cast: Mapping[str, System],
    seed: int,
    run_dir: Path,
    capture: bool,
    progress: Progress,
    ask: AskPerson | None = None,
) -> RunOutcome:
    """Run the playbook once. A run that fails on the way is *unknown*; only interruptions are raised."""
    run = _Run(playbook, engine, cast, seed, run_dir, progress)
    error = await run.perform(capture=capture, ask=ask)
    history = History.load(run_dir / HISTORY_FILE)
    verdicts = evaluate(history, playbook.expectations)
    outcome = Outcome.UNKNOWN if error else overall(verdicts)
    return RunOutcome(run_dir, history, verdicts, outcome, run.zero_ns, error)


class _Run:
    def __init__(
        self,
        playbook: Playbook,
        engine: Engine,
        cast: Mapping[str, System],
        seed: int,
        run_dir: Path,
        progress: Progress,
    ) -> None:
        self._playbook = playbook
        self._engine = engine
        self._cast = cast
        self._seed = seed
        self._run_dir = run_dir
        self._progress = progress
        self._progress_lines = ProgressLines()
        self._board = Board()
        self._strangers: set[str] = set()
        self._over = False
        self._closed = False
        self._gave_up = False
        self.zero_ns = time.monotonic_ns()
        self._journal = Journal(run_dir / HISTORY_FILE, zero_ns=self.zero_ns)

    async def perform(self, *, capture: bool, ask: AskPerson | None) -> str:
        """Why the run could not be finished; empty when it was. An interruption leaves a history that is cut short."""
        with self._journal:
            self._tell_started()
            run = asyncio.current_task()
            assert run is not None
            writing = asyncio.create_task(self._keep_writing(run))
            try:
                async with AsyncExitStack() as stack:
                    await self._inside(stack, capture=capture, ask=ask)
            except asyncio.CancelledError:
                if self._gave_up:
                    run.uncancel()
                    return str(self._journal.failure)
                self._tell("run:interrupted", {"by": "Ctrl-C"})
                raise
            except DeadairError as failure:
                self._tell("run:failed", {"error": str(failure)})
                return str(failure)
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                self._closed = True
            self._tell("run:ended", {})
        return "" if self._journal.failure is None else str(self._journal.failure)

    async def _inside(self, stack: AsyncExitStack, *, capture: bool, ask: AskPerson | None) -> None:
        playbook = self._playbook
        lab = await self._engine.up(
            playbook.topology, seed=self._seed, run_dir=self._run_dir, on_event=self.on_event, capture=capture
        )
        stack.push_async_exit(self._even_after_failure(lambda: self._close(lab)))
        await lab.ledger("before")
        stage = Stage(playbook, lab=lab, cast=self._cast, run_dir=self._run_dir, seed=self._seed, board=self._board)
        lab.on_restart(lambda running: stage.replace(running.source, running))
        stack.push_async_exit(self._even_after_failure(lambda: self._wind_up(stage, lab)))
        script = Script(lab=lab, stage=stage, board=self._board, tell=self._tell, ask=ask)
        stack.push_async_exit(self._even_after_failure(lambda: script.run_now(playbook.always)))
        await stage.start_all()
        await self._reach_steady(stage)
        await script.run(playbook.steps)
        await asyncio.sleep(playbook.steady.after_ns / SECOND)
        self._tell("script:ended", {"steps": len(playbook.steps)})
        self._over = True  # what ends from now on ends because it is told to

    def _even_after_failure(self, action: Callable[[], Awaitable[None]]) -> Exit:
        """Do it on the way out; where something failed before, that stays the error, and this one is only shown."""

        async def leave(_kind: object, error: BaseException | None, _trace: object) -> None:
            try:
                await action()
            except Exception as also:
                if error is None:
                    raise
                self._progress(f"         also: {also}")

        return leave

    async def _reach_steady(self, stage: Stage) -> None:
        begun = time.monotonic_ns()
        within = self._playbook.steady.within_ns
        missing = await stage.steady(within_ns=within)
        if missing:
            text = ", ".join(missing)
            self._tell("steady:missed", {"missing": text, "within_ms": within / MILLISECOND})
            logs = self._run_dir / "logs"
            raise HarnessError(
                f"no steady state within {format_duration(within)}: {text}", cure=f"see the programs' logs in {logs}"
            )
        self._tell("steady:reached", {"took_ms": (time.monotonic_ns() - begun) / MILLISECOND})
        await asyncio.sleep(self._playbook.steady.before_ns / SECOND)

    async def _wind_up(self, stage: Stage, lab: Lab) -> None:
        try:
            await stage.stop_all()
        finally:
            await asyncio.sleep(_DRAIN_NS / SECOND)
            await lab.ledger("after")

    async def _close(self, lab: Lab) -> None:
        await lab.close()
        await asyncio.sleep(_DRAIN_NS / SECOND)

    # --- events --------------------------------------------------------------------------------------------

    def on_event(self, t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        """Take an event from the engine or a program into history, board and progress."""
        if name == "picture:saved":
            data = {**data, "path": self._inside_run(str(data.get("path", "")))}
        try:
            self._journal.record(t_ns, node, source, name, data)
        except HarnessError:
            return  # the disk is full; _keep_writing sees it and ends the run
        except ValueError as error:
            self._refuse(node, source, error)
            return
        told = Told(t_ns, node, source, name, data)
        self._board.tell(told)
        line = "" if self._over and told.source != "engine" else self._progress_lines.line(told)
        if line:
            self._progress(f"{(t_ns - self.zero_ns) / SECOND:7.2f} s  {line}")

    def _inside_run(self, path: str) -> str:
        """A file of the run as its directory knows it: a run that is moved or downloaded keeps its pictures."""
        return str(Path(path).relative_to(self._run_dir)) if Path(path).is_relative_to(self._run_dir) else path

    def _refuse(self, node: str, source: str, error: ValueError) -> None:
        """A program that tells what is not in the table has failed: once for each program, whatever it repeats."""
        if source in HARNESS_SOURCES:
            raise error
        if source not in self._strangers and not self._closed:
            self._strangers.add(source)
            data = {"role": source, "error": str(error)}
            self._journal.record(time.monotonic_ns(), node, source, "program:failed", data)

    def _tell(self, name: str, data: Mapping[str, Any]) -> None:
        self.on_event(time.monotonic_ns(), "-", "runner", name, data)

    def _tell_started(self) -> None:
        playbook = self._playbook
        data = {
            "playbook": playbook.handle,
            "engine": self._engine.name,
            "seed": self._seed,
            "topology": playbook.topology.name,
            "roles": dict(playbook.topology.roles),
            "systems": {role: system.name for role, system in self._cast.items()},
        }
        self._tell("run:started", data)

    async def _keep_writing(self, run: asyncio.Task[Any]) -> None:
        """Write what is due; a history that can no longer be written ends the run, in order."""
        while True:
            await asyncio.sleep(_WRITE_EVERY_NS / SECOND)
            with suppress(HarnessError):
                self._journal.advance(now=time.monotonic_ns())
            if self._journal.failure is not None:
                if not self._over:
                    self._gave_up = True
                    run.cancel()
                return
