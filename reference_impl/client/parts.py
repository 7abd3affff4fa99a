"""What a publisher is made of: a dataclass of factories, so that a variant is a composition and not a switch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reference_impl.client.outlet import Outlet
from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect import Reconnect, ReconnectSettings
from reference_impl.machines.stall import AckProgress, BytesAccepted, Watchdog
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.file_source import media_file_source
from reference_impl.media.source import LiveSource, SourceMessage
from reference_impl.rtmp.endpoint import PublishConnection, PublishListener
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl

OnMessage = Callable[[SourceMessage], None]

WATCHDOGS: dict[str, type[AckProgress] | type[BytesAccepted]] = {
    AckProgress.name: AckProgress,
    BytesAccepted.name: BytesAccepted,
}


class Source(Protocol):
    """Where media come from."""

    def start(self) -> None:
        """Begin; the media clock never starts again afterwards."""

    def stop(self) -> None:
        """No more messages; idempotent."""

    def request_keyframe(self, reason: str) -> None:
        """The next picture shall be an IDR with parameter sets."""

    def sequence_headers(self) -> Sequence[MediaMessage]:
        """Metadata and codec headers, to be sent first on every connection."""


def make_source(
    settings: SourceSettings, media: Path | None, on_message: OnMessage, loop: asyncio.AbstractEventLoop
) -> Source:
    """The test picture, or the user's media file."""
    if media is None:
        return LiveSource(settings, on_message, loop=loop)
    return media_file_source(settings, media, on_message, loop=loop)


def make_watchdog(name: str, stall_after: float, poll: float | None) -> Watchdog:
    """One of :data:`WATCHDOGS`; without ``poll`` at its own interval. Durations in seconds."""
    kind = WATCHDOGS[name]
    return kind(stall_after=stall_after) if poll is None else kind(stall_after=stall_after, poll=poll)


def make_connection(url: RtmpUrl, listener: PublishListener) -> PublishConnection:
    """One RTMP connection, not started."""
    return PublishConnection(url, listener)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherParts:
    """Factories; replace one to get a variant of the publisher."""

    source: Callable[[SourceSettings, Path | None, OnMessage, asyncio.AbstractEventLoop], Source] = make_source
    watchdog: Callable[[str, float, float | None], Watchdog] = make_watchdog
    reconnect: Callable[[ReconnectSettings, Backoff], Reconnect] = Reconnect
    outlet: type[Outlet] = Outlet
    connection: Callable[[RtmpUrl, PublishListener], PublishConnection] = make_connection
