"""Network faults in the forwarder: loaded beforehand, entered and left at their times, each with its receipt."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.engines.netns import receipts
from harness.engines.netns.receipts import Tell
from harness.faults import ActiveFault, ChangeLink, NatRebind, NatStateLost, NetworkFault
from harness.network.fabric import Fabric

At = Callable[[int, Callable[[int], None]], None]
"""Call something with the time at or after an absolute time."""
_HERE = "-"
_SOURCE = "network"


class NetworkFaults:
    """All network faults of one lab."""

    def __init__(self, fabric: Fabric, *, tell: Tell, at: At) -> None:
        self._fabric = fabric
        self._tell = tell
        self._at = at
        self._loaded: dict[str, NetworkFault] = {}
        self._active: dict[str, tuple[NetworkFault, ActiveFault]] = {}

    def schedule(self, fault_id: str, fault: NetworkFault, enter_ns: int | None, leave_ns: int | None) -> None:
        """Load one fault; without ``enter_ns`` it is entered before this returns.

        Raises :class:`harness.faults.FaultError` for names that the topology does not have.
        """
        receipts.refuse_late(fault, self._fabric.topology, enter_ns, leave_ns)
        self._loaded[fault_id] = fault
        if enter_ns is None:
            self._enter(fault_id, time.monotonic_ns())
        else:
            self._at(enter_ns, lambda now: self._enter(fault_id, now))
        if leave_ns is not None:
            self._at(leave_ns, lambda now: self._leave(fault_id, now))

    def heal(self, fault_id: str) -> None:
        """Leave a fault now, or forget it if it was not entered yet. Harmless when it was left already."""
        self._leave(fault_id, time.monotonic_ns())

    def heal_all(self, now: int) -> None:
        """Every fault that is still in effect, the latest first."""
        for fault_id in [*reversed(self._active), *self._loaded]:
            self._leave(fault_id, now)

    def _enter(self, fault_id: str, now: int) -> None:
        fault = self._loaded.pop(fault_id, None)
        if fault is None:
            return
        self._tell(now, _HERE, _SOURCE, "fault:entered", receipts.entered(fault_id, fault))
        try:
            active = fault.enter(self._fabric, now)
        except (ValueError, LookupError) as error:
            # Nobody waits for this answer any more: that it touched nothing makes the run unknown, and says why.
            self._tell(now, _HERE, _SOURCE, "fault:left", receipts.left(fault_id, 0, {"error": str(error)}))
            return
        self._active[fault_id] = (fault, active)
        self._tell_change(fault, active, now)
        if not fault.lasting:
            self._leave(fault_id, now)

    def _leave(self, fault_id: str, now: int) -> None:
        self._loaded.pop(fault_id, None)
        if fault_id not in self._active:
            return
        fault, active = self._active.pop(fault_id)
        receipt = active.leave(self._fabric, now)
        if isinstance(fault, ChangeLink):
            self._tell_link(fault, now)
        self._tell(now, _HERE, _SOURCE, "fault:left", receipts.left(fault_id, receipt.touched, receipt.detail))

    def _tell_change(self, fault: NetworkFault, active: ActiveFault, now: int) -> None:
        if isinstance(fault, ChangeLink):
            self._tell_link(fault, now)
        if isinstance(fault, NatRebind | NatStateLost):
            nat = self._fabric.routers[fault.router].nat
            address = ".".join(str(octet) for octet in nat.address) if nat is not None else ""
            data = {"router": fault.router, "mappings": active.receipt().touched, "address": address}
            self._tell(now, fault.router, _SOURCE, "nat:rebound", data)

    def _tell_link(self, fault: ChangeLink, now: int) -> None:
        for direction in self._fabric.links[fault.link].directions(fault.direction):
            settings = direction.impairments.to_json()
            data = {"link": fault.link, "direction": direction.heading, "settings": settings}
            self._tell(now, _HERE, _SOURCE, "link:changed", data)
