"""Routes of a topology's routers: for each prefix the first step of a shortest path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from harness.network.link import Direction
from harness.network.router import Route
from harness.network.topology import CORE_HOST, EDGE_HOST, LinkSpec, Topology

Out = Callable[[LinkSpec, str], Direction]
"""The direction of a link that leads away from one of its ends."""


def routes_of(topology: Topology, router: str, out: Out) -> list[Route]:
    """Every prefix that the router can reach. IPv4 never enters what lies behind a NAT from outside."""
    routes = []
    for link, first in _reach(topology, router, through_nat=True).items():
        routes.append(_route(topology, router, link, 6, out(topology.link(first), router)))
    for link, first in _reach(topology, router, through_nat=False).items():
        routes.append(_route(topology, router, link, 4, out(topology.link(first), router)))
    return routes


def _reach(topology: Topology, start: str, *, through_nat: bool) -> dict[str, str]:
    """Link → the link that a shortest path to it begins with, breadth first and in the topology's order."""
    routers = {router.name: router for router in topology.routers}
    first: dict[str, str] = {}
    seen = {start}
    waiting: deque[tuple[str, str | None]] = deque([(start, None)])
    while waiting:
        name, via = waiting.popleft()
        for link in topology.links:
            if name not in (link.a, link.b):
                continue
            first.setdefault(link.name, via or link.name)
            other = link.b if link.a == name else link.a
            if other not in routers or other in seen:
                continue
            entered_from_outside = routers[other].nat is not None and routers[other].outside == link.name
            if through_nat or not entered_from_outside:
                seen.add(other)
                waiting.append((other, via or link.name))
    return first


def _route(topology: Topology, router: str, link: str, version: int, out: Direction) -> Route:
    address = topology.ipv4 if version == 4 else topology.ipv6
    network = address(link, CORE_HOST).network
    # The edge end of a link knows that only the core end is there; the core end leaves it to the edge.
    at_edge = topology.link(link).a == router
    only = frozenset({address(link, CORE_HOST).ip.packed, address(link, EDGE_HOST).ip.packed}) if at_edge else None
    return Route(version, int(network.network_address), network.prefixlen, out, only)
