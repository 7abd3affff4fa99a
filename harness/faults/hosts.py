"""Faults of nodes and processes: what they are. An engine carries them out, where the kernel can feel them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from harness.faults.fault import Fault, FaultError, Scope, known, known_role, registered
from harness.network.topology import Topology


@dataclass(frozen=True, kw_only=True)
class InterfaceFault(Fault):
    """Something about one node's network device: all of them, unless ``link`` or ``interface`` names one."""

    scope: ClassVar[Scope] = "node"

    node: str
    link: str | None = None
    """The device that is attached to this link."""
    interface: str | None = None
    """The device of this name."""

    def __post_init__(self) -> None:
        if self.link is not None and self.interface is not None:
            raise FaultError(f"{self.kind} of {self.node}: give link or interface, not both")

    @property
    def target(self) -> str:
        """The node."""
        return self.node

    @property
    def where(self) -> str:
        """``"phone"``, ``"phone's wlan0"`` or ``"phone's interface to wifi"``."""
        if self.interface is not None:
            return f"{self.node}'s {self.interface}"
        return f"{self.node}'s interface to {self.link}" if self.link is not None else self.node

    def validate(self, topology: Topology) -> None:
        """The node must exist and have the link or interface."""
        known("node", self.node, [node.name for node in topology.nodes])
        interfaces = topology.interfaces(self.node)
        if self.link is not None:
            known(f"link of {self.node}", self.link, [i.link for i in interfaces])
        if self.interface is not None:
            known(f"interface of {self.node}", self.interface, [i.name for i in interfaces])


@registered
@dataclass(frozen=True, kw_only=True)
class CarrierOff(InterfaceFault):
    """The node's device loses its carrier, as a phone out of Wi-Fi range: sends pile up, new connects fail in time."""

    kind: ClassVar[str] = "carrier_off"

    def describe(self) -> str:
        """``"phone's wlan0 loses its carrier"``."""
        return f"{self.where} loses its carrier"


@registered
@dataclass(frozen=True, kw_only=True)
class InterfaceDown(InterfaceFault):
    """The node switches its device off (airplane mode): addresses and routes go, sends fail at once."""

    kind: ClassVar[str] = "interface_down"

    def describe(self) -> str:
        """``"phone's wlan0 is switched off"``."""
        return f"{self.where} is switched off"


@dataclass(frozen=True, kw_only=True)
class ProcessFault(Fault):
    """Something that happens to the program that plays a role."""

    scope: ClassVar[Scope] = "process"

    role: str

    @property
    def target(self) -> str:
        """The role."""
        return self.role

    def validate(self, topology: Topology) -> None:
        """The role must exist."""
        known_role(topology, self.role)

    @abstractmethod
    def describe(self) -> str:
        """One sentence for people, without a full stop."""


@registered
@dataclass(frozen=True, kw_only=True)
class Kill(ProcessFault):
    """SIGKILL: no goodbye from the program; its kernel closes its sockets."""

    kind: ClassVar[str] = "kill"
    lasting: ClassVar[bool] = False

    def describe(self) -> str:
        """``"publisher is killed (SIGKILL)"``."""
        return f"{self.role} is killed (SIGKILL)"


@registered
@dataclass(frozen=True, kw_only=True)
class Pause(ProcessFault):
    """SIGSTOP until left, then SIGCONT: the program stands still, its kernel goes on acknowledging."""

    kind: ClassVar[str] = "pause"

    def describe(self) -> str:
        """``"publisher stands still (SIGSTOP)"``."""
        return f"{self.role} stands still (SIGSTOP)"


@registered
@dataclass(frozen=True, kw_only=True)
class Restart(ProcessFault):
    """SIGKILL on entering; the role's program is started anew when it is left."""

    kind: ClassVar[str] = "restart"

    def describe(self) -> str:
        """``"gateway is killed (SIGKILL) and started again"``."""
        return f"{self.role} is killed (SIGKILL) and started again"
