"""One TCP connection of the publisher with its number: the connection's listener, and the outlet's sink."""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

from reference_impl.media.source import SourceMessage
from reference_impl.rtmp.endpoint import PublishConnection
from reference_impl.rtmp.messages import MediaMessage

log = logging.getLogger(__name__)

_ROOM_BYTES = 65_536
"""How much may wait in the transport's buffer before messages wait in the outlet, where they can be dropped."""


class LineOwner(Protocol):
    """Who hears what happens on a line."""

    def publish_started(self, line: Line, /) -> None:
        """The server takes the stream."""

    def publish_refused(self, line: Line, code: str, description: str, /) -> None:
        """The server does not take the stream, or no longer."""

    def connection_lost(self, line: Line, error: Exception | None, /) -> None:
        """The connection is gone, by our doing or not."""


class Line:
    """``connection`` is set by the owner, before anything else is asked of the line. Times in seconds."""

    connection: PublishConnection

    def __init__(self, number: int, attempt: int, owner: LineOwner, *, opened_at: float) -> None:
        self.number = number
        self.attempt = attempt
        self.opened_at = opened_at
        self.started_at = opened_at
        """When RTMP began."""
        self.let_go = False
        """We ended it: its end is no news."""
        self._owner = owner
        self._unacked: deque[tuple[int, int]] = deque()

    # --- sink --------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether the transport would take one more message without piling up."""
        return self.connection.queued_bytes < _ROOM_BYTES

    def send(self, message: MediaMessage) -> None:
        """Hand over one message; on a connection that is just going it is lost, and counted as unacknowledged."""
        try:
            self.connection.send(message)
        except ConnectionError as error:
            log.info("connection %d takes no more media: %s", self.number, error)
        if isinstance(message, SourceMessage) and message.frame >= 0:
            self._unacked.append((self.connection.written_bytes, message.frame))

    def acknowledge(self, acked_bytes: int) -> None:
        """The peer's kernel has the first ``acked_bytes`` of the stream: forget the pictures in them."""
        while self._unacked and self._unacked[0][0] <= acked_bytes:
            self._unacked.popleft()

    def unacknowledged(self) -> tuple[int, int] | None:
        """First and last picture that were sent and not acknowledged when last looked; None if there is none."""
        return (self._unacked[0][1], self._unacked[-1][1]) if self._unacked else None

    # --- listener ----------------------------------------------------------------------------------------------

    def publish_started(self, _connection: PublishConnection, /) -> None:
        """RTMP: the server takes the stream."""
        self._owner.publish_started(self)

    def publish_refused(self, _connection: PublishConnection, code: str, description: str, /) -> None:
        """RTMP: the server does not take the stream, or no longer."""
        self._owner.publish_refused(self, code, description)

    def connection_lost(self, _connection: PublishConnection, exc: Exception | None, /) -> None:
        """TCP: it is over."""
        self._owner.connection_lost(self, exc)
