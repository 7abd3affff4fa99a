"""Milliseconds of 32 bits on the wire, integers that grow beyond them in the program.

RTMP time rolls over every 49.7 days, and at once for a publisher whose clock starts near the end.
"""

from __future__ import annotations

WRAP = 1 << 32
_HALF = 1 << 31


def wrap(timestamp: int) -> int:
    """The 32 bits of ``timestamp`` that stand on the wire."""
    return timestamp & (WRAP - 1)


class TimestampUnwrapper:
    """Takes each wire timestamp for the value next to the one before, in either direction.

    Zeros at the beginning say nothing about the epoch: metadata and sequence headers carry 0 also in a stream that
    has been running for weeks.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def unwrap(self, timestamp: int) -> int:
        """``timestamp`` (0..2**32-1) as an integer that goes on growing where the wire rolls over."""
        last = self._last
        if last == 0:
            self._last = timestamp
            return timestamp
        self._last = last + (timestamp - last + _HALF) % WRAP - _HALF
        return self._last
