"""An engine without namespaces: its programs are a few events, as good or bad as the playbook's options ask for.

``systems: {gateway: {options: {fake: ends}}}`` makes the gateway end at once; :data:`Mood` has them all. As a pytest
plugin (``PYTEST_PLUGINS=fake_lab``) it takes the place of the real engine, also in subprocesses and xdist's workers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from harness import runs
from harness.capture.spool import FILE_NAME as SPOOL_FILE
from harness.errors import HarnessError
from harness.faults import Fault
from harness.network.topology import Topology
from harness.playbook import runner, script, stage
from harness.playbook.engine import EventSink

MS = 1_000_000
Mood = Literal[
    "good",
    "ends",
    "mute",
    "blank",
    "stranger",
    "refuses",
    "stubborn",
    "deaf",
    "fragile",
    "ctrl_c",
    "terminated",
    "chatty",
]
RECEIVERS = ("viewer", "viewer2", "destination")
_MEDIA = {"frame": 1, "idr": True, "parameter_sets": True, "decoded": True, "delay_ms": 5.0}


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Milliseconds where the real thing takes seconds."""
    patch.setattr(runner, "_DRAIN_NS", 0)
    patch.setattr(runner, "_WRITE_EVERY_NS", MS)
    patch.setattr(script, "LEAD_NS", 2 * MS)
    patch.setattr(script, "_AFTER_WITHIN_NS", 20 * MS)
    patch.setattr(stage, "_READY_WITHIN_NS", 30 * MS)
    patch.setattr(stage, "_RUN_OUT_NS", 0)


def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    hurry(patch)
    patch.setattr(runs, "engine_named", lambda name: FakeEngine())
    config.add_cleanup(patch.undo)


class FakeRunning:
    """A program that does what its mood says."""

    def __init__(self, lab: FakeLab, node: str, source: str, mood: str) -> None:
        self.pid = 1000 + len(lab.calls)
        self.source = source
        self.exited = asyncio.Event()
        self._lab = lab
        self._node = node
        self._mood = mood

    def begin(self) -> None:
        tell = self._tell
        if self._mood == "ends":
            data = {"pid": self.pid, "program": "fake", "incarnation": 1, "code": 3, "signal": 0, "expected": False}
            tell("process:exited", **data)
            self.exited.set()
        if self._mood in ("ends", "mute"):
            return
        tell("program:ready", role=self.source, detail="")
        if self.source == "gateway":
            self._tell("publish:accepted", stream="live/cam1", session="s1", epoch=1, peer="p")
        if self.source in RECEIVERS and self._mood != "blank":
            tell("media:started", **_MEDIA)
        self._misbehave()

    def _misbehave(self) -> None:
        if self._mood == "stranger":
            self._tell("weather:changed", mood="rain")
            self._tell("weather:changed", mood="sun")
        if self._mood == "refuses":
            self._lab.when_broken.append(self._refuse)
        if self._mood == "chatty":
            for number in range(2000):
                self._tell("log:written", line=f"line {number} of a program that tells everything twice")
        if self._mood == "ctrl_c":
            os.kill(os.getpid(), signal.SIGINT)
        if self._mood == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)

    def _refuse(self) -> None:
        why = {"code": "BadName", "reason": "", "setting": "takeover"}
        self._tell("publish:rejected", stream="live/cam1", peer="p", **why)

    async def request(self, verb: str, *, within_ns: int, **arguments: Any) -> Mapping[str, Any]:
        self._lab.calls.append(f"request {self.source} {verb}")
        if self._mood == "deaf":
            raise HarnessError(f"{self.source} did not answer {verb}")
        return {}

    async def stop(self, *, within_ns: int) -> None:
        self._lab.calls.append(f"stop {self.source}")
        if self._mood == "stubborn":
            raise HarnessError(f"{self.source} does not stop")
        await asyncio.sleep(0)

    def _tell(self, name: str, **data: Any) -> None:
        self._lab.tell(self._node, self.source, name, data)


class FakeLab:
    """Keeps what it was asked in ``calls``; ``broken`` holds the faults in force."""

    def __init__(self, on_event: EventSink, hurt: asyncio.Event) -> None:
        self._hurt = hurt
        self.calls: list[str] = []
        self.broken: dict[str, Fault] = {}
        self.when_broken: list[Callable[[], None]] = []
        self.fragile = False
        self._on_event = on_event

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def tell(self, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        self._on_event(time.monotonic_ns(), node, source, name, data)

    async def start(
        self, node: str, *, source: str, program: str, argv: Sequence[str], env: Mapping[str, str], harnessed: bool
    ) -> FakeRunning:
        self.calls.append(f"start {source}")
        mood = argv[argv.index("--fake") + 1] if "--fake" in argv else "good"
        self.fragile = self.fragile or mood == "fragile"
        running = FakeRunning(self, node, source, mood)
        asyncio.get_running_loop().call_soon(running.begin)
        return running

    def on_restart(self, told: Callable[[Any], None]) -> None:
        pass

    async def schedule(self, fault_id: str, fault: Fault, *, enter_ns: int | None, leave_ns: int | None) -> None:
        self.calls.append(f"schedule {fault_id}")
        if self.fragile:
            raise HarnessError(f"{fault_id} cannot be done here")
        delay = 0.0 if enter_ns is None else (enter_ns - self.now_ns()) / 1e9
        asyncio.get_running_loop().call_later(max(0.0, delay), self._enter, fault_id, fault)
        await asyncio.sleep(0)

    def _enter(self, fault_id: str, fault: Fault) -> None:
        self.broken[fault_id] = fault
        self._hurt.set()
        settings: dict[str, Any] = {}
        what = {"kind": fault.kind, "scope": fault.scope, "target": fault.target, "what": fault.describe()}
        self.tell("-", "network", "fault:entered", {"fault": fault_id, **what, "settings": settings})
        for told in self.when_broken:
            told()

    async def heal(self, fault_id: str) -> None:
        self.calls.append(f"heal {fault_id}")
        if self.broken.pop(fault_id, None) is not None:
            self.tell("-", "network", "fault:left", {"fault": fault_id, "touched": 5, "receipt": {}})

    async def ledger(self, moment: str) -> Mapping[str, Any]:
        self.calls.append(f"ledger {moment}")
        self.tell("-", "engine", "ledger:taken", {"moment": moment, "processes": [], "sockets": []})
        return {}

    async def close(self) -> None:
        self.calls.append("close")
        late = {"late_p50_us": 1, "late_p99_us": 2, "late_max_us": 3}
        lost = {"ring_lost": 0, "unsent": 0, "malformed": 0, "left_out": 0}
        self.tell("-", "network", "emulator:measured", {"packets": 1, **late, **lost, "histogram": {}})
        self.tell("-", "engine", "lab:closed", {"took_ms": 1})
        if self.fragile:
            raise HarnessError("the lab could not be taken down")


class FakeEngine:
    """Builds fake labs, and keeps the last one."""

    name = "netns"

    def __init__(self) -> None:
        self.lab: FakeLab | None = None
        self.hurt = asyncio.Event()
        """Set when the first fault enters."""

    async def up(self, topology: Topology, *, seed: int, run_dir: Path, on_event: EventSink, capture: bool) -> FakeLab:
        self.lab = FakeLab(on_event, self.hurt)
        if capture:
            (run_dir / SPOOL_FILE).touch()
        self.lab.tell("-", "engine", "lab:ready", {"nodes": 5, "took_ms": 1.0, "scheduling": "fake"})
        return self.lab
