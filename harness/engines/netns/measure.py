"""The engine's own figures, measured on this machine: set-up and teardown, wire accuracy, throughput, fault timing.

Each function makes its own lab and returns numbers with their samples; ``deadair bench`` prints them. The path is
phone - link - router with NAT - link - core - link - gateway, the last link ideal.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.netns.forgeclient import shared_forge
from harness.engines.netns.lab import Lab
from harness.network.impairments import Impairments
from harness.network.presets import PRESETS
from harness.network.topology import Topology

MOST_LOST = 0.001
_PORT = 7000
_WINDOW_EVERY_NS = 60_370_000
_WINDOW_NS = 30_190_000
_PROBE = [sys.executable, "-m", "harness.engines.netns.probe"]
_TREE = str(Path(__file__).resolve().parents[3])


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured values, ascending, in the unit that the function's name says."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Samples:
        """Sorted."""
        return cls(tuple(sorted(values)))

    def quantile(self, share: float) -> float:
        """Nearest rank."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    @property
    def median(self) -> float:
        return self.quantile(0.5)


@dataclass(frozen=True, slots=True)
class WireError:
    """How far delivered delay was from the set delay, in ms, and whether anything got lost."""

    delay_ms: float
    error_ms: Samples
    lost: int
    scheduling: str
    emulator: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Throughput:
    """One load step."""

    offered_pps: float
    delivered_pps: float
    sent: int
    lost: int
    late_p99_us: float

    @property
    def share_lost(self) -> float:
        return self.lost / max(1, self.sent)


def measuring_topology(*, delay_ns: int = 0) -> Topology:
    """The hotspot preset with ideal links; the backhaul delays each way by ``delay_ns``."""
    topology = PRESETS["hotspot"]
    for link in topology.links:
        line = Impairments(delay=delay_ns if link.name == "backhaul" else 0)
        topology = topology.with_link(link.name, up=line, down=line)
    return topology


async def lab_up_down_ms(count: int = 20, *, rootless: bool | None = None) -> tuple[Samples, Samples]:
    """(up, down) of labs with five nodes; up ends when a first packet has been echoed phone to gateway and back."""
    shared_forge().wait_ready()
    ups, downs = [], []
    with tempfile.TemporaryDirectory(prefix="deadair-measure-") as folder:
        for _ in range(count):
            begun = time.perf_counter()
            lab = await Lab.up(measuring_topology(), seed=1, run_dir=Path(folder), on_event=_ignore, rootless=rootless)
            await lab.echo("phone", "gateway")
            ready = time.perf_counter()
            await lab.close()
            ups.append((ready - begun) * 1e3)
            downs.append((time.perf_counter() - ready) * 1e3)
    return Samples.of(ups), Samples.of(downs)


