"""What a gateway is made of: replace one factory and it is another gateway.

The planted variants in ``harness/systems/planted/`` are this gateway with one part replaced; none of them is a switch
in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reference_impl.gateway.broadcast import Gate
from reference_impl.gateway.launcher import Launcher, ProcessLauncher
from reference_impl.gateway.output import Supervisor
from reference_impl.machines.egress import EgressSettings, EgressSupervisor
from reference_impl.machines.keyframe_gate import GateSettings, JoinGate, KeyframeGate
from reference_impl.machines.session import SessionMachine, SessionSettings
from reference_impl.media.watcher import MediaWatcher
from reference_impl.telemetry import Telemetry


def make_launcher(telemetry_fd: int | None) -> Launcher:
    """Workers are processes of this machine, telling to the same place as the gateway."""
    return ProcessLauncher(telemetry_fd=telemetry_fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayParts:
    """Factories; each has the reference's own part as its default."""

    session: Callable[[SessionSettings], SessionMachine] = SessionMachine
    gate: Callable[[GateSettings], Gate] = KeyframeGate
    """Between a session's ingest and everybody who receives it."""
    join_gate: Callable[[], JoinGate] = JoinGate
    """In front of each viewer and each egress."""
    supervisor: Callable[[EgressSettings], Supervisor] = EgressSupervisor
    watcher: Callable[[Telemetry], MediaWatcher] = MediaWatcher
    """Verifies what arrives; it gets no decoder: a gateway passes on what it gets."""
    launcher: Callable[[int | None], Launcher] = make_launcher
