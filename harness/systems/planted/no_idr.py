"""A publisher that goes on after a reconnect where it was, in the middle of a GOP (MentraOS M14, StreamPack)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from reference_impl.client import publish
from reference_impl.client.outlet import Outlet
from reference_impl.client.parts import OnMessage, PublisherParts, Source, make_source
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.source import SourceMessage
from reference_impl.rtmp.messages import MediaMessage

DEFECT = "reconnects without asking its encoder for an IDR, and sends whatever picture comes next"
ROLE = "publisher"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "keyframe_first"


class UngatedOutlet(Outlet):
    """Lets any picture be the first on a connection."""

    def admits(self, message: SourceMessage) -> bool:
        return message.kind == "video"


class DeafSource:
    """Passes no request for an IDR on; its encoder makes one at its own interval only."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.start = source.start
        self.stop = source.stop

    def request_keyframe(self, reason: str) -> None:
        """Ignored: that is the defect."""

    def sequence_headers(self) -> Sequence[MediaMessage]:
        return self._source.sequence_headers()


def _deaf_source(
    settings: SourceSettings, media: Path | None, on_message: OnMessage, loop: asyncio.AbstractEventLoop
) -> Source:
    return DeafSource(make_source(settings, media, on_message, loop))


PARTS = PublisherParts(outlet=UngatedOutlet, source=_deaf_source)


def main(argv: Sequence[str] | None = None) -> int:
    """The publisher with this defect."""
    return publish.main(argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
