"""The one timer that a sans-IO machine needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at a deadline that moves.

    A deadline that moves into the future, as it does with each media packet, costs nothing: the timer that is set
    already fires, finds nothing due, and is set anew.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, deadline: float | None) -> None:
        """Call back at ``deadline`` of the running loop's clock, or earlier; ``None``: not at all."""
        if deadline is None:
            self.cancel()
            return
        if self._handle is not None and self._handle.when() <= deadline:
            return
        self.cancel()
        self._handle = asyncio.get_running_loop().call_at(deadline, self._fire)

    def cancel(self) -> None:
        """Do not call back."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._callback()
