"""Is this the picture that had to come next? By stamps where there are any, by decode times otherwise.

With stamps the answer is exact. Without them it is an estimate: the usual distance of decode times says how many
pictures would have fitted into a longer one, so a source that itself left out pictures looks like a loss.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal

from reference_impl.media.stamp import FrameStamp

Method = Literal["sei", "dts"]

_INTERVALS_KEPT = 15
_INTERVALS_NEEDED = 3
# A decode time this many usual intervals after the one before leaves room for at least one more picture.
_HOLE = 1.5


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where one picture stands among those before it."""

    frame: int
    """Number of the stamp, or -1."""
    method: Method
    missing: int = 0
    """Pictures that should have come before it and did not."""
    first_missing: int = -1
    """Number of the first of them: the stamp's number, or the place in the stream counted by the receiver."""
    previous: int | None = None
    """Set where the picture is out of order or comes twice: number (or place) of the newest before it."""
    replaced: bytes | None = None
    """Set where another source took over: the identity of the one before."""


class Sequence:
    """Judges the order of one stream's pictures, over any number of connections."""

    def __init__(self) -> None:
        self._source: bytes | None = None
        self._last = -1
        self._joining = False
        self._by_dts = _DecodeTimes()

    def connection_started(self) -> None:
        """The next picture is the first of a new connection: it may repeat older ones (a GOP cache)."""
        self._joining = True
        self._by_dts.restart()

    def judge(self, stamp: FrameStamp | None, *, dts_ms: int) -> Arrival:
        """Place the next picture; ``dts_ms`` is its message's time stamp."""
        if stamp is None:
            self._joining = False
            return self._by_dts.judge(dts_ms)
        source, joining = self._source, self._joining
        self._source, self._joining = stamp.source, False
        if source != stamp.source:
            self._last = stamp.frame
            return Arrival(stamp.frame, "sei", replaced=source)
        if stamp.frame <= self._last and not joining:
            return Arrival(stamp.frame, "sei", previous=self._last)
        first, self._last = self._last + 1, stamp.frame
        missing = max(0, stamp.frame - first)
        return Arrival(stamp.frame, "sei", missing, first if missing else -1)


class _DecodeTimes:
    """The estimate for streams without stamps."""

    def __init__(self) -> None:
        self._last_ms: int | None = None
        self._place = -1
        self._intervals: deque[int] = deque(maxlen=_INTERVALS_KEPT)

    def restart(self) -> None:
        """Decode times may begin anywhere."""
        self._last_ms = None

    def judge(self, dts_ms: int) -> Arrival:
        last, self._last_ms = self._last_ms, dts_ms
        if last is not None and dts_ms <= last:
            self._last_ms = last
            return Arrival(-1, "dts", previous=self._place)
        first = self._place + 1
        missing = 0 if last is None else self._missing(dts_ms - last)
        self._place = first + missing
        return Arrival(-1, "dts", missing, first if missing else -1)

    def _missing(self, interval: int) -> int:
        usual = median(self._intervals) if len(self._intervals) >= _INTERVALS_NEEDED else interval
        self._intervals.append(interval)
        return round(interval / usual) - 1 if interval > _HOLE * usual else 0
