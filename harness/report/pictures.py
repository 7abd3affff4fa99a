"""Pictures that the receivers saved, embedded so that the page stands alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

_MOST_BYTES_EACH = 400_000
_MOST_BYTES_TOGETHER = 8_000_000
_SIGNATURES: Mapping[bytes, str] = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Album:
    """Embeds pictures while there is room for them."""

    def __init__(self) -> None:
        self._left = _MOST_BYTES_TOGETHER

    def embed(self, path: str, *, run_dir: Path | None) -> str | None:
        """A ``data:`` address, or None for a picture that is missing, too large, or no JPEG or PNG."""
        if run_dir is None:
            return None
        try:
            with (run_dir / path).open("rb") as file:
                content = file.read(_MOST_BYTES_EACH + 1)
        except (OSError, ValueError):
            return None
        kind = next((kind for signature, kind in _SIGNATURES.items() if content.startswith(signature)), None)
        if kind is None or len(content) > min(_MOST_BYTES_EACH, self._left):
            return None
        self._left -= len(content)
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"
