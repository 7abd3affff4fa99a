"""The netns engine as the runner knows it."""

from __future__ import annotations

from pathlib import Path

from harness.engines.netns.lab import Lab
from harness.engines.netns.process import EventSink
from harness.network.topology import Topology


class NetnsEngine:
    """Real processes with real kernel stacks, in namespaces of this machine."""

    name = "netns"

    async def up(self, topology: Topology, *, seed: int, run_dir: Path, on_event: EventSink, capture: bool) -> Lab:
        """Build a lab; raises :class:`harness.errors.HarnessError` with the cure where this machine does not let us."""
        return await Lab.up(topology, seed=seed, run_dir=run_dir, on_event=on_event, capture=capture)
