"""The programs of a run: started in order, known by role, brought to a steady state, stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import DeadairError, HarnessError
from harness.playbook.board import Board, Told, named
from harness.playbook.engine import Lab, Running, Seat, System
from harness.playbook.model import Playbook
from harness.units import MILLISECOND, SECOND, format_duration

START_ORDER = ("destination", "gateway", "publisher", "viewer", "viewer2")
"""Who must be there before whom; roles not named come last."""
STOP_ORDER = ("viewer", "viewer2", "publisher", "gateway", "destination")

RECEIVERS = ("viewer", "viewer2", "destination")
_READY_WITHIN_NS = 20 * SECOND
_STOP_WITHIN_NS = 10 * SECOND
_RUN_OUT_NS = 300 * MILLISECOND


class Stage:
    """Who plays, and what runs now."""

    def __init__(
        self, playbook: Playbook, *, lab: Lab, cast: Mapping[str, System], run_dir: Path, seed: int, board: Board
    ) -> None:
        self._playbook = playbook
        self._lab = lab
        self._cast = cast
        self._run_dir = run_dir
        self._seed = seed
        self._board = board
        self._running: dict[str, Running] = {}

    async def start_all(self) -> None:
        """Start every role and wait until each says that it is ready."""
        for role in in_order(self._cast, START_ORDER):
            await self.start(role)

    async def start(self, role: str) -> None:
        """Start one role's program (again), and wait until it is ready."""
        system = self._cast[role]
        node = self._playbook.topology.roles[role]
        seat = Seat(role, node, self._run_dir, self._seed, self._playbook.cast[role].options)
        launch = system.launch(seat)
        ready = self._board.next(named("program:ready", source=role))
        try:
            running = await self._lab.start(
                node, source=role, program=launch.program, argv=launch.argv, env=launch.env, harnessed=launch.harnessed
            )
            self._running[role] = running
            if launch.harnessed:
                await self._wait_ready(role, running, ready)
        finally:
            ready.cancel()

    async def _wait_ready(self, role: str, running: Running, ready: asyncio.Future[Told]) -> None:
        exited = asyncio.ensure_future(running.exited.wait())
        both: set[asyncio.Future[Any]] = {ready, exited}
        try:
            done, _ = await asyncio.wait(both, timeout=_READY_WITHIN_NS / SECOND, return_when=asyncio.FIRST_COMPLETED)
        finally:
            exited.cancel()
        if ready in done:
            return
        how = "ended at once" if exited in done else f"was not ready within {format_duration(_READY_WITHIN_NS)}"
        log = self._run_dir / "logs" / f"{role}.log"
        raise HarnessError(f"{role} ({self._cast[role].name}) {how}{_last_line(log)}", cure=f"see {log}")

    def replace(self, role: str, running: Running) -> None:
        """The engine has started the role's program anew, as a fault asked for."""
        self._running[role] = running

    async def request(self, role: str, verb: str, *, within_ns: int, **arguments: Any) -> Mapping[str, Any]:
        """One control request to the program of a role."""
        if role not in self._running:
            raise HarnessError(f"{role} is not running, so it cannot be asked to {verb}")
        return await self._running[role].request(verb, within_ns=within_ns, **arguments)

    async def steady(self, *, within_ns: int) -> list[str]:
        """Wait until every receiver has its first picture; what is missing when time is up."""
        pictures = {role: named("media:started", source=role) for role in RECEIVERS if role in self._cast}
        try:
            async with asyncio.timeout(within_ns / SECOND):
                await asyncio.gather(*map(self._board.until, pictures.values()))
        except TimeoutError:
            return [f"{role} has no picture" for role, first in pictures.items() if self._board.find(first) is None]
        return []

    async def stop_all(self) -> None:
        """Stop every program in order, so that each can tell what it still holds; the first failure is raised last."""
        failures: list[DeadairError] = []
        for role in in_order(self._running, STOP_ORDER):
            try:
                await self._running[role].stop(within_ns=_STOP_WITHIN_NS)
            except DeadairError as failure:
                failures.append(failure)
            # what the stopped program told the next one in line must have arrived before that is judged
            await asyncio.sleep(_RUN_OUT_NS / SECOND)
        if failures:
            raise failures[0]


def in_order(roles: Mapping[str, Any], order: tuple[str, ...]) -> list[str]:
    """The roles, first those named in ``order``."""
    return [role for role in order if role in roles] + [role for role in roles if role not in order]


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1]}" if lines else ""
