"""What the runner needs of an engine, and what it needs of a system: protocols, so that neither room is imported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.faults import Fault
from harness.network.topology import Topology

EventSink = Callable[[int, str, str, str, Mapping[str, Any]], None]
"""``(t_ns absolute, node, source, name, data)``."""


class Running(Protocol):
    """A program in its node."""

    @property
    def pid(self) -> int: ...

    @property
    def source(self) -> str:
        """The role that it plays."""

    @property
    def exited(self) -> asyncio.Event: ...

    async def request(self, verb: str, *, within_ns: int, **arguments: Any) -> Mapping[str, Any]:
        """One control request; raises :class:`harness.errors.HarnessError` without an answer in time."""

    async def stop(self, *, within_ns: int) -> None:
        """Ask it to end, and make it end when it does not."""


class Lab(Protocol):
    """A small internet that is up."""

    def now_ns(self) -> int:
        """The clock of all event times."""

    async def start(
        self,
        node: str,
        *,
        source: str,
        program: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        harnessed: bool,
    ) -> Running:
        """Run ``argv`` in ``node``; ``harnessed`` programs get control and telemetry descriptors."""

    def on_restart(self, told: Callable[[Any], None]) -> None:
        """Have ``told`` called with each program that a fault has started anew."""

    async def schedule(self, fault_id: str, fault: Fault, *, enter_ns: int | None, leave_ns: int | None) -> None:
        """Break something at ``enter_ns`` (None: now) until ``leave_ns`` (None: until healed)."""

    async def heal(self, fault_id: str) -> None:
        """Leave a fault now; harmless when it was left already."""

    async def ledger(self, moment: str) -> Mapping[str, Any]:
        """Take the ledger of processes and sockets as an event ``ledger:taken``."""

    async def close(self) -> None:
        """Heal, stop and tear down everything; may be called at any moment, and again."""


class Engine(Protocol):
    """Builds labs."""

    name: str

    async def up(self, topology: Topology, *, seed: int, run_dir: Path, on_event: EventSink, capture: bool) -> Lab: ...


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a system sits in a run, and what it is told."""

    role: str
    node: str
    run_dir: Path
    seed: int
    options: Mapping[str, str]
    """The playbook's options for this role: command-line options of the program, without the dashes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a system in its seat."""

    program: str
    argv: Sequence[str]
    env: Mapping[str, str]
    harnessed: bool = True


class System(Protocol):
    """Somebody who can play a role."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    def launch(self, seat: Seat) -> Launch:
        """Raises :class:`harness.errors.DeadairError` where it cannot play here, with the reason."""
