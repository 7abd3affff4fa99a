"""When a TCP sender that waits through an outage will speak again: its next retransmission mark.

After a cut at time ``c`` the retransmission timer fires at ``T_k = RTO0 * (2^k - 1)`` (measured at RTT ~ 0: 0.21, 0.63,
1.46, 3.1, 6.6, 13.3, 26.6 s after the cut; RFC 6298 (5.5) doubling, Linux's ceiling 120 s). Nothing is sent in
between, so a heal at ``h`` shows only at the first mark after ``h``: up to twice the outage's length. A limit that is
counted from the heal alone would fail a correct TCP.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.checks.circumstances import milliseconds
from harness.history.events import Event
from harness.history.query import History
from harness.units import MILLISECOND, SECOND

RTO_MAX = 120 * SECOND
"""Linux's TCP_RTO_MAX."""

AFTER_THE_MARK = 100 * MILLISECOND
"""From the retransmission to the first frame: the stack's and the receiver's own time."""

_ROUND_TRIPS = 4
"""Slow start begins again with one segment, so that a frame of some 10 segments takes four round trips."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The first moment after a heal at which a waiting sender retransmits, at the latest."""

    at: int
    round_trip: int
    sample: Event
    """The ``tcp:sampled`` that it was computed from."""

    def limit(self, slack: int) -> int:
        """Until when the first frame must have arrived."""
        return self.at + AFTER_THE_MARK + _ROUND_TRIPS * self.round_trip + slack


def next_mark(history: History, *, fault_start: int, heal: int) -> Mark | None:
    """The mark after ``heal`` of the connection that the publisher held since ``fault_start``; None without samples.

    The last retransmission is known as well as the samples are dense: it happened before the first sample that shows
    the current back-off, so the mark is at most one sampling period too late, never too early. Before the first
    retransmission the timer runs from the last acknowledgement, which came no later than that sample or the cut.
    """
    samples = history.named("tcp:sampled", source="publisher", before=heal)
    if not samples:
        return None
    last = samples[-1]
    same = [sample for sample in samples if sample.t_ns >= fault_start and _same_state(sample, last)]
    since = same[0].t_ns if last.data["backoff"] and same else max(last.t_ns, fault_start)
    rto = max(milliseconds(last.data["rto_ms"]), 1)
    mark = since + rto
    while mark < heal:
        rto = min(2 * rto, RTO_MAX)
        mark += rto
    return Mark(mark, milliseconds(last.data["srtt_ms"]), last)


def _same_state(sample: Event, last: Event) -> bool:
    return all(sample.data[field] == last.data[field] for field in ("connection", "backoff"))
