"""What a peer may make us hold in memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes. An IDR of 4K video is below 2 MB, so nothing that streams comes near the defaults."""

    message_bytes: int = 8 * 1024 * 1024
    """One message, as its header announces it."""
    unfinished_bytes: int = 16 * 1024 * 1024
    """All messages of which only a part has arrived, together."""
    chunk_streams: int = 64
    """Chunk stream ids that the peer may use; real peers use fewer than ten."""
    message_streams: int = 16
    """``createStream`` calls of one connection."""


DEFAULT_LIMITS = Limits()
