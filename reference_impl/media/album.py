"""Pictures kept for the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import av

from reference_impl.media.decode import Picture
from reference_impl.telemetry import Telemetry

Moment = Literal["first", "before_freeze", "after_freeze"]

log = logging.getLogger(__name__)


class Album:
    """Writes pictures as small JPEG files into ``directory`` and tells of each."""

    def __init__(self, directory: Path, telemetry: Telemetry) -> None:
        self._directory = directory
        self._telemetry = telemetry
        self._saved = 0

    def save(self, picture: Picture, *, frame: int, moment: Moment) -> None:
        """Keep one picture. A full disk costs the picture, not the program: it is only logged."""
        path = self._directory / f"{self._saved:03d}-{moment}-{frame}.jpg"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.encoded("jpeg"))
        except (OSError, av.FFmpegError) as error:
            log.warning("picture %s not saved: %s", path, error)
            return
        self._saved += 1
        self._telemetry.tell("picture:saved", frame=frame, path=str(path), moment=moment)
