"""Faults of a node or a process, performed where the kernel gives the application the errors of real life.

Network faults belong to the forwarder. These are done in PID 1: a carrier that goes, an interface that goes down, a
process that is killed or stopped. Each entry and each exit is told with the time at which the call returned.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from harness import faults
from harness.engines.netns import receipts
from harness.engines.netns.nodes import Network
from harness.engines.netns.plan import PortPlan
from harness.engines.netns.processes import Running
from harness.engines.netns.receipts import Tell
from harness.faults import FaultError
from harness.network.topology import Topology

_SOURCE = "engine"
LocalFault = faults.InterfaceFault | faults.ProcessFault
At = Callable[[int, Callable[[], None]], None]
"""Do something at an absolute monotonic time."""


class Performer(Protocol):
    """Does one fault and undoes it."""

    def enter(self) -> None: ...

    def leave(self) -> tuple[int, dict[str, Any]]:
        """(what it touched, the receipt's details)."""


class LocalFaults:
    """All node and process faults of one lab: loaded, entered on time, left once."""

    def __init__(
        self, topology: Topology, network: Network, running: Mapping[int, Running], *, tell: Tell, at: At
    ) -> None:
        self._topology = topology
        self._network = network
        self._running = running
        self._tell = tell
        self._at = at
        self._loaded: dict[str, tuple[LocalFault, Performer]] = {}
        self._entered: dict[str, tuple[LocalFault, Performer]] = {}

    def schedule(self, fault_id: str, fault: LocalFault, enter_ns: int | None, leave_ns: int | None) -> None:
        """Load one fault; without ``enter_ns`` it is entered before this returns.

        Raises :class:`harness.faults.FaultError` for names that the topology does not have.
        """
        receipts.refuse_late(fault, self._topology, enter_ns, leave_ns)
        self._loaded[fault_id] = (fault, self._performer(fault))
        if enter_ns is None:
            self._enter(fault_id)
        else:
            self._at(enter_ns, lambda: self._enter(fault_id))
        if leave_ns is not None:
            self._at(leave_ns, lambda: self.heal(fault_id))

    def heal(self, fault_id: str) -> None:
        """Leave a fault now, or forget it if it was not entered yet. Harmless when it was left already."""
        self._loaded.pop(fault_id, None)
        if fault_id in self._entered:
            fault, performer = self._entered.pop(fault_id)
            touched, detail = performer.leave()
            data = receipts.left(fault_id, touched, detail)
            self._tell(time.monotonic_ns(), self._place(fault), _SOURCE, "fault:left", data)

    def heal_all(self) -> None:
        """Every fault that is still in effect, the latest first."""
        for fault_id in [*reversed(self._entered), *self._loaded]:
            self.heal(fault_id)

    def _enter(self, fault_id: str) -> None:
        if fault_id not in self._loaded:
            return
        fault, performer = self._entered[fault_id] = self._loaded.pop(fault_id)
        performer.enter()
        now = time.monotonic_ns()
        self._tell(now, self._place(fault), _SOURCE, "fault:entered", receipts.entered(fault_id, fault))
        if not fault.lasting:
            self.heal(fault_id)

    def _place(self, fault: LocalFault) -> str:
        return self._topology.node_of(fault.target)

    def _performer(self, fault: LocalFault) -> Performer:
        if isinstance(fault, faults.InterfaceFault):
            own = isinstance(fault, faults.InterfaceDown)
            return _Interfaces(self._network, self._ports(fault), own=own, tell=self._tell)
        if fault.kind not in _SIGNALS:
            known = ", ".join(["carrier_off", "interface_down", *_SIGNALS])
            raise FaultError(f"the netns engine cannot perform {fault.kind!r}; of nodes and processes it knows {known}")
        return _Signals(self._find_process, fault.role, *_SIGNALS[fault.kind], tell=self._tell)

    def _ports(self, fault: faults.InterfaceFault) -> list[PortPlan]:
        ports = self._network.ports[fault.node]
        return [port for port in ports if fault.link in (None, port.link) and fault.interface in (None, port.interface)]

    def _find_process(self, target: str) -> Running | None:
        """The latest process of that source, or else of that role's node."""
        candidates = list(self._running.values())[::-1]
        node = self._topology.roles.get(target)
        by_source = [one for one in candidates if one.order.source == target]
        by_node = [one for one in candidates if one.order.node == node]
        return next(iter(by_source or by_node), None)


class _Interfaces:
    """Carrier off (the far end of the veth goes down), or the node's own interface down."""

    def __init__(self, network: Network, ports: Sequence[PortPlan], *, own: bool, tell: Tell) -> None:
        self._network = network
        self._ports = ports
        self._own = own
        self._tell = tell
        self._seen: dict[str, dict[str, bool]] = {}

    def enter(self) -> None:
        self._set(up=False)
        for port in self._ports:
            admin_up, carrier = self._network.link_state(port)
            self._seen[port.interface] = {"admin_up": admin_up, "carrier": carrier}

    def leave(self) -> tuple[int, dict[str, Any]]:
        self._set(up=True)
        touched = sum(not (seen["carrier"] and seen["admin_up"]) for seen in self._seen.values())
        return touched, {"seen_by_node": self._seen}

    def _set(self, *, up: bool) -> None:
        for port in self._ports:
            change = self._network.set_interface if self._own else self._network.set_carrier
            change(port, up)
            self._tell(time.monotonic_ns(), port.node, _SOURCE, "carrier:changed", {"up": up})


class _Signals:
    """A signal on entry and, for a pause, another one on leaving."""

    def __init__(
        self,
        find: Callable[[str], Running | None],
        target: str,
        on_enter: signal.Signals,
        on_leave: signal.Signals | None,
        *,
        tell: Tell,
    ) -> None:
        self._find = find
        self._target = target
        self._on_enter = on_enter
        self._on_leave = on_leave
        self._tell = tell
        self._running: Running | None = None
        self._touched = 0

    def enter(self) -> None:
        self._running = self._find(self._target)
        self._touched = int(self._send(self._on_enter))

    def leave(self) -> tuple[int, dict[str, Any]]:
        if self._on_leave is not None:
            self._send(self._on_leave)
        pid = self._running.pid if self._running is not None else -1
        return self._touched, {"pid": pid, "signal": self._on_enter.name}

    def _send(self, number: signal.Signals) -> bool:
        if self._running is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._running.pid, number)
            order = self._running.order
            data = {"pid": self._running.pid, "signal": number.name}
            self._tell(time.monotonic_ns(), order.node, order.source, "process:signalled", data)
            return True
        return False


_SIGNALS: Mapping[str, tuple[signal.Signals, signal.Signals | None]] = {
    "kill": (signal.SIGKILL, None),
    "restart": (signal.SIGKILL, None),
    "pause": (signal.SIGSTOP, signal.SIGCONT),
}
