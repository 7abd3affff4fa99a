"""A publisher that takes every blip for an outage, and pays a reconnect for what TCP would have repaired unseen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import ClassVar

from reference_impl.client import publish
from reference_impl.client.parts import PublisherParts
from reference_impl.machines.stall import AckProgress, Look, Watchdog

DEFECT = "calls 200 ms without an acknowledgement an outage, so that it reconnects at every blip"
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_blip_400ms"
CLAIM = "no_reconnect"


class HastyWatchdog(AckProgress):
    """Its limit is 200 ms, whatever the options and the round-trip time say."""

    name: ClassVar[str] = "ack_progress"

    def _limit(self, look: Look) -> float:
        return 0.2


def _hasty_watchdog(_name: str, _stall_after: float, _poll: float | None) -> Watchdog:
    return HastyWatchdog(stall_after=0.2, poll=0.05)


PARTS = PublisherParts(watchdog=_hasty_watchdog)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
