"""What can be broken, as values. :data:`REGISTRY` has every kind; ``fault.py`` says what a fault is."""

from harness.faults.black_hole import BlackHole, LinkFlap
from harness.faults.change_link import ChangeLink
from harness.faults.fault import (
    REGISTRY,
    ActiveFault,
    Fault,
    FaultError,
    NetworkFault,
    Receipt,
    Scope,
    fault_from_json,
)
from harness.faults.hosts import CarrierOff, InterfaceDown, InterfaceFault, Kill, Pause, ProcessFault, Restart
from harness.faults.nat_faults import NatRebind, NatStateLost
from harness.faults.tcp_reset import TcpReset

__all__ = [
    "REGISTRY",
    "ActiveFault",
    "BlackHole",
    "CarrierOff",
    "ChangeLink",
    "Fault",
    "FaultError",
    "InterfaceDown",
    "InterfaceFault",
    "Kill",
    "LinkFlap",
    "NatRebind",
    "NatStateLost",
    "NetworkFault",
    "Pause",
    "ProcessFault",
    "Receipt",
    "Restart",
    "Scope",
    "TcpReset",
    "fault_from_json",
]
