"""How late the forwarder was, as counts in buckets that grow by a quarter: exact enough for a p99, cheap to fill."""

from __future__ import annotations

from bisect import bisect_left


def _bounds_us() -> list[int]:
    bounds = [1]
    while bounds[-1] < 20_000_000:
        bounds.append(max(bounds[-1] + 1, round(bounds[-1] * 1.25)))
    return bounds


BOUNDS_NS = [bound * 1000 for bound in _bounds_us()]


class Histogram:
    """Counts of nanosecond values; each bucket holds what is at most its bound and above the one before."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_NS) + 1)
        self.greatest = 0

    def add(self, value_ns: int) -> None:
        """Count one value. (The forwarder's innermost loop does the same by itself.)"""
        self.counts[bisect_left(BOUNDS_NS, value_ns)] += 1
        self.greatest = max(self.greatest, value_ns)

    @property
    def total(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    def quantile_us(self, share: float) -> float:
        """Upper bound of the bucket in which ``share`` of all values is reached; 0 without values."""
        wanted, seen = share * max(self.total, 1), 0
        for bound, count in zip([*BOUNDS_NS, self.greatest], self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return min(bound, self.greatest) / 1000
        return 0.0

    def to_json(self) -> dict[str, int]:
        """Bucket's upper bound in microseconds -> count, empty buckets left out."""
        names = [*(f"{bound // 1000}" for bound in BOUNDS_NS), "more"]
        return {name: count for name, count in zip(names, self.counts, strict=True) if count}
