"""What a fault is: a value that says what is broken, where, and which way.

A fault is a frozen dataclass. Fields that are quantities carry their unit as a suffix (``_ns``, ``_bps``,
``_bytes``, ``_share``); in a playbook they are written without it and with a unit.

* ``kind`` is the playbook's verb, and the key in :data:`REGISTRY`.
* ``scope`` says who carries it out: ``network`` faults act on a :class:`~harness.network.fabric.Fabric`
  (:meth:`NetworkFault.enter`, :meth:`ActiveFault.leave`); ``node`` and ``process`` faults only say what, and the
  engine does it.
* Some faults are *moments* (``lasting`` is False): a killed process, a lost NAT table. What they did is done, so that
  leaving them only gives the receipt.
* Leaving always heals, may be done twice, and gives the same :class:`Receipt` each time.
* Faults may overlap, also on one link and of one kind; each takes back only what is its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar

from harness.network.fabric import Fabric
from harness.network.topology import Topology, known_name

Scope = Literal["network", "node", "process"]


class FaultError(ValueError):
    """A fault that can't be: an impossible field, or a name that the topology doesn't have."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a fault did. One that touched nothing makes a run *unknown*, not passed."""

    touched: int
    """Packets dropped or altered, connections reset, mappings lost, …"""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, by fault: drops per direction, the flow's addresses, …"""


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """Something that can be broken."""

    kind: ClassVar[str]
    scope: ClassVar[Scope]
    lasting: ClassVar[bool] = True
    """Whether it holds until left; otherwise it happens once, on entering."""

    @property
    @abstractmethod
    def target(self) -> str:
        """The link, router, node, role or flow that is broken."""

    @abstractmethod
    def describe(self) -> str:
        """One sentence for people, without a full stop."""

    @abstractmethod
    def validate(self, topology: Topology) -> None:
        """Raise :class:`FaultError` where a name is not one of the topology's, with those that are."""

    def to_json(self) -> dict[str, Any]:
        """``{"kind": …, field: value, …}``, fields with their default left out; read by :func:`fault_from_json`."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {"kind": self.kind, **values, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fault:
        """The value that :meth:`to_json` of this class told."""
        named = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name != "kind"}
        unknown = sorted(set(named) - {f.name for f in fields(cls)})
        if unknown:
            raise FaultError(
                f"{cls.kind} has no field {unknown[0]!r} (known: {', '.join(f.name for f in fields(cls))})"
            )
        return cls(**named)


class ActiveFault(ABC):
    """A network fault in force."""

    def __init__(self) -> None:
        self._receipt: Receipt | None = None

    def leave(self, fabric: Fabric, now: int) -> Receipt:
        """Heal; the second and later calls only give the receipt again."""
        if self._receipt is None:
            self.heal(fabric, now)
            self._receipt = self.receipt()
        return self._receipt

    @abstractmethod
    def heal(self, fabric: Fabric, now: int) -> None:
        """Take back what the fault did. Called once."""

    @abstractmethod
    def receipt(self) -> Receipt:
        """What it has touched so far; may be asked while it is in force."""


@dataclass(frozen=True, kw_only=True)
class NetworkFault(Fault):
    """A fault of the emulated network."""

    scope: ClassVar[Scope] = "network"

    @abstractmethod
    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """Break it, from ``now`` on. Raises :class:`FaultError` where a name isn't the fabric's."""


REGISTRY: dict[str, type[Fault]] = {}
"""Kind → class, of every fault there is."""

FaultClass = TypeVar("FaultClass", bound=type[Fault])


def registered(fault: FaultClass) -> FaultClass:
    """Class decorator: make a fault known by its kind."""
    if fault.kind in REGISTRY:
        raise FaultError(f"two faults of kind {fault.kind!r}")
    REGISTRY[fault.kind] = fault
    return fault


def fault_from_json(data: Mapping[str, Any]) -> Fault:
    """The fault that ``to_json`` told; :class:`FaultError` names the kinds there are."""
    kind = str(data.get("kind", ""))
    known("fault", kind, list(REGISTRY))
    return REGISTRY[kind].from_json(data)


def known(what: str, name: str, names: list[str]) -> None:
    """Raise :class:`FaultError` unless ``name`` is one of ``names``, with a guess at what was meant."""
    try:
        known_name(what, name, names)
    except ValueError as error:
        raise FaultError(str(error)) from None


def known_link(topology: Topology, name: str) -> None:
    """Raise :class:`FaultError` unless the topology has this link."""
    known("link", name, [link.name for link in topology.links])


def known_router_with_nat(topology: Topology, name: str) -> None:
    """Raise :class:`FaultError` unless this router translates addresses."""
    known("router with NAT", name, [router.name for router in topology.routers if router.nat is not None])


def known_role(topology: Topology, name: str) -> None:
    """Raise :class:`FaultError` unless this is a role or a node."""
    known("role or node", name, [*topology.roles, *(node.name for node in topology.nodes)])


def one_of(field_name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise :class:`FaultError` unless ``value`` is allowed."""
    if value not in allowed:
        raise FaultError(f"{field_name} is {value!r}; it can be {', '.join(allowed)}")
