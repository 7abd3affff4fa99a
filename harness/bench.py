"""The project's own figures (``deadair bench``), each measured on this machine by what the product itself uses.

A benchmark is an ``async`` function from a :class:`Session` to a :class:`Measured`, bounded in time. One that fails
is told as a result with an error and does not stop the others. Goals and the workload are those of DESIGN.md,
section 7, and issue 2; where there is no goal there is a figure all the same.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import secrets
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.checks.parameters import did_you_mean
from harness.cputime import LabWatch
from harness.engines.netns import leftovers, measure
from harness.engines.netns.leftovers import Trial
from harness.engines.netns.measure import MOST_LOST, Samples, WireError
from harness.engines.netns.probes import denial
from harness.errors import DeadairError, HarnessError
from harness.network.checksum import checksum, pseudo_header
from harness.network.fabric import Fabric
from harness.network.flow import UDP
from harness.network.impairments import Impairments
from harness.network.packet import Packet
from harness.network.presets import PRESETS
from harness.network.topology import Topology
from harness.units import MILLISECOND

Progress = Callable[[str], None]

DEMO = "hotspot/backhaul_drop_4s"
WIRE_DELAYS_MS = (0, 5, 50, 200)
KILLS_AT_ONCE = 2
_TRIAL_LIMIT_S = 10
_LABS = 20
_OUTAGES = 100
_LOOK_EVERY_S = 0.05
_PACKETS = 50_000
_ROUNDS = 5
_PACKET_BYTES = 1200
_PACKET_EVERY_NS = 5_000
_BULK_RATE = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure must reach."""

    sign: Literal["<", "≥", "="]
    limit: float

    def met(self, value: float) -> bool:
        """Whether the figure reaches it."""
        return {"<": value < self.limit, "≥": value >= self.limit, "=": value == self.limit}[self.sign]

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:,g}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark found: its figure, and others worth keeping, JSON values with units in their names."""

    value: float
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How one figure is had."""

    unit: str
    goal: Goal | None
    how: str
    measure: Callable[[Session], Awaitable[Measured]]
    limit_s: Callable[[int], float] = lambda _kills: 120.0
    """Given the number of kill trials: after so many seconds the benchmark has failed."""
    by_default: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """One figure, or why there is none."""

    name: str
    unit: str
    goal: Goal | None
    how: str
    value: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def met(self) -> bool | None:
        """None without a goal or without a figure."""
        return None if self.goal is None or self.value is None else self.goal.met(self.value)

    def to_json(self) -> dict[str, Any]:
        """``value``, ``unit``, ``goal`` (text), ``how``, ``met``, then ``error`` or more figures."""
        goal = "" if self.goal is None else str(self.goal)
        known = {"value": self.value, "unit": self.unit, "goal": goal, "how": self.how, "met": self.met}
        return {**known, **({"error": self.error} if self.error else self.figures)}


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One run of the demo playbook as a process of its own."""

    wall_s: float
    harness_cpu_s: float
    """``deadair run`` and the forge."""
    lab_cpu_s: float
    lab_programs_s: Mapping[str, float]


class Session:
    """What benchmarks of one invocation share: the settings, and what two figures come from."""

    def __init__(self, *, kills: int, progress: Progress) -> None:
        self.kills = kills
        self.progress = progress
        self.rootless = True
        """Whether the labs that were timed had a user namespace; set by :meth:`labs`."""
        self._labs: tuple[Samples, Samples] | None = None
        self._demo: DemoRun | None = None

    async def labs(self) -> tuple[Samples, Samples]:
        """(up, down) of labs, ms: rootless, or as root where user namespaces are denied."""
        if self._labs is None:
            self.rootless = not denial(rootless=True)
            self._labs = await measure.lab_up_down_ms(_LABS, rootless=self.rootless)
        return self._labs

    async def demo(self) -> DemoRun:
        """The demo playbook, run once."""
        if self._demo is None:
            self._demo = await _timed_run(DEMO)
        return self._demo


def run_benches(
    names: Sequence[str], *, kills: int, progress: Progress, benches: Mapping[str, Benchmark] | None = None
) -> list[Result]:
    """Those named, or all that run by default; raises :class:`DeadairError` for a name that there isn't."""
    benches = BENCHES if benches is None else benches
    session = Session(kills=kills, progress=progress)
    results = []
    for name in chosen(names, benches):
        progress(f"{name} …")
        begun = time.monotonic()
        result = _result(name, benches[name], session)
        progress(f"{name}: {_told(result)} ({time.monotonic() - begun:.1f} s)")
        results.append(result)
    return results


