"""The events of faults, told alike by whoever performs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.faults import Fault, FaultError
from harness.network.topology import Topology

Tell = Callable[[int, str, str, str, Mapping[str, Any]], None]
"""``(t_ns absolute, node, source, name, data)``."""


def entered(fault_id: str, fault: Fault) -> dict[str, Any]:
    """The data of ``fault:entered``."""
    settings = {key: value for key, value in fault.to_json().items() if key != "kind"}
    return {
        "fault": fault_id,
        "kind": fault.kind,
        "scope": fault.scope,
        "target": fault.target,
        "what": fault.describe(),
        "settings": settings,
    }


def left(fault_id: str, touched: int, detail: Mapping[str, Any]) -> dict[str, Any]:
    """The data of ``fault:left``."""
    return {"fault": fault_id, "touched": touched, "receipt": dict(detail)}


def refuse_late(fault: Fault, topology: Topology, enter_ns: int | None, leave_ns: int | None) -> None:
    """Raise :class:`FaultError` when the fault is loaded rather than when it is due and nobody is asking."""
    fault.validate(topology)
    if enter_ns is not None and leave_ns is not None and leave_ns < enter_ns:
        raise FaultError(f"{fault.kind} would be left {enter_ns - leave_ns} ns before it is entered")