async def wire_error_ms(
    delay_ms: float, *, seconds: float = 3.0, load_bps: int = 20_000_000, rootless: bool | None = None
) -> WireError:
    """One-way delay of 1 kHz probes under load, minus the delay that was set; kernel stamps at the receiver."""
    async with _lab(measuring_topology(delay_ns=round(delay_ms * 1e6)), rootless=rootless) as (lab, told):
        receiver = await _start(lab, "gateway", ["receive", str(_PORT)])
        await told.wait("gateway", "probe:ready")
        load = ["--load-rate", str(load_bps // (8 * 1428)), "--seconds", str(seconds)]
        sender = await _start(lab, "phone", ["send", "gateway.test", str(_PORT), *load])
        await sender.exited.wait()
        await asyncio.sleep(delay_ms / 1e3 + 0.1)
        await receiver.signal(15)
        await receiver.exited.wait()
        emulator, scheduling = await lab.measure(), lab.facts["scheduling"]
        probes, sent = told["gateway", "probe:ended"]["probes"], told["phone", "probe:ended"]["sent"]
    errors = [(received - at) / 1e6 - delay_ms for _, at, received in probes]
    return WireError(delay_ms, Samples.of(errors), sent - len(probes), scheduling, emulator)


async def throughput(rate: int, *, seconds: float = 2.0, size: int = 200, rootless: bool | None = None) -> Throughput:
    """Offer ``rate`` datagrams a second, one way; counted by the receiving interface."""
    async with _lab(measuring_topology(), rootless=rootless) as (lab, told):
        receiver = await _start(lab, "gateway", ["receive", str(_PORT), "--count-only"])
        await told.wait("gateway", "probe:ready")
        options = ["--rate", str(rate), "--size", str(size), "--seconds", str(seconds)]
        sender = await _start(lab, "phone", ["send", "gateway.test", str(_PORT), *options])
        await sender.exited.wait()
        await asyncio.sleep(0.5)
        await receiver.signal(15)
        await receiver.exited.wait()
        emulator = await lab.measure()
        sent, got = told["phone", "probe:ended"]["sent"], told["gateway", "probe:ended"]["packets"]
    return Throughput(sent / seconds, got / seconds, sent, max(0, sent - got), emulator["late_p99_us"])


async def wire_pps(
    rates: Sequence[int] = (30_000, 40_000, 50_000, 60_000, 70_000, 80_000, 90_000), *, rootless: bool | None = None
) -> list[Throughput]:
    """Steps of load until more than :data:`MOST_LOST` is lost; :func:`carried_pps` of them is the figure."""
    steps: list[Throughput] = []
    for rate in rates:
        steps.append(await throughput(rate, rootless=rootless))
        if steps[-1].share_lost > MOST_LOST:
            break
    return steps


def carried_pps(steps: Sequence[Throughput]) -> float:
    """Packets per second of the best step that lost no more than :data:`MOST_LOST`.

    Where no step lost anything the figure is a lower bound: the generator (Python, on the other core) sent no more.
    """
    return max((step.delivered_pps for step in steps if step.share_lost <= MOST_LOST), default=0.0)


async def fault_effect_ms(count: int = 25, *, rootless: bool | None = None) -> Samples:
    """Scheduled black holes against a 1 kHz probe: how far the first lost and the first passed probe are from it.

    Both edges of each outage count. A probe's own spacing (1 ms) is part of the figure.
    """
    from harness.faults import BlackHole

    async with _lab(measuring_topology(), rootless=rootless) as (lab, told):
        receiver = await _start(lab, "gateway", ["receive", str(_PORT)])
        await told.wait("gateway", "probe:ready")
        seconds = str(1.0 + count * _WINDOW_EVERY_NS / 1e9)
        sender = await _start(lab, "phone", ["send", "gateway.test", str(_PORT), "--seconds", seconds])
        first = lab.now_ns() + 500_000_000
        # neither is a multiple of the probe's 1 ms, so that the edges meet every phase of it
        begins = [first + number * _WINDOW_EVERY_NS for number in range(count)]
        windows = [(begin, begin + _WINDOW_NS) for begin in begins]
        for number, (enter, leave) in enumerate(windows):
            await lab.schedule(f"measure-{number}", BlackHole(link="backhaul"), enter_ns=enter, leave_ns=leave)
        await sender.exited.wait()
        await asyncio.sleep(0.1)
        await receiver.signal(15)
        await receiver.exited.wait()
        shift = time.monotonic_ns() - time.time_ns()
        passed = [at + shift for _, at, _ in told["gateway", "probe:ended"]["probes"]]
    return Samples.of([abs(edge) / 1e6 for window in windows for edge in _edges(passed, *window)])


def _edges(passed: Sequence[int], enter: int, leave: int) -> tuple[float, float]:
    """ns between the outage's edges and the first probe that shows each: the last passed one plus 1 ms, the next."""
    middle = (enter + leave) // 2
    last_before = max(at for at in passed if at < middle)
    first_after = min(at for at in passed if at > middle)
    return last_before + 1_000_000 - enter, first_after - leave


class _Told(dict[tuple[str, str], Mapping[str, Any]]):
    """The latest event of each name on each node, and somebody waiting for one."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters: dict[tuple[str, str], list[asyncio.Future[None]]] = {}

    def __call__(self, _t_ns: int, node: str, _source: str, name: str, data: Mapping[str, Any]) -> None:
        self[node, name] = data
        for waiter in self._waiters.pop((node, name), []):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, node: str, name: str) -> None:
        """Until that event has been told, at most ten seconds."""
        if (node, name) not in self:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.setdefault((node, name), []).append(waiter)
            await asyncio.wait_for(waiter, 10)


@asynccontextmanager
async def _lab(topology: Topology, *, rootless: bool | None) -> AsyncIterator[tuple[Lab, _Told]]:
    told = _Told()
    with tempfile.TemporaryDirectory(prefix="deadair-measure-") as folder:
        lab = await Lab.up(topology, seed=1, run_dir=Path(folder), on_event=told, rootless=rootless)
        try:
            yield lab, told
        finally:
            await lab.close()


async def _start(lab: Lab, node: str, arguments: Sequence[str]) -> Any:
    return await lab.start(
        node, source=node, program="probe", argv=[*_PROBE, *arguments], env={"PYTHONPATH": _TREE}, harnessed=False
    )


def _ignore(*_: Any) -> None:
    """Events do not matter here."""
