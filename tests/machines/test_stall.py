"""The watchdogs in virtual time, against a sender whose TCP behaves as measured in facts/rtmp.md section 2."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.machines.stall import AckProgress, BytesAccepted, Look, Watchdog

RATE = 250_000
"""Bytes per second of the stream: 2 Mbit/s."""
RTO_MARKS = [0.21 * (2**k - 1) for k in range(1, 12)]
"""After the cut TCP tries at these times: 0.21, 0.63, 1.47, 3.15, ... (measured, round trip near 0)."""


@dataclass
class Sender:
    """A sender at 2 Mbit/s over a path that is dead from ``cut`` for ``outage`` seconds."""

    cut: float
    outage: float
    buffer: int = 125_000
    zero_window: bool = False

    @property
    def resumes(self) -> float:
        """The first retransmission that gets through."""
        return next((self.cut + mark for mark in RTO_MARKS if mark >= self.outage), float("inf"))

    def look(self, now: float) -> Look:
        stuck = self.cut <= now < self.resumes
        sent = int(now * RATE)
        acked = int(self.cut * RATE) if stuck else sent
        accepted = min(sent, acked + self.buffer)
        return Look(
            accepted_bytes=accepted,
            waiting_bytes=sent - accepted,
            acked_bytes=acked,
            outstanding_bytes=accepted - acked,
            srtt=0.0001,
        )


def fires(watchdog: Watchdog, look: Callable[[float], Look], *, until: float, phase: float = 0.0) -> float | None:
    """When the watchdog first says stalled, looked at exactly when it asks to be."""
    now = phase
    watchdog.restart(now=now)
    while now < until:
        if watchdog.observe(look(now), now=now).stalled:
            return now
        assert watchdog.next_deadline() > now
        now = watchdog.next_deadline()
    return None


@pytest.mark.parametrize("outage", [0.05, 0.2, 0.3, 0.4, 0.5, 0.6])
def test_a_blip_that_tcp_repairs_within_a_second_never_fires(outage: float) -> None:
    for phase in range(20):
        sender = Sender(cut=5 + phase * 0.005, outage=outage)
        assert fires(AckProgress(), sender.look, until=30) is None
        assert fires(BytesAccepted(), sender.look, until=30) is None


@given(phase=st.floats(0, 0.1), poll=st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_a_black_hole_is_detected_within_the_threshold_and_one_poll_whatever_the_phase(
    phase: float, poll: float
) -> None:
    sender = Sender(cut=5.0, outage=60)
    at = fires(AckProgress(poll=poll), sender.look, until=30, phase=phase)
    assert at is not None
    assert 1.0 - 1e-6 <= at - sender.cut <= 1.0 + poll + 1e-6


def test_detection_spreads_over_the_poll_interval_with_the_phase_of_the_fault() -> None:
    delays = []
    for step in range(50):
        sender = Sender(cut=5 + step * 0.01, outage=60)
        at = fires(AckProgress(poll=0.5), sender.look, until=30)
        assert at is not None
        delays.append(at - sender.cut)
    assert min(delays) < 1.05
    assert max(delays) > 1.45


def test_bytes_accepted_sees_the_black_hole_only_when_the_buffer_is_full() -> None:
    small, big = (Sender(cut=5.0, outage=1e6, buffer=size) for size in (60_000, 3_900_000))
    early, late = (fires(BytesAccepted(), sender.look, until=60) for sender in (small, big))
    assert early is not None
    assert late is not None
    assert 0.24 + 1.0 <= early - 5.0 <= 0.24 + 1.5 + 1e-6
    assert 15.6 + 1.0 <= late - 5.0 <= 15.6 + 1.5 + 1e-6
    assert fires(AckProgress(), big.look, until=60) == pytest.approx(6.05, abs=0.06)


def test_a_peer_that_stopped_reading_is_seen_although_every_probe_is_answered() -> None:
    """Zero window: nothing is unacknowledged, all is unsent; SIOCOUTQ counts it, tcpi_unacked would not."""

    def look(now: float) -> Look:
        acked = int(min(now, 5.0) * RATE)
        outstanding = min(int(now * RATE) - acked, 300_000)
        waiting = int(now * RATE) - acked - outstanding
        return Look(
            accepted_bytes=acked + outstanding,
            waiting_bytes=waiting,
            acked_bytes=acked,
            outstanding_bytes=outstanding,
            srtt=0.05,
        )

    at = fires(AckProgress(), look, until=30)
    assert at is not None
    assert 6.0 <= at <= 6.11


@given(loss=st.floats(0.02, 0.3), seed=st.integers(0, 1000))
def test_a_lossy_path_with_progress_never_fires(loss: float, seed: int) -> None:
    """Every loss stops the acknowledgements for one or two retransmission marks, then they go on."""
    rng = random.Random(seed)
    progress, now = [0.0], 0.0
    while now < 40:
        now += 0.63 if rng.random() < loss else 0.02
        progress.append(now)

    def look(at: float) -> Look:
        acked = int(max(moment for moment in progress if moment <= at) * RATE)
        return Look(
            accepted_bytes=acked + 50_000,
            waiting_bytes=0,
            acked_bytes=acked,
            outstanding_bytes=50_000,
            srtt=0.03,
        )

    assert fires(AckProgress(), look, until=30) is None


def test_a_connection_with_nothing_outstanding_is_idle_not_dead() -> None:
    idle = Look(accepted_bytes=1000, waiting_bytes=0, acked_bytes=1000, outstanding_bytes=0, srtt=0.02)
    assert fires(AckProgress(), lambda _: idle, until=60) is None
    assert fires(BytesAccepted(), lambda _: idle, until=60) is None


def test_after_idling_the_age_counts_from_the_first_waiting_byte() -> None:
    def look(now: float) -> Look:
        outstanding = 0 if now < 20 else 5000
        return Look(
            accepted_bytes=1000 + outstanding,
            waiting_bytes=0,
            acked_bytes=1000,
            outstanding_bytes=outstanding,
            srtt=0.02,
        )

    at = fires(AckProgress(), look, until=60)
    assert at is not None
    assert 20.89 <= at <= 21.11


def test_a_long_round_trip_stretches_the_limit() -> None:
    """Satellite: 600 ms round trip, 4 * srtt + 500 ms = 2.9 s."""
    look = Look(accepted_bytes=9, waiting_bytes=0, acked_bytes=1, outstanding_bytes=8, srtt=0.6)
    watchdog = AckProgress()
    assert fires(watchdog, lambda _: look, until=60) == pytest.approx(2.9, abs=0.001)
    assert watchdog.observe(look, now=3.0).limit == pytest.approx(2.9)


def test_progress_ends_the_stall() -> None:
    sender = Sender(cut=5.0, outage=1.2)
    watchdog = AckProgress()
    assert fires(watchdog, sender.look, until=30) is not None
    verdict = watchdog.observe(sender.look(sender.resumes), now=sender.resumes)
    assert not verdict.stalled
    assert verdict.age == 0


def test_a_new_connection_starts_with_age_zero() -> None:
    sender = Sender(cut=5.0, outage=60)
    watchdog = AckProgress()
    fires(watchdog, sender.look, until=30)
    watchdog.restart(now=7.0)
    assert watchdog.observe(sender.look(7.0), now=7.0).age == 0


def test_the_setting_names_the_knobs_with_units() -> None:
    assert AckProgress().setting() == "--watchdog ack_progress --stall-after 1 s --poll 100 ms"
    with pytest.raises(ValueError, match="stall_after=0"):
        AckProgress(stall_after=0)
