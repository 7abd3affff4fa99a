"""How long to wait before asking again somebody who has just said no: exponential back-off with full jitter.

The ceiling starts at 0.25 s, grows by 1.5 and is capped at 8 s; the delay is drawn evenly between nothing and the
ceiling. Full jitter is what takes many clients out of step after a common outage; jitter on the first delay only
(as MentraOS has it) keeps them in step for ever, and an uncapped ceiling wastes the server's grace time.
"""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds; every call of :meth:`next_delay` raises the ceiling of the following one."""

    def __init__(self, rng: random.Random, *, start: float = 0.25, factor: float = 1.5, cap: float = 8.0) -> None:
        if not (0 < start <= cap and factor >= 1):
            raise ValueError(f"back-off needs 0 < start <= cap and factor >= 1, not {start=} {factor=} {cap=}")
        self._rng = rng
        self._start = start
        self._factor = factor
        self._cap = cap
        self._ceiling = start

    @property
    def ceiling(self) -> float:
        """The longest that the next delay can be, in seconds."""
        return self._ceiling

    def next_delay(self) -> float:
        """Seconds to wait this time."""
        delay = self._rng.uniform(0, self._ceiling)
        self._ceiling = min(self._cap, self._ceiling * self._factor)
        return delay

    def reset(self) -> None:
        """Start small again; only for who has shown that the other side takes media again."""
        self._ceiling = self._start
