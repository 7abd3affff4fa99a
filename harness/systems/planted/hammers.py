"""A publisher that dials every 20 ms while it has no path: a thousand of them are an attack on their own server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from reference_impl.client import publish
from reference_impl.client.parts import PublisherParts
from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect import Reconnect, ReconnectSettings

DEFECT = "opens a new connection every 20 ms while it reconnects"
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "attempts_bounded"


def _hammer(settings: ReconnectSettings, backoff: Backoff) -> Reconnect:
    return Reconnect(replace(settings, attempt_every=0.02), backoff)


PARTS = PublisherParts(reconnect=_hammer)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