def chosen(names: Sequence[str], benches: Mapping[str, Benchmark]) -> list[str]:
    """The benchmarks that were asked for, each once."""
    for name in names:
        if name not in benches:
            raise DeadairError(f"no benchmark is called {name!r}; {did_you_mean(name, benches)}")
    return list(dict.fromkeys(names)) or [name for name, bench in benches.items() if bench.by_default]


def _result(name: str, bench: Benchmark, session: Session) -> Result:
    limit_s = bench.limit_s(session.kills)
    load = os.getloadavg()[0]
    try:
        found = asyncio.run(_bounded(bench, session, limit_s))
    except TimeoutError:
        return Result(name, bench.unit, bench.goal, bench.how, error=f"not done within {limit_s:g} s")
    except Exception as error:
        return Result(name, bench.unit, bench.goal, bench.how, error=f"{type(error).__name__}: {error}")
    figures = {**found.figures, "load_before": round(load, 2)}
    return Result(name, bench.unit, bench.goal, bench.how, value=found.value, figures=figures)


async def _bounded(bench: Benchmark, session: Session, limit_s: float) -> Measured:
    async with asyncio.timeout(limit_s):
        return await bench.measure(session)


# --- the table -----------------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """One line for each figure: name, value, unit, goal, met or missed, how."""
    head = ("name", "value", "unit", "goal", "", "how")
    rows = [head, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return "\n".join(_line(row, widths) for row in rows)


def _row(result: Result) -> tuple[str, ...]:
    goal = "-" if result.goal is None else str(result.goal)
    last = " ".join(result.error.split()) or result.how
    return (result.name, _number(result.value), result.unit, goal, _word(result), last)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(w) if at == 1 else cell.ljust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=False))]
    return "  ".join([*cells, row[-1]])


def _told(result: Result) -> str:
    return f"{_number(result.value)} {result.unit} {_word(result)}".strip() if not result.error else result.error


def _word(result: Result) -> str:
    if result.error:
        return "ERROR"
    return {None: "", True: "met", False: "MISSED"}[result.met]


def _number(value: float | None) -> str:
    """Three digits at least, thousands separated: 0.153, 18.2, 65,310."""
    if value is None:
        return "-"
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# --- labs and the wire ---------------------------------------------------------------------------------------


async def _lab_up(session: Session) -> Measured:
    return _spread((await session.labs())[0], session)


async def _lab_down(session: Session) -> Measured:
    return _spread((await session.labs())[1], session)


def _spread(samples: Samples, session: Session) -> Measured:
    figures = {"max_ms": round(samples.values[-1], 2), "count": len(samples.values), "rootless": session.rootless}
    return Measured(round(samples.median, 2), figures)


async def _wire_error(session: Session) -> Measured:
    found = []
    for delay_ms in WIRE_DELAYS_MS:
        found.append(await measure.wire_error_ms(delay_ms))
        session.progress(f"  {delay_ms} ms: {_wire_figures(found[-1])}")
    figures = {f"at_{one.delay_ms:g}_ms": _wire_figures(one) for one in found}
    return Measured(
        round(max(one.error_ms.quantile(0.99) for one in found), 3),
        {**figures, "scheduling": found[0].scheduling},
    )


def _wire_figures(found: WireError) -> dict[str, float]:
    return {
        "median_ms": round(found.error_ms.median, 3),
        "p99_ms": round(found.error_ms.quantile(0.99), 3),
        "max_ms": round(found.error_ms.values[-1], 3),
        "lost": found.lost,
        "emulator_late_p99_ms": round(found.emulator["late_p99_us"] / 1e3, 3),
    }


async def _wire_pps(_session: Session) -> Measured:
    steps = await measure.wire_pps()
    told = [
        {
            "offered_pps": round(step.offered_pps),
            "delivered_pps": round(step.delivered_pps),
            "lost": step.lost,
            "late_p99_ms": round(step.late_p99_us / 1e3, 3),
        }
        for step in steps
    ]
    saturated = steps[-1].share_lost > MOST_LOST
    return Measured(round(measure.carried_pps(steps)), {"saturated": saturated, "steps": told})


async def _fault_effect(_session: Session) -> Measured:
    samples = await measure.fault_effect_ms(_OUTAGES)
    figures = {"median_ms": round(samples.median, 3), "max_ms": round(samples.values[-1], 3)}
    return Measured(round(samples.quantile(0.99), 3), {**figures, "edges": len(samples.values)})


