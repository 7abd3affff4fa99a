"""How a NAT behaves, as a value, in the words of RFC 4787."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.units import HOUR, MINUTE, SECOND

Dependence = Literal["endpoint_independent", "address_dependent", "address_and_port_dependent"]
_DEPENDENCES = ("endpoint_independent", "address_dependent", "address_and_port_dependent")


@dataclass(frozen=True, slots=True, kw_only=True)
class NatSettings:
    """Hairpinning is always off: a packet from inside to the NAT's own outside address is dropped."""

    mapping: Dependence = "endpoint_independent"
    """For which remote ends one inside port keeps its outside port."""
    filtering: Dependence = "address_and_port_dependent"
    """Who outside may send to a mapping: anyone, an address written to before, or an address and port."""
    udp_timeout: int = 2 * MINUTE
    """ns without a packet in either direction; RFC 4787 REQ-5 asks for at least this."""
    tcp_established_timeout: int = 2 * HOUR + 4 * MINUTE
    """RFC 5382 REQ-5."""
    tcp_transitory_timeout: int = 4 * MINUTE
    """Half-open or closing; RFC 5382 REQ-5."""
    icmp_timeout: int = 60 * SECOND
    """RFC 5508 REQ-2."""
    first_port: int = 1024
    last_port: int = 65535

    def __post_init__(self) -> None:
        for name in ("mapping", "filtering"):
            if getattr(self, name) not in _DEPENDENCES:
                raise ValueError(f"NAT {name} is {getattr(self, name)!r}; known are {', '.join(_DEPENDENCES)}")
        for name in ("udp_timeout", "tcp_established_timeout", "tcp_transitory_timeout", "icmp_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"NAT {name} is {getattr(self, name)} ns; it must be positive")
        if not 0 < self.first_port <= self.last_port <= 65535:
            raise ValueError(f"NAT ports {self.first_port}..{self.last_port} are no range within 1..65535")
