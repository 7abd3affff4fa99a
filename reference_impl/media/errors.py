"""The one exception of this room."""

from __future__ import annotations


class MediaError(ValueError):
    """Bytes that are not the media they claim to be, or a file that cannot be read; the message says which."""