# --- leftovers -----------------------------------------------------------------------------------------------


async def _leftovers(session: Session) -> Measured:
    """Trials at other moments each time; workers take the next number until none is left."""
    numbers = iter(range(session.kills))
    seed = secrets.randbits(32)
    trials: list[Trial] = []

    async def work() -> None:
        for number in numbers:
            trials.append(await asyncio.to_thread(leftovers.kill_trial, random.Random(f"{seed}/{number}")))
            if len(trials) % 25 == 0:
                dirty = sum(bool(trial.leftovers) for trial in trials)
                session.progress(f"  {len(trials)} of {session.kills} kills, {dirty} left something")

    async with asyncio.TaskGroup() as workers:
        for _ in range(KILLS_AT_ONCE):
            workers.create_task(work())
    return _judged(trials)


def _judged(trials: Sequence[Trial]) -> Measured:
    dirty = [trial for trial in trials if trial.leftovers]
    took = Samples.of([trial.clean_after_s * 1e3 for trial in trials])
    figures = {
        "trials": len(trials),
        "victims": dict(Counter(trial.victim for trial in trials).most_common()),
        "clean_after_median_ms": round(took.median, 1),
        "clean_after_max_ms": round(took.values[-1], 1),
        "left": [f"{trial.victim} killed after {trial.after_s:.3f} s: {', '.join(trial.leftovers)}" for trial in dirty],
    }
    return Measured(len(dirty), figures)


def _leftovers_limit_s(kills: int) -> float:
    return 30 + kills * _TRIAL_LIMIT_S / KILLS_AT_ONCE


# --- the network object by itself ----------------------------------------------------------------------------


async def _network_pps(_session: Session) -> Measured:
    plain, preset = _bulk_topology(), PRESETS["hotspot"]
    paths = {"flow_objects": (plain, False), "from_bytes": (plain, True), "jitter_from_bytes": (preset, True)}
    found: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(_ROUNDS):
        for name, (topology, rebuilt) in paths.items():
            every_ns = _PACKET_EVERY_NS if topology is plain else 2 * MILLISECOND
            found[name].append(_bulk_pps(topology, rebuilt=rebuilt, every_ns=every_ns))
            await asyncio.sleep(0)
    medians = {f"{name}_pps": round(statistics.median(values)) for name, values in found.items()}
    best = {f"{name}_best_pps": round(max(values)) for name, values in found.items()}
    return Measured(medians["flow_objects_pps"], {**medians, **best})


def _bulk_topology() -> Topology:
    """The hotspot preset with delay, rate and a queue on the two links, nothing random; the last link ideal."""
    topology = PRESETS["hotspot"]
    for link in topology.links:
        line = Impairments()
        if link.name in ("wifi", "backhaul"):
            line = Impairments(delay=5 * MILLISECOND, rate=_BULK_RATE, queue_time=200 * MILLISECOND)
        topology = topology.with_link(link.name, up=line, down=line)
    return topology


def _bulk_pps(topology: Topology, *, rebuilt: bool, every_ns: int, count: int = _PACKETS) -> float:
    """Packets per second from phone to gateway; ``rebuilt``: parsed from bytes, and made bytes again at the end."""
    fabric = Fabric(topology, seed=1)
    phone, gateway = fabric.ports["phone/wlan0"], fabric.ports["gateway/eth0"]
    raw = _datagram(phone.spec.ipv4.ip.packed, gateway.spec.ipv4.ip.packed)
    gateway.sink = _to_bytes if rebuilt else _ignore
    parse, offer, advance = fabric.parse, phone.offer, fabric.advance
    first = parse(raw)
    begun = time.perf_counter()
    for now in range(0, count * every_ns, every_ns):
        offer(parse(raw) if rebuilt else Packet(first.flow, first.length, first.ttl, first.flags, raw), now)
        advance(now)
    while (due := fabric.next_deadline()) is not None:
        advance(due)
    took = time.perf_counter() - begun
    arrived = first.flow.packets
    if arrived != count:
        raise HarnessError(f"the network delivered {arrived:,} of {count:,} packets on a path without loss")
    return count / took


def _to_bytes(packet: Packet, _due: int) -> None:
    packet.to_bytes()


def _ignore(_packet: Packet, _due: int) -> None:
    """A host that does nothing with it."""


