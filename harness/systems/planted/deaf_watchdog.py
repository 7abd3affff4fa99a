"""A publisher that trusts TCP to tell when the path is gone; in a black hole TCP takes 939 s (measured)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reference_impl.client import publish
from reference_impl.client.parts import PublisherParts, make_watchdog
from reference_impl.machines.stall import Look, Verdict, Watchdog

DEFECT = "has a watchdog that never fires, so that it learns of a dead path only when TCP gives up"
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "outage_detected"


class DeafWatchdog:
    """Measures like the real one, and never says stalled."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.name = watchdog.name
        self.restart = watchdog.restart
        self.next_deadline = watchdog.next_deadline
        self.setting = watchdog.setting
        self._watchdog = watchdog

    def observe(self, look: Look, *, now: float) -> Verdict:
        """The real verdict, without the stall."""
        verdict = self._watchdog.observe(look, now=now)
        return Verdict(False, verdict.age, verdict.limit)


def _deaf_watchdog(name: str, stall_after: float, poll: float | None) -> Watchdog:
    return DeafWatchdog(make_watchdog(name, stall_after, poll))


PARTS = PublisherParts(watchdog=_deaf_watchdog)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
