"""A small internet as a frozen value: nodes, routers, links, who plays which role, and a picture.

Addresses follow from the order of the links alone. Link number *i* has

* ``198.18.<i>.0/24`` (RFC 2544's range: never routed on a real network), or ``192.168.<43 + i>.0/24`` where it lies
  behind a NAT;
* ``2001:db8:0:<i>::/64`` in any case: IPv6 is routed end to end, without NAT.

On each link endpoint ``a`` (the edge) has host number 2 and endpoint ``b`` (the core side) has 1. **Up** is from
``a`` to ``b``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from harness.network.impairments import DEFAULT_MTU, UNIMPAIRED, Impairments
from harness.network.nat_settings import NatSettings

DOMAIN = "test"
EDGE_HOST = 2
CORE_HOST = 1
_FIRST_PRIVATE = 43


class UnknownNameError(ValueError):
    """A link, node, router or role that the topology does not have; the message lists those that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host. Its interfaces follow from the links that end at it, in the order of the links."""

    name: str
    interfaces: Mapping[str, str] = field(default_factory=dict)
    """Link → interface name, where it shall not be eth0, eth1, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """A router; with ``nat`` it translates IPv4 that leaves over the link ``outside``."""

    name: str
    nat: NatSettings | None = None
    outside: str = ""
    pmtu_black_hole: bool = False
    """Drop what is too big without telling the sender (a firewall that eats ICMP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """A link between ``a`` (towards the edge) and ``b`` (towards the core), each the name of a node or router."""

    name: str
    a: str
    b: str
    up: Impairments = UNIMPAIRED
    """From ``a`` to ``b``."""
    down: Impairments = UNIMPAIRED
    profile: str = ""
    """Where the numbers come from: a name in ``profiles.PROFILES``, or a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What an engine needs to make one network device of a node."""

    node: str
    name: str
    """Device name inside the node: ``wlan0``, ``eth0``."""
    link: str
    port: str
    """Key in ``Fabric.ports``: ``"phone/wlan0"``."""
    ipv4: IPv4Interface
    ipv6: IPv6Interface
    gateway4: IPv4Address
    """Next hop of the default route; answers pings."""
    gateway6: IPv6Address
    metric: int
    """Of the default routes: the node's first interface has the lowest."""
    mtu: int = DEFAULT_MTU


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Frozen; :meth:`with_link` gives a changed copy."""

    name: str
    why: str
    nodes: tuple[Node, ...]
    routers: tuple[RouterSpec, ...]
    links: tuple[LinkSpec, ...]
    roles: Mapping[str, str]
    """Role (publisher, gateway, viewer, viewer2, destination) → node."""
    picture: str

    def __post_init__(self) -> None:
        ends = [n.name for n in self.nodes] + [r.name for r in self.routers]
        for names in (ends, [link.name for link in self.links]):
            if len(set(names)) != len(names):
                raise ValueError(f"topology {self.name}: a name is used twice in {', '.join(names)}")
        for link in self.links:
            for end in (link.a, link.b):
                known_name("node or router", end, ends)
        for node in self.roles.values():
            self.node(node)
        for router in self.routers:
            if router.nat is not None and self.link(router.outside).a != router.name:
                raise ValueError(f"topology {self.name}: the outside link of NAT {router.name} must have it as end a")
        for node_ in self.nodes:
            self._check_node(node_)

    def _check_node(self, node: Node) -> None:
        mine = [link for link in self.links if node.name in (link.a, link.b)]
        routers = {r.name for r in self.routers}
        if not mine or any(link.a != node.name or link.b not in routers for link in mine):
            raise ValueError(
                f"topology {self.name}: node {node.name} needs at least one link, as its end a, to a router at end b"
            )

    # --- look-up by name, with help ------------------------------------------------------------------------

    def link(self, name: str) -> LinkSpec:
        """The link of that name; :class:`UnknownNameError` names those there are."""
        known_name("link", name, [link.name for link in self.links])
        return next(link for link in self.links if link.name == name)

    def node(self, name: str) -> Node:
        """The node of that name."""
        known_name("node", name, [node.name for node in self.nodes])
        return next(node for node in self.nodes if node.name == name)

    def router(self, name: str) -> RouterSpec:
        """The router of that name."""
        known_name("router", name, [router.name for router in self.routers])
        return next(router for router in self.routers if router.name == name)

    def node_of(self, role_or_node: str) -> str:
        """The node that plays a role; a node's own name stands for itself."""
        if role_or_node in self.roles:
            return self.roles[role_or_node]
        known_name("role or node", role_or_node, [*self.roles, *(node.name for node in self.nodes)])
        return role_or_node

    # --- what engines need ---------------------------------------------------------------------------------

    def interfaces(self, node: str) -> tuple[Interface, ...]:
        """The network devices of one node, the preferred default route first."""
        spec = self.node(node)
        mine = [link for link in self.links if link.a == node]
        return tuple(self._interface(spec, link, place) for place, link in enumerate(mine))

    def _interface(self, node: Node, link: LinkSpec, place: int) -> Interface:
        name = node.interfaces.get(link.name, f"eth{place}")
        return Interface(
            node=node.name,
            name=name,
            link=link.name,
            port=f"{node.name}/{name}",
            ipv4=self.ipv4(link.name, EDGE_HOST),
            ipv6=self.ipv6(link.name, EDGE_HOST),
            gateway4=self.ipv4(link.name, CORE_HOST).ip,
            gateway6=self.ipv6(link.name, CORE_HOST).ip,
            metric=100 * (place + 1),
        )

    def hosts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Lines of a hosts file: address, names. ``gateway.test`` is IPv4 alone, ``gateway.ipv6.test`` IPv6.

        One name with both addresses would make every program prefer IPv6 (RFC 6724), past all NATs.
        """
        lines: list[tuple[str, tuple[str, ...]]] = []
        for node in self.nodes:
            first = self.interfaces(node.name)[0]
            lines.append((str(first.ipv4.ip), (f"{node.name}.{DOMAIN}",)))
            lines.append((str(first.ipv6.ip), (f"{node.name}.ipv6.{DOMAIN}",)))
        return tuple(lines)

    def address_names(self) -> dict[bytes, str]:
        """Packed address → node or router, for people."""
        names: dict[bytes, str] = {}
        for link in reversed(self.links):
            for end, host in ((link.b, CORE_HOST), (link.a, EDGE_HOST)):
                names[self.ipv4(link.name, host).ip.packed] = end
                names[self.ipv6(link.name, host).ip.packed] = end
        return names

    def ipv4(self, link: str, host: int) -> IPv4Interface:
        """The IPv4 address of host number ``host`` on a link, with its prefix."""
        number = self._numbers[link]
        if link in self.private_links:
            return IPv4Interface(f"192.168.{_FIRST_PRIVATE + number}.{host}/24")
        return IPv4Interface(f"198.18.{number}.{host}/24")

    def ipv6(self, link: str, host: int) -> IPv6Interface:
        """The IPv6 address of host number ``host`` on a link, with its prefix."""
        return IPv6Interface(f"2001:db8:0:{self._numbers[link]:x}::{host:x}/64")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {link.name: number for number, link in enumerate(self.links)}

    @cached_property
    def private_links(self) -> frozenset[str]:
        """Links behind a NAT: every link that hangs on a NAT router, or on what is below it, but its outside."""
        private: set[str] = set()
        inside = [router.name for router in self.routers if router.nat is not None]
        while inside:
            name = inside.pop()
            for link in self.links:
                if link.b == name and link.name not in private:
                    private.add(link.name)
                    inside.append(link.a)
        return frozenset(private)

    # --- other values from this one ------------------------------------------------------------------------

    def with_link(self, name: str, *, up: Impairments | None = None, down: Impairments | None = None) -> Topology:
        """The same topology with one link's impairments replaced (None keeps a direction)."""
        old = self.link(name)
        new = replace(old, up=up or old.up, down=down or old.down, profile=f"{old.profile} (changed)".strip())
        return replace(self, links=tuple(new if link is old else link for link in self.links))


def known_name(kind: str, name: str, known: list[str]) -> None:
    """Raise :class:`UnknownNameError` unless ``name`` is one of ``known``."""
    if name in known:
        return
    close = get_close_matches(name, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    raise UnknownNameError(f"unknown {kind} {name!r}{guess} (known: {', '.join(sorted(set(known)))})")