def _datagram(source: bytes, destination: bytes) -> bytes:
    """A UDP packet over IPv4 (RFC 768, 791) with right checksums."""
    length = _PACKET_BYTES - 20
    udp = struct.pack(">HHHH", 40_000, 5_000, length, 0) + bytes(length - 8)
    udp = udp[:6] + struct.pack(">H", checksum(pseudo_header(source, destination, UDP, length) + udp)) + udp[8:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, _PACKET_BYTES, 0, 0x4000, 64, UDP, 0) + source + destination
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + udp


# --- whole runs ----------------------------------------------------------------------------------------------


async def _demo_s(session: Session) -> Measured:
    return Measured(round((await session.demo()).wall_s, 1))


async def _run_cpu_cores(session: Session) -> Measured:
    run = await session.demo()
    parts = {"deadair run and forge": run.harness_cpu_s, **run.lab_programs_s}
    shares = {name: round(used / run.wall_s, 3) for name, used in parts.items()}
    total = run.harness_cpu_s + run.lab_cpu_s
    return Measured(round(total / run.wall_s, 3), {"cores_by_program": shares, "cpu_s": round(total, 2)})


async def _netns_suite_s(_session: Session) -> Measured:
    return Measured(round((await _timed_run("--jobs", "2")).wall_s, 1))


async def _timed_run(*arguments: str) -> DemoRun:
    """``deadair run …`` from start to exit; raises :class:`HarnessError` where it did not pass."""
    with tempfile.TemporaryDirectory(prefix="deadair-bench-") as folder:
        command = [sys.executable, "-m", "harness.cli", "run", *arguments, "--out", folder]
        before, begun = _children_s(), time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        watch = LabWatch(process.pid)
        looking = asyncio.create_task(_keep_looking(watch))
        try:
            output, _ = await process.communicate()
            wall_s = time.monotonic() - begun
        finally:
            looking.cancel()
            await _ended(process)
        used = _children_s() - before
    if process.returncode != 0:
        last = (output.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise HarnessError(f"deadair run {' '.join(arguments)} ended with {process.returncode}: {last}")
    return DemoRun(wall_s, used, watch.total_s, watch.by_program())


async def _keep_looking(watch: LabWatch) -> None:
    while True:
        await asyncio.to_thread(watch.look)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Stop it where it has not ended by itself: as Ctrl-C does, then for certain."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()


def _children_s() -> float:
    """CPU seconds of all children that this process has waited for, theirs included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


BENCHES: Mapping[str, Benchmark] = {
    "lab_up_ms": Benchmark(
        "ms", Goal("<", 50), f"median of {_LABS} labs of 5 nodes, rootless, until a first packet was echoed", _lab_up
    ),
    "lab_down_ms": Benchmark("ms", Goal("<", 20), f"median of {_LABS} labs of 5 nodes", _lab_down),
    "wire_error_p99_ms": Benchmark(
        "ms", Goal("<", 1), "worst p99 of 1 kHz probes at 20 Mbit/s, set delay 0, 5, 50, 200 ms", _wire_error
    ),
    "wire_pps": Benchmark(
        "packets/s",
        Goal("≥", 60_000),
        "best load step with at most 0.1 % lost (the last step, if none was too much)",
        _wire_pps,
    ),
    "fault_effect_p99_ms": Benchmark(
        "ms", Goal("<", 2), f"{_OUTAGES} scheduled black holes, both edges, by a 1 kHz probe", _fault_effect
    ),
    "leftovers_after_kill": Benchmark(
        "trials",
        Goal("=", 0),
        "SIGKILLs of a harness process at random moments that left something a second later",
        _leftovers,
        limit_s=_leftovers_limit_s,
    ),
    "network_pps": Benchmark(
        "packets/s", None, f"Fabric alone, flow objects, median of {_ROUNDS} x {_PACKETS:,} packets", _network_pps
    ),
    "demo_s": Benchmark("s", Goal("<", 120), f"wall time of deadair run {DEMO}", _demo_s, lambda _kills: 180),
    "run_cpu_cores": Benchmark(
        "cores", None, "CPU seconds per second of that run, all processes", _run_cpu_cores, lambda _kills: 180
    ),
    "netns_suite_s": Benchmark(
        "s",
        Goal("<", 600),
        "wall time of deadair run --jobs 2, all playbooks",
        _netns_suite_s,
        limit_s=lambda _kills: 1800,
        by_default=False,
    ),
}
