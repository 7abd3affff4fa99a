"""The back-off: grows, is capped, is fully jittered, starts anew only when told to."""

from __future__ import annotations

import random

import pytest

from reference_impl.machines.backoff import Backoff


def test_the_ceiling_grows_by_half_and_stops_at_the_cap() -> None:
    backoff = Backoff(random.Random(1))
    ceilings = []
    for _ in range(12):
        ceilings.append(backoff.ceiling)
        backoff.next_delay()
    assert ceilings[:4] == [0.25, 0.375, 0.5625, 0.84375]
    assert ceilings[-1] == backoff.ceiling == 8.0


def test_delays_fill_the_whole_range_below_the_ceiling() -> None:
    delays = [Backoff(random.Random(seed), start=1.0).next_delay() for seed in range(200)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95
    assert 0.4 < sum(delays) / len(delays) < 0.6


def test_no_delay_is_longer_than_its_ceiling_even_after_a_thousand_refusals() -> None:
    backoff = Backoff(random.Random(7))
    for _ in range(1000):
        ceiling = backoff.ceiling
        assert 0 <= backoff.next_delay() <= ceiling <= 8.0


def test_after_a_reset_it_starts_small_again() -> None:
    backoff = Backoff(random.Random(3))
    for _ in range(9):
        backoff.next_delay()
    backoff.reset()
    assert backoff.ceiling == 0.25


def test_the_same_seed_gives_the_same_delays() -> None:
    first, second = Backoff(random.Random(42)), Backoff(random.Random(42))
    assert [first.next_delay() for _ in range(20)] == [second.next_delay() for _ in range(20)]


@pytest.mark.parametrize("wrong", [{"start": 0.0}, {"start": 9.0}, {"factor": 0.5}])
def test_a_senseless_setting_is_refused_with_its_value(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Backoff(random.Random(0), **wrong)
