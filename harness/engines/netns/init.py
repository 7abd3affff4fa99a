"""PID 1 of a lab: builds it, starts programs on its nodes, performs node and process faults, and takes all with it.

It ends when any of the three that it depends on is gone: the harness (end of file on the orders), the forge, the
supervisor (end of file on their pipes). With PID 1 the kernel ends every process of the PID namespace; with the last
process go the namespaces, and with them interfaces and mounts.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from harness.engines.netns import channel, forwarder, syscalls
from harness.engines.netns.capturing import open_pipe, write_spool
from harness.engines.netns.ledger import living
from harness.engines.netns.localfaults import LocalFaults
from harness.engines.netns.nodes import Network
from harness.engines.netns.packetsocket import PacketSocket
from harness.engines.netns.plan import LabSpec
from harness.engines.netns.processes import Running, StartOrder, decode_status, spawn
from harness.engines.netns.selfcheck import check_ports, echo
from harness.errors import HarnessError
from harness.faults import FaultError


@dataclass(frozen=True, slots=True)
class Equipment:
    """What the supervisor hands to PID 1."""

    orders: int
    """Socket to the harness."""
    wire: int
    """The forwarder's socket to the harness."""
    spool: int
    """File of the capture."""
    packets: PacketSocket
    ring: int
    """Pipe that tells the size of the packet socket's ring when it is made."""
    lives: tuple[int, ...]
    """Pipes whose end of file means that the forge or the supervisor is gone."""
    rootless: bool


def run(spec: LabSpec, equipment: Equipment) -> NoReturn:
    """Never returns; whatever goes wrong is told to the harness before PID 1 ends."""
    end = socket.socket(fileno=equipment.orders)
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        if select.select(equipment.lives, [], [], 0)[0]:
            os._exit(0)
        syscalls.set_process_name("deadair-pid1")
        syscalls.set_timer_slack(1)
        init = Init(spec, end, equipment)
        init.check()
        channel.send(end, ("ready", {"rootless": equipment.rootless, "own_proc": init.own_proc}))
        init.serve()
    except channel.ChannelClosedError:
        pass
    except HarnessError as error:
        _tell_failure(end, error.what, error.cure)
    except BaseException as error:
        _tell_failure(end, f"PID 1 of the lab failed: {error!r}", traceback.format_exc())
    os._exit(0)


def _tell_failure(end: socket.socket, what: str, cure: str) -> None:
    with contextlib.suppress(OSError):
        channel.send(end, ("failed", what, cure))


