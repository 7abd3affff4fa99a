"""A publisher that says "stopped" while it reconnects (MentraOS M3): apps take the word for the end, and end it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from reference_impl.client import publish
from reference_impl.client.parts import PublisherParts
from reference_impl.machines.reconnect import Reconnect
from reference_impl.machines.reconnect_events import Action, Event, Tell

DEFECT = 'says "stopped" where it should say "reconnecting"'
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "never_stopped"


class SaysStopped(Reconnect):
    """Decides like the real one; only the word is wrong."""

    def handle(self, event: Event, *, now: float) -> list[Action]:
        return [_reworded(action) for action in super().handle(event, now=now)]


def _reworded(action: Action) -> Action:
    if isinstance(action, Tell) and action.data.get("status") == "reconnecting":
        return replace(action, data={**action.data, "status": "stopped"})
    return action


PARTS = PublisherParts(reconnect=SaysStopped)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
