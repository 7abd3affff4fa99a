"""What stands between the source and the connection: the gate and the queue.

Laws
----
1. On a new connection metadata and sequence headers come first, then an IDR; everything before that IDR is dropped.
2. What the connection cannot take yet waits here, not in the transport: only what waits here can still be dropped.
3. Nothing waits longer than the queue limit. When the oldest message is older, all that waits is dropped, an IDR is
   asked for, and the gate is closed until it comes: half a GOP is worth nothing to a receiver.
4. A change of connection drops what waits: it belongs to a GOP whose beginning the new connection never saw.
5. Each run of dropped pictures is told once, with its first and last number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from reference_impl.media.source import SourceMessage
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import Telemetry


class Sink(Protocol):
    """A publishing connection, as the outlet sees it."""

    def has_room(self) -> bool:
        """Whether the transport would take one more message without piling up."""

    def send(self, message: MediaMessage) -> None:
        """Hand over one message."""


class Outlet:
    """Takes the source's messages; :meth:`use` says where they go."""

    def __init__(
        self,
        *,
        headers: Callable[[], Sequence[MediaMessage]],
        request_keyframe: Callable[[str], None],
        telemetry: Telemetry,
        queue_limit: float = 2.0,
    ) -> None:
        self._headers = headers
        self._request_keyframe = request_keyframe
        self._telemetry = telemetry
        self._queue_limit = queue_limit
        self._sink: Sink | None = None
        self._queue: deque[tuple[float, MediaMessage]] = deque()
        self._gate_open = False
        self._headers_due = False
        self._dropped: tuple[int, int, str] | None = None
        self._why_closed = "no connection"
        self.queued_bytes = 0
        """Payload bytes that wait here."""

    @property
    def waiting(self) -> int:
        """Messages that wait here."""
        return len(self._queue)

    def use(self, sink: Sink) -> None:
        """From now on messages go to ``sink``; what waits for the former one is dropped."""
        self._shut("new connection: waiting for an IDR")
        self._sink = sink
        self._headers_due = True

    def detach(self, reason: str) -> None:
        """There is no connection: drop what waits and what comes."""
        self._shut(reason)
        self._sink = None

    def close(self) -> None:
        """The end: tell what was dropped last."""
        self.detach("stopped")
        self._tell_dropped()

    def offer(self, message: SourceMessage, *, now: float) -> None:
        """One message of the source; ``now`` in seconds."""
        if self._sink is None or not (self._gate_open or self.admits(message)):
            self._drop(message, self._why_closed)
            return
        if not self._gate_open:
            self._open_gate(message, now)
        self._put(message, now)
        self.flush(now=now)

    def flush(self, *, now: float) -> None:
        """Hand over what the connection takes now; drop all if the oldest has waited too long."""
        sink = self._sink
        while self._queue and sink is not None and sink.has_room():
            _, message = self._queue.popleft()
            self.queued_bytes -= len(message.payload)
            sink.send(message)
        if self._queue and now - self._queue[0][0] > self._queue_limit:
            reason = f"waited longer than --queue-limit {self._queue_limit:g} s"
            self._shut(reason)
            self._headers_due = True
            self._request_keyframe(reason)

    def admits(self, message: SourceMessage) -> bool:
        """Whether a closed gate opens for this message."""
        return message.idr

    # --- parts -------------------------------------------------------------------------------------------------

    def _open_gate(self, message: SourceMessage, now: float) -> None:
        self._tell_dropped()
        self._gate_open = True
        if self._headers_due:
            self._headers_due = False
            for header in self._headers():
                self._put(replace(header, timestamp=message.timestamp), now)

    def _put(self, message: MediaMessage, now: float) -> None:
        self._queue.append((now, message))
        self.queued_bytes += len(message.payload)

    def _shut(self, reason: str) -> None:
        for _, message in self._queue:
            self._drop(message, reason)
        self._queue.clear()
        self.queued_bytes = 0
        self._gate_open = False
        self._why_closed = reason

    def _drop(self, message: MediaMessage, reason: str) -> None:
        frame = message.frame if isinstance(message, SourceMessage) else -1
        if frame >= 0:
            first, _, told = self._dropped or (frame, frame, reason)
            self._dropped = (first, frame, told)

    def _tell_dropped(self) -> None:
        if self._dropped is not None:
            first, last, reason = self._dropped
            self._telemetry.tell("frames:dropped", first=first, last=last, reason=reason)
            self._dropped = None
