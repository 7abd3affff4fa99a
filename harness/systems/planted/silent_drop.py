"""A publisher that throws the stalled connection away at once: its RST is lost in the very hole it flees from.

The server never learns of it and keeps a stale publisher. What that costs depends on the server's takeover rule:
nginx-rtmp as shipped refuses the newcomer ("Already publishing") for minutes, a server that lets a silent publisher
be replaced does not mind. The old connection's chance to deliver first is lost on any server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reference_impl.client import publish
from reference_impl.client.parts import PublisherParts
from reference_impl.machines.reconnect import Reconnect
from reference_impl.machines.reconnect_events import Action, ConnectionLost, Event, ResetConnection, StallDetected

DEFECT = "resets the stalled connection before a new one is up, into the hole, instead of holding it"
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "old_connection_held"


class DropsFirst(Reconnect):
    """Treats a stall as if the socket had failed by itself."""

    def handle(self, event: Event, *, now: float) -> list[Action]:
        actions = super().handle(event, now=now)
        if isinstance(event, StallDetected) and self.main == event.connection:
            actions = [*actions, ResetConnection(event.connection, "stalled")]
            actions += super().handle(ConnectionLost(event.connection, "stalled"), now=now)
        return actions


PARTS = PublisherParts(reconnect=DropsFirst)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
