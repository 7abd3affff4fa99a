"""What travels over an RTMP connection once it publishes or plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MediaKind = Literal["audio", "video", "script"]


@dataclass(frozen=True, slots=True)
class MediaMessage:
    """One audio, video or script (metadata) message; ``payload`` is an FLV tag body."""

    kind: MediaKind
    timestamp: int
    """Decode time in milliseconds, unwrapped: grows beyond 2**32 instead of rolling over."""
    payload: bytes
