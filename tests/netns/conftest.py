"""Labs for tests: skipped with the reason where this machine has no namespaces for us."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from netns_support import Events, MakeLab, ideal

from harness.engines.netns import Lab
from harness.engines.netns.probes import denial
from harness.network.topology import Topology


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips where labs cannot be made."""
    if denial(rootless=True) and denial(rootless=False):
        pytest.skip(f"no namespaces: {denial(rootless=True)}")


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def make_lab(namespaces: None, events: Events, tmp_path: Path) -> AsyncIterator[MakeLab]:
    """Labs that are closed when the test ends."""
    labs: list[Lab] = []

    async def make(topology: Topology | None = None, **options: Any) -> Lab:
        lab = await Lab.up(topology or ideal(), seed=1, run_dir=tmp_path, on_event=events, **options)
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        await lab.close()
