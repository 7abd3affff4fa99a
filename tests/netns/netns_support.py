"""What the tests of the netns engine share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from harness.engines.netns import Lab
from harness.network.impairments import Impairments
from harness.network.presets import PRESETS
from harness.network.topology import Topology

MakeLab = Callable[..., Awaitable[Lab]]
"""Builds a lab that is closed when the test ends."""
WITHIN_S = 10


class Events:
    """What a lab has told, and waiting for more."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, str, str, Mapping[str, Any]]] = []
        self._news = asyncio.Event()

    def __call__(self, t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        self.told.append((t_ns, node, source, name, data))
        self._news.set()

    def named(self, name: str) -> list[tuple[int, Mapping[str, Any]]]:
        """(t_ns, data) of all events with this name."""
        return [(t_ns, data) for t_ns, _, _, told, data in self.told if told == name]

    async def until(self, name: str, count: int = 1) -> Mapping[str, Any]:
        """Data of the ``count``-th event with this name, once it is there."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.named(name)) < count:
                self._news.clear()
                await self._news.wait()
        return self.named(name)[count - 1][1]


def ideal(name: str = "hotspot", *, delay_ns: int = 0) -> Topology:
    """A preset without impairments except the backhaul's delay."""
    topology = PRESETS[name]
    for link in topology.links:
        line = Impairments(delay=delay_ns if link.name == "backhaul" else 0)
        topology = topology.with_link(link.name, up=line, down=line)
    return topology
