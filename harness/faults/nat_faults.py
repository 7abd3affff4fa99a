"""Faults of a NAT: it forgets, or it gets another address. Both are moments: what is forgotten stays forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, ClassVar

from harness.faults.fault import ActiveFault, FaultError, NetworkFault, Receipt, known_router_with_nat, registered
from harness.network.fabric import Fabric
from harness.network.nat import Nat
from harness.network.topology import Topology


class Done(ActiveFault):
    """A moment that has passed: nothing to heal."""

    def __init__(self, touched: int, detail: dict[str, Any]) -> None:
        super().__init__()
        self._told = Receipt(touched, detail)

    def heal(self, fabric: Fabric, now: int) -> None:
        """Nothing can be taken back."""

    def receipt(self) -> Receipt:
        """What it did."""
        return self._told


@registered
@dataclass(frozen=True, kw_only=True)
class NatStateLost(NetworkFault):
    """The NAT forgets all mappings, as a hotspot does that restarts its radio.

    Packets from outside find no mapping and vanish; the next packet from inside gets a new outside port, so the
    far end sees a stranger in the middle of a connection.
    """

    kind: ClassVar[str] = "nat_state_lost"
    lasting: ClassVar[bool] = False

    router: str

    @property
    def target(self) -> str:
        """The router."""
        return self.router

    def describe(self) -> str:
        """``"hotspot loses its NAT state"``."""
        return f"{self.router} loses its NAT state"

    def validate(self, topology: Topology) -> None:
        """The router must exist and translate addresses."""
        known_router_with_nat(topology, self.router)

    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """Touches every mapping that was within its timeout."""
        self.validate(fabric.topology)
        router = fabric.routers[self.router]
        live = _nat(fabric, self.router).live_mappings(now)
        router.lose_nat_state()
        return Done(live, {"mappings": live})


@registered
@dataclass(frozen=True, kw_only=True)
class NatRebind(NetworkFault):
    """The NAT gets another outside address, and new outside ports for everyone: a mobile uplink that re-attached."""

    kind: ClassVar[str] = "nat_rebind"
    lasting: ClassVar[bool] = False

    router: str
    address: str | None = None
    """A free IPv4 address of the network of the router's outside link; left out: the next one."""

    def __post_init__(self) -> None:
        if self.address is not None:
            try:
                IPv4Address(self.address)
            except AddressValueError:
                raise FaultError(f"address is {self.address!r}; write an IPv4 address such as 198.18.1.7") from None

    @property
    def target(self) -> str:
        """The router."""
        return self.router

    def describe(self) -> str:
        """``"hotspot gets another outside address"``."""
        return f"{self.router} gets another outside address" + (f", {self.address}" if self.address else "")

    def validate(self, topology: Topology) -> None:
        """The router must translate addresses and the new address lie in its outside network."""
        known_router_with_nat(topology, self.router)
        if self.address is None:
            return
        outside = topology.ipv4(topology.router(self.router).outside, 1)
        if IPv4Address(self.address) not in outside.network or IPv4Address(self.address) == outside.ip:
            raise FaultError(
                f"address {self.address} is not free in {outside.network}, the network outside {self.router} "
                f"({outside.ip} is its gateway)"
            )

    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """Touches every mapping that was within its timeout."""
        self.validate(fabric.topology)
        nat = _nat(fabric, self.router)
        old, live = IPv4Address(nat.address), nat.live_mappings(now)
        new = IPv4Address(self.address) if self.address is not None else _next_address(old)
        fabric.routers[self.router].rebind(new.packed)
        return Done(live, {"mappings": live, "old_address": str(old), "address": str(new)})


def _nat(fabric: Fabric, router: str) -> Nat:
    nat = fabric.routers[router].nat
    assert nat is not None
    return nat


def _next_address(old: IPv4Address) -> IPv4Address:
    """The next host number of the /24, 2 to 254."""
    host = old.packed[3]
    return IPv4Address(old.packed[:3] + bytes([host + 1 if host < 254 else 2]))
