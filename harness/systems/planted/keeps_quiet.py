"""A publisher that goes on saying "live" while it reconnects: its user speaks to nobody and does not know it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reference_impl.client import publish
from reference_impl.client.parts import PublisherParts
from reference_impl.machines.reconnect import Reconnect
from reference_impl.machines.reconnect_events import Action, Event, Tell

DEFECT = 'never says "reconnecting"'
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "status_seen"


class SaysNothing(Reconnect):
    """Decides like the real one, and keeps it to itself."""

    def handle(self, event: Event, *, now: float) -> list[Action]:
        return [action for action in super().handle(event, now=now) if not _of_reconnecting(action)]


def _of_reconnecting(action: Action) -> bool:
    return isinstance(action, Tell) and action.data.get("status") == "reconnecting"


PARTS = PublisherParts(reconnect=SaysNothing)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