class Init:
    """The lab's state and the loop over orders, exits and due faults."""

    def __init__(self, spec: LabSpec, end: socket.socket, equipment: Equipment) -> None:
        self._spec = spec
        self._end = end
        self._lives = equipment.lives
        self._running: dict[int, Running] = {}
        self._starting: dict[int, tuple[int, int]] = {}
        """exec pipe -> (request, pid)."""
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._wakeup = _child_wakeup()
        self.own_proc = _mount_proc()
        self._writer, capture_pipe = self._fork_writer(equipment.spool) if spec.capture else (0, -1)
        self._forwarder = self._fork_forwarder(equipment, capture_pipe)
        self._network = Network(spec)
        self._faults = LocalFaults(spec.topology, self._network, self._running, tell=self._tell, at=self._at)
        self._verbs: Mapping[str, Callable[..., Any]] = {
            "signal": self._signal,
            "fault": self._faults.schedule,
            "heal": self._faults.heal,
            "heal all": self._faults.heal_all,
            "ledger": self._ledger,
            "echo": partial(echo, self._network),
        }

    def check(self) -> None:
        """One packet echoed at every port."""
        check_ports(self._network, self._spec.ports)
        os.close(self._go)

    def _fork_forwarder(self, equipment: Equipment, capture_pipe: int) -> int:
        """Before the nodes are made, so that it gets ready on the other processor meanwhile."""
        go, self._go = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._in_child()
            os.close(self._go)
            channels = forwarder.Channels(equipment.wire, equipment.ring, go, capture_pipe)
            forwarder.run(self._spec, equipment.packets, channels)
        equipment.packets.close()
        for descriptor in (go, equipment.wire, equipment.spool, equipment.ring, capture_pipe):
            if descriptor >= 0:
                os.close(descriptor)
        return pid

    def _fork_writer(self, spool: int) -> tuple[int, int]:
        reader, writer = open_pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            self._in_child()
            write_spool(reader, spool)
        os.close(reader)
        return pid, writer

    def _in_child(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._end.close()

    def serve(self) -> None:
        """Until the harness closes the lab or is gone."""
        watched = [self._end.fileno(), self._wakeup, *self._lives]
        while True:
            ready, _, _ = select.select([*watched, *self._starting], [], [], self._run_timers())
            if any(life in ready for life in self._lives):
                return
            for pipe in [one for one in ready if one in self._starting]:
                self._started(pipe)
            if self._wakeup in ready:
                self._reap()
            if self._end.fileno() in ready and not self._take_order():
                return

    def _take_order(self) -> bool:
        (verb, number, *arguments), descriptors = channel.receive(self._end)
        if verb == "close":
            self._end_all()
            channel.send(self._end, ("reply", number, None))
            return False
        try:
            if verb == "start":
                self._start(number, arguments[0], descriptors)
            else:
                channel.send(self._end, ("reply", number, self._verbs[verb](*arguments)))
        except (HarnessError, FaultError, OSError) as error:
            what, cure = (error.what, error.cure) if isinstance(error, HarnessError) else (f"{verb}: {error}", "")
            channel.send(self._end, ("refused", number, what, cure))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    # --- programs ------------------------------------------------------------------------------------------

    def _start(self, number: int, order: StartOrder, descriptors: list[int]) -> None:
        node = self._network.nodes.get(order.node)
        if node is None:
            known = ", ".join(self._network.nodes)
            raise HarnessError(f"cannot start {order.source}: no node {order.node!r}; the lab has {known}")
        hosts = self._spec.hosts.get(order.node, {})
        pid, pipe = spawn(order, namespace=node.namespace, hosts=hosts, descriptors=descriptors)
        self._running[pid] = Running(pid, order)
        self._starting[pipe] = (number, pid)

    def _started(self, pipe: int) -> None:
        number, pid = self._starting.pop(pipe)
        trouble = os.read(pipe, 4096).decode(errors="replace")
        os.close(pipe)
        if trouble:
            self._running.pop(pid, None)
            os.waitpid(pid, 0)
            channel.send(self._end, ("refused", number, f"cannot start {trouble}", "is the program installed?"))
            return
        channel.send(self._end, ("reply", number, (pid, time.monotonic_ns())))
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        starting = {pid for _, pid in self._starting.values()}
        while True:
            try:
                waited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if waited is None or waited.si_pid in starting:
                return
            pid, status = os.waitpid(waited.si_pid, 0)
            self._exited(pid, status)

    def _exited(self, pid: int, status: int) -> None:
        if pid == self._writer:
            self._writer = 0
        if pid == self._forwarder:
            raise HarnessError(f"the lab's forwarder ended by itself: {decode_status(0, pid, status)}")
        if self._running.pop(pid, None) is not None:
            channel.send(self._end, ("exited", decode_status(time.monotonic_ns(), pid, status)))

    def _signal(self, pid: int, number: int) -> bool:
        if pid not in self._running:
            return False
        os.kill(pid, number)
        running = self._running[pid]
        data = {"pid": pid, "signal": signal.Signals(number).name}
        self._tell(time.monotonic_ns(), running.order.node, running.order.source, "process:signalled", data)
        return True

    def _end_all(self) -> None:
        """Kill the programs, tell how they ended, and wait for the capture's writer (the forwarder is done with it)."""
        self._end.setblocking(True)
        for pid in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._running or self._writer:
            pid, status = os.waitpid(-1, 0)
            if pid != self._forwarder:
                self._exited(pid, status)

    def _ledger(self) -> dict[str, Any]:
        known = {pid: running.order.source for pid, running in self._running.items()}
        return {
            "processes": living(ours={os.getpid(), self._forwarder, self._writer}, known=known),
            "sockets": [
                {"node": name, **entry} for name, node in self._network.nodes.items() for entry in node.sockets()
            ],
        }

    # --- time ----------------------------------------------------------------------------------------------

    def _at(self, t_ns: int, action: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (t_ns, self._timer_count, action))

    def _run_timers(self) -> float | None:
        """Do what is due; seconds until the next, or None."""
        while self._timers:
            wait = self._timers[0][0] - time.monotonic_ns()
            if wait > 0:
                return wait / 1e9
            heapq.heappop(self._timers)[2]()
        return None

    def _tell(self, t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        channel.send(self._end, ("events", [(t_ns, node, source, name, dict(data))]))


def _child_wakeup() -> int:
    """A pipe that becomes readable when a child ends."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _mount_proc() -> bool:
    """A /proc of the lab's own, where the host allows it (containers that mask parts of /proc do not)."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    try:
        syscalls.mount("proc", "/proc", "proc", flags)
    except OSError:
        return False
    return True
