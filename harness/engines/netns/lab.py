"""A small internet on this machine, as the runner uses it: build, start programs, break things, take down."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.capture.spool import FILE_NAME
from harness.engines.netns import channel
from harness.engines.netns.forgeclient import Forge, shared_forge
from harness.engines.netns.peer import ANSWER_WITHIN, Peer
from harness.engines.netns.plan import MARKER, RESOLVER_FILES, LabOrder, LabSpec, hosts_file, plan_ports
from harness.engines.netns.process import Channels, ControlSocket, EventSink, NodeProcess, TelemetryPipe
from harness.engines.netns.processes import CHANNEL_OPTIONS, Exit, StartOrder
from harness.errors import HarnessError
from harness.faults import Fault, Kill, Restart
from harness.network.topology import Topology

_UP_WITHIN_S = 20.0
_GONE_WITHIN_S = 5.0
_LAST_WORDS_WITHIN_S = 1.0


class Lab:
    """Namespaces, fabric and programs of one run. Everything ends with :meth:`close`, or with this process."""

    def __init__(self, spec: LabSpec, *, run_dir: Path, on_event: EventSink, forge: Forge) -> None:
        self._spec = spec
        self._run_dir = run_dir
        self._sink = on_event
        self._forge = forge
        self._loop = asyncio.get_running_loop()
        self._processes: dict[int, NodeProcess] = {}
        self._exits: dict[int, Exit] = {}
        """Of processes whose start has not been answered yet."""
        self._incarnations: dict[str, int] = {}
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._faults: dict[str, Fault] = {}
        self._victims: dict[str, NodeProcess | None] = {}
        self._restarted: list[Callable[[NodeProcess], None]] = []
        self._facts: dict[str, Any] = {}
        self._ready = {word: self._loop.create_future() for word in ("init", "wire")}
        self._closing: asyncio.Task[None] | None = None
        self._init: Peer
        self._wire: Peer
        self._gone = -1

    @classmethod
    async def up(
        cls,
        topology: Topology,
        *,
        seed: int,
        run_dir: Path,
        on_event: EventSink,
        capture: bool = False,
        forge: Forge | None = None,
        rootless: bool | None = None,
    ) -> Lab:
        """Build the lab; ready when a packet has been echoed at every port and the forwarder runs.

        ``rootless`` True asks for a user namespace even as root. Raises :class:`HarnessError` with the cure where
        this machine does not let us; nothing is left then.
        """
        begun = time.monotonic_ns()
        spec = _spec(topology, seed=seed, run_dir=run_dir, capture=capture)
        lab = cls(spec, run_dir=run_dir, on_event=on_event, forge=forge or shared_forge())
        lab._order(rootless)
        try:
            async with asyncio.timeout(_UP_WITHIN_S):
                await asyncio.gather(*lab._ready.values())
        except BaseException as error:
            lab._let_go()
            if isinstance(error, TimeoutError):
                raise HarnessError(
                    f"the lab was not up after {_UP_WITHIN_S:.0f} s", cure="run `deadair doctor`"
                ) from None
            raise
        took = (time.monotonic_ns() - begun) / 1e6
        data = {"nodes": len(spec.nodes), "took_ms": took, "scheduling": lab._facts["scheduling"]}
        lab._tell("lab:ready", data)
        return lab

    @property
    def facts(self) -> Mapping[str, Any]:
        """How it was built: ``rootless``, ``own_proc``, ``scheduling``."""
        return dict(self._facts)

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC, the clock of all events."""
        return time.monotonic_ns()

    # --- programs ------------------------------------------------------------------------------------------

    async def start(
        self,
        node: str,
        *,
        source: str,
        program: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        harnessed: bool = True,
    ) -> NodeProcess:
        """Run ``argv`` on a node. ``env`` is added to the harness's own environment.

        A ``harnessed`` program (one of the reference) is told where its control socket and telemetry pipe are by two
        more options; any other gets the descriptors and need not know. Output goes to ``logs/<source>.log``.
        """
        incarnation = self._incarnations[source] = self._incarnations.get(source, 0) + 1
        order = StartOrder(
            node=node,
            source=source,
            program=program,
            incarnation=incarnation,
            argv=[*argv, *(CHANNEL_OPTIONS if harnessed else ())],
            env={**os.environ, **(env or {}), MARKER: self._forge.token},
            directory=str(Path.cwd()),
            harnessed=harnessed,
        )
        return await self._launch(order)

    async def _launch(self, order: StartOrder) -> NodeProcess:
        control, their_control = socket.socketpair()
        reader, writer = os.pipe()
        log = _open_log(self._run_dir, order.source)
        try:
            descriptors = [their_control.fileno(), writer, log]
            pid, started_ns = await self._ask(self._init, "start", order, descriptors=descriptors)
        except BaseException:
            control.close()
            os.close(reader)
            raise
        finally:
            their_control.close()
            os.close(writer)
            os.close(log)
        return self._adopt(order, pid, started_ns, control, reader)

    def _adopt(self, order: StartOrder, pid: int, started_ns: int, control: socket.socket, reader: int) -> NodeProcess:
        data = {"pid": pid, "program": order.program, "incarnation": order.incarnation}
        self._sink(started_ns, order.node, order.source, "process:started", data)

        def told(t_ns: int, name: str, fields: Mapping[str, Any]) -> None:
            self._sink(t_ns, order.node, order.source, name, fields)

        role = order.source if order.harnessed else None
        channels = Channels(ControlSocket(control, order.source), TelemetryPipe(reader, told, role=role))
        process = self._processes[pid] = NodeProcess(order, pid, channels, self._signal, self._sink)
        if pid in self._exits:
            process.ended(self._exits.pop(pid))
        return process

    async def _signal(self, pid: int, number: int) -> bool:
        return bool(await self._ask(self._init, "signal", pid, number))

    def on_restart(self, told: Callable[[NodeProcess], None]) -> None:
        """Have ``told`` called with each process that the fault ``restart`` has started anew."""
        self._restarted.append(told)

    async def _ask(self, peer: Peer, verb: str, *arguments: Any, **options: Any) -> Any:
        """The answer; where the lab has died meanwhile, the failure says of what."""
        try:
            return await peer.ask(verb, *arguments, **options)
        except HarnessError:
            if not peer.closed.done():
                raise
            # neither of the two outlives the other, and either may know the reason
            await asyncio.wait([self._wire.closed, self._init.closed], timeout=_LAST_WORDS_WITHIN_S)
            failure = self._wire.failure or self._init.failure
            if failure is None:
                raise
            raise failure from None

    def processes(self) -> list[NodeProcess]:
        """Those that have not ended, in the order of their start."""
        return [process for process in self._processes.values() if not process.exited.is_set()]

    # --- faults --------------------------------------------------------------------------------------------

    async def schedule(self, fault_id: str, fault: Fault, *, enter_ns: int | None, leave_ns: int | None) -> None:
        """Break something at ``enter_ns`` (None: now) until ``leave_ns`` (None: until healed); both absolute.

        Returns when the fault is loaded, or entered where it is due now. A fault that is a moment (a kill, a lost NAT
        table) is left at once. Raises :class:`HarnessError` for a fault that names what the lab does not have.
        """
        self._faults[fault_id] = fault
        performer = self._wire if fault.scope == "network" else self._init
        await self._ask(performer, "fault", fault_id, fault, enter_ns, leave_ns)

    async def heal(self, fault_id: str) -> None:
        """Leave a fault now; harmless when it was left already. A restarted program runs again when this returns."""
        await asyncio.gather(*(self._ask(one, "heal", fault_id) for one in (self._wire, self._init)))
        if fault_id in self._restarts:
            await self._restarts.pop(fault_id)

    def _follow(self, name: str, data: Mapping[str, Any]) -> None:
        """What the harness itself does about faults of processes: expect the end, start again."""
        fault = self._faults.get(data["fault"])
        if not isinstance(fault, Kill | Restart):
            return
        if name == "fault:entered":
            self._victims[data["fault"]] = victim = self._process_of(fault.role)
            if victim is not None:
                victim.expected = True
        victim = self._victims.get(data["fault"])
        if name == "fault:left" and isinstance(fault, Restart) and victim is not None:
            self._restarts[data["fault"]] = asyncio.create_task(self._start_again(victim))

    def _process_of(self, role: str) -> NodeProcess | None:
        """The latest living process of that source, or else on that role's node."""
        living = self.processes()[::-1]
        node = self._spec.topology.roles.get(role)
        found = [one for one in living if one.source == role] or [one for one in living if one.order.node == node]
        return next(iter(found), None)

    async def _start_again(self, process: NodeProcess) -> None:
        await process.exited.wait()
        source = process.source
        self._incarnations[source] += 1
        again = await self._launch(replace(process.order, incarnation=self._incarnations[source]))
        for told in self._restarted:
            told(again)

    # --- looking -------------------------------------------------------------------------------------------

    async def ledger(self, moment: str) -> Mapping[str, Any]:
        """Processes and sockets inside the lab, told as ``ledger:taken`` and returned."""
        taken = await self._ask(self._init, "ledger")
        data = {"moment": moment, **taken}
        self._tell("ledger:taken", data)
        return data

    async def echo(self, near: str, far: str, *, count: int = 1, within_ns: int = 2_000_000_000) -> list[int]:
        """Round-trip times in ns of datagrams through the network, sent one after the other; lost ones are missing."""
        patience = ANSWER_WITHIN + count * within_ns
        return list(await self._ask(self._init, "echo", near, far, count, within_ns, within_ns=patience))

    async def measure(self) -> Mapping[str, Any]:
        """How late the forwarder was so far: the data of ``emulator:measured``."""
        return dict(await self._ask(self._wire, "measure"))

    # --- the end -------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Heal, end every program, take down. Idempotent, and finishes even when the caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        begun = time.monotonic_ns()
        for task in self._restarts.values():
            task.cancel()
        await asyncio.gather(*self._restarts.values(), return_exceptions=True)
        for process in self.processes():
            process.expected = True
        with suppress(HarnessError, TimeoutError):
            async with asyncio.timeout(_GONE_WITHIN_S):
                await self._ask(self._init, "heal all")
                await self._ask(self._wire, "finish")
        with suppress(HarnessError, TimeoutError):
            async with asyncio.timeout(_GONE_WITHIN_S):
                await self._ask(self._init, "close")
        try:
            await self._wait_gone()
        finally:
            self._let_go()
        self._tell("lab:closed", {"took_ms": (time.monotonic_ns() - begun) / 1e6})

    async def _wait_gone(self) -> None:
        """Until no process of the lab exists: the supervisor is the last to hold the pipe."""
        gone = self._loop.create_future()
        self._loop.add_reader(self._gone, _settle, gone)
        self._init.close()
        try:
            async with asyncio.timeout(_GONE_WITHIN_S):
                await gone
        except TimeoutError:
            raise HarnessError(
                f"processes of the lab are still there {_GONE_WITHIN_S:.0f} s after its end",
                cure="look for processes in state D with `ps`",
            ) from None
        finally:
            self._loop.remove_reader(self._gone)

    def _let_go(self) -> None:
        self._init.close()
        self._wire.close()
        for process in self._processes.values():
            process.release()
        if self._gone >= 0:
            os.close(self._gone)
            self._gone = -1

    def _tell(self, name: str, data: Mapping[str, Any]) -> None:
        self._sink(time.monotonic_ns(), "-", "engine", name, data)

    # --- beginning and what PID 1 and the forwarder tell -----------------------------------------------------

    def _order(self, rootless: bool | None) -> None:
        ours, orders = channel.pair()
        our_wire, wire = channel.pair()
        self._gone, gone = os.pipe()
        self._init = Peer("PID 1 of the lab", ours, self._told_by_init)
        self._wire = Peer("the lab's forwarder", our_wire, self._told_by_wire)
        self._init.closed.add_done_callback(lambda _: self._lost("init"))
        self._wire.closed.add_done_callback(lambda _: self._lost("wire"))
        spool = (
            os.open(self._run_dir / FILE_NAME, _APPEND, 0o644)
            if self._spec.capture
            else os.open(os.devnull, os.O_WRONLY)
        )
        try:
            self._forge.make(LabOrder(self._spec, rootless), orders=orders, wire=wire, gone=gone, spool=spool)
        finally:
            orders.close()
            wire.close()
            os.close(gone)
            os.close(spool)

    def _lost(self, word: str) -> None:
        future = self._ready[word]
        if not future.done():
            failure = self._init.failure or self._wire.failure
            future.set_exception(
                failure or HarnessError("the lab ended while it was being built", cure="`deadair doctor`")
            )

    def _told_by_init(self, word: str, rest: Sequence[Any]) -> None:
        if word == "exited":
            self._ended(rest[0])
        else:
            self._told("init", word, rest)

    def _told_by_wire(self, word: str, rest: Sequence[Any]) -> None:
        self._told("wire", word, rest)

    def _told(self, who: str, word: str, rest: Sequence[Any]) -> None:
        if word == "events":
            for t_ns, node, source, name, data in rest[0]:
                self._sink(t_ns, node, source, name, data)
                if name in ("fault:entered", "fault:left"):
                    self._follow(name, data)
        elif word == "ready":
            self._facts |= rest[0]
            if not self._ready[who].done():
                self._ready[who].set_result(None)
        elif word == "failed":
            self._failed({"init": self._init, "wire": self._wire}[who], _LOGS[who], *rest)

    def _failed(self, peer: Peer, log: str, what: str, cure: str) -> None:
        """Last words. A traceback goes to the logs, where the cure then points."""
        if cure.startswith("Traceback"):
            descriptor = _open_log(self._run_dir, log)
            os.write(descriptor, f"{what}\n{cure}".encode())
            os.close(descriptor)
            peer.failure = HarnessError(what, cure=f"its traceback is in logs/{log}.log of the run")
        if not self._ready["init"].done():
            self._ready["init"].set_exception(peer.failure or HarnessError(what, cure=cure))

    def _ended(self, how: Exit) -> None:
        process = self._processes.get(how.pid)
        if process is None:
            self._exits[how.pid] = how
        else:
            process.ended(how)


_LOGS = {"init": "pid1", "wire": "forwarder"}
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _open_log(run_dir: Path, source: str) -> int:
    folder = run_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / f"{source}.log", _APPEND, 0o644)


def _spec(topology: Topology, *, seed: int, run_dir: Path, capture: bool) -> LabSpec:
    folder = run_dir.resolve() / "nodes"
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in RESOLVER_FILES.items():
        (folder / Path(path).name).write_text(text)
    common = {path: str(folder / Path(path).name) for path in RESOLVER_FILES}
    hosts = {}
    for node in topology.nodes:
        own = folder / f"{node.name}.hosts"
        own.write_text(hosts_file(topology, node.name))
        hosts[node.name] = {**common, "/etc/hosts": str(own)}
    return LabSpec(
        topology=topology,
        seed=seed,
        ports=plan_ports(topology),
        nodes=tuple(node.name for node in topology.nodes),
        hosts=hosts,
        capture=capture,
    )
