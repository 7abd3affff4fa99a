"""One viewer: joins at an IDR, is skipped ahead when it is slow, and never holds up the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from reference_impl.gateway.packets import GopCache, Headers, Packet
from reference_impl.gateway.settings import ViewerSettings
from reference_impl.machines.keyframe_gate import JoinGate
from reference_impl.rtmp.messages import MediaMessage


class PlayTransport(Protocol):
    """What a viewer needs of its connection."""

    @property
    def queued_bytes(self) -> int:
        """Sent by us, not taken by the kernel yet."""

    def send(self, message: MediaMessage) -> None:
        """Queue one message."""


class Viewer:
    """The sending side of one play connection."""

    def __init__(
        self,
        name: str,
        transport: PlayTransport,
        gate: JoinGate,
        settings: ViewerSettings,
        *,
        on_skipped: Callable[[Viewer, str], None],
        on_hopeless: Callable[[Viewer, str], None],
    ) -> None:
        self.name = name
        self.transport = transport
        self._gate = gate
        self._settings = settings
        self._on_skipped = on_skipped
        self._on_hopeless = on_hopeless
        self._full_since: float | None = None

    def join(self, headers: Headers, gop: GopCache, *, timestamp: int) -> None:
        """Send what was before: metadata and headers, and the pictures since the last IDR.

        ``timestamp`` is that of the stream's newest packet, in ms; headers without pictures get it.
        """
        begins = gop.packets[0].message.timestamp if gop.packets else timestamp
        for packet in headers.packets(timestamp=begins):
            self.transport.send(packet.message)
        for packet in gop.packets:
            if self._gate.passes(packet.kind):
                self.transport.send(packet.message)

    def give(self, packets: Iterable[Packet], *, has_video: bool, now: float) -> None:
        """Send live packets, unless the queue is full."""
        queued = self.transport.queued_bytes
        if queued > self._settings.queue_bytes:
            self._full(queued, now=now)
            return
        if self._full_since is not None and queued > self._settings.queue_bytes // 2:
            return
        self._full_since = None
        for packet in packets:
            if self._gate.passes(packet.kind, has_video=has_video):
                self.transport.send(packet.message)

    def _full(self, queued: int, *, now: float) -> None:
        if self._full_since is None:
            self._full_since = now
            self._gate.skip()
            self._on_skipped(self, f"skipped to the next IDR: {queued} bytes queued")
        elif now - self._full_since >= self._settings.give_up_after:
            self._on_hopeless(self, f"disconnected: its queue was full for {self._settings.give_up_after:g} s")
