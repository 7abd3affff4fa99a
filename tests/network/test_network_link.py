"""The laws of one direction of a link, each tried against many histories."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_kit import MS, SECOND, Line

from harness.network.impairments import UNIMPAIRED, Impairments
from harness.network.loss import BernoulliLoss, DropList, GilbertElliott, LossModel, loss_from_json

LOSSES: list[LossModel | None] = [
    None,
    BernoulliLoss(0.2),
    GilbertElliott(good_to_bad=0.1, bad_to_good=0.4),
    DropList((0, 3, 4)),
]


@st.composite
def impairments(draw: st.DrawFn, *, ordered: bool = False) -> Impairments:
    delay = draw(st.integers(0, 50 * MS))
    rate = draw(st.none() | st.integers(100_000, 50_000_000))
    queue = draw(st.none() | st.integers(0, 60_000)) if rate else None
    share = st.sampled_from([0.0, 0.3])
    return Impairments(
        delay=delay,
        jitter=draw(st.integers(0, delay)),
        jitter_correlation=draw(st.sampled_from([0.0, 0.5])),
        reorder_allowed=False if ordered else draw(st.booleans()),
        rate=rate,
        queue_bytes=queue,
        loss=draw(st.sampled_from(LOSSES)),
        duplicate=draw(share),
        reorder=0.0 if ordered else draw(share),
        corrupt=draw(share),
    )


sendings = st.lists(st.tuples(st.integers(0, 5 * MS), st.integers(28, 1600)), max_size=60)


def send_all(line: Line, sending: list[tuple[int, int]], *, start: int = 0) -> int:
    """Send packets of the given sizes with the given pauses, delivering what is due in between."""
    now = start
    for pause, size in sending:
        now += pause
        line.run(now)
        line.send(size, now)
    return now


@given(impairments(), sendings)
def test_every_packet_is_delivered_or_queued_or_dropped_with_a_reason(
    how: Impairments, sending: list[tuple[int, int]]
) -> None:
    line = Line(how)
    send_all(line, sending)
    direction = line.direction
    assert direction.offered + len(line.refused) == len(sending)
    assert direction.offered + direction.duplicated == len(line.arrived) + len(line.dropped) + direction.in_flight
    line.run()
    assert direction.in_flight == 0
    assert direction.offered + direction.duplicated == len(line.arrived) + len(line.dropped)
    assert direction.delivered == len(line.arrived)
    assert all(reason in ("loss", "queue_full") for _, reason in line.dropped)


@given(impairments(ordered=True), sendings)
def test_packets_keep_their_order_unless_reordering_is_asked_for(
    how: Impairments, sending: list[tuple[int, int]]
) -> None:
    line = Line(how)
    send_all(line, sending)
    line.run()
    place = {id(packet): number for number, packet in enumerate(line.sent)}
    originals = [place[id(packet)] for _, packet in line.arrived if id(packet) in place]
    assert originals == sorted(originals)
    times = [due for due, _ in line.arrived]
    assert times == sorted(times)


@given(st.integers(50_000, 20_000_000), sendings, st.none() | st.integers(0, 100_000))
def test_the_rate_is_never_exceeded_over_any_window(
    rate: int, sending: list[tuple[int, int]], queue: int | None
) -> None:
    line = Line(Impairments(rate=rate, queue_bytes=queue))
    send_all(line, sending)
    line.run()
    for first in range(len(line.arrived)):
        bits = 0
        for due, packet in line.arrived[first + 1 :]:
            bits += packet.length * 8
            assert bits * SECOND <= rate * (due - line.arrived[first][0])


@given(impairments(), sendings, st.integers(0, 3))
def test_the_same_seed_gives_the_same_fates(how: Impairments, sending: list[tuple[int, int]], seed: int) -> None:
    one, two = Line(how, seed=seed), Line(how, seed=seed)
    for line in (one, two):
        send_all(line, sending)
        line.run()
    assert one.fates() == two.fates()
    assert [p.raw for p in one.sent] == [p.raw for p in two.sent]


def test_another_seed_or_name_gives_other_losses() -> None:
    lost = {}
    for seed, name in ((1, "wifi"), (2, "wifi"), (1, "backhaul")):
        line = Line(Impairments(loss=BernoulliLoss(0.5)), seed=seed, name=name)
        send_all(line, [(0, 100)] * 64)
        line.run()
        lost[seed, name] = tuple(line.fates())
    assert len(set(lost.values())) == 3


@pytest.mark.parametrize("loss", LOSSES[1:])
@given(st.lists(st.booleans(), min_size=50, max_size=50))
def test_which_packets_are_lost_depends_on_their_number_alone(loss: LossModel, big: list[bool]) -> None:
    """Neither other random purposes nor sizes, times and drops by a rule reshuffle it."""

    class EveryThird:
        def judge(self, packet: object, now: int) -> str | None:
            return "rule" if line.direction.offered % 3 == 0 else None

    plain = Line(Impairments(loss=loss))
    send_all(plain, [(0, 100)] * 50)
    busy = Impairments(loss=loss, duplicate=0.3, reorder=0.3, corrupt=0.3, delay=9 * MS, jitter=5 * MS)
    line = Line(busy)
    line.direction.rules.append(EveryThird())
    send_all(line, [(MS, 1400 if b else 60) for b in big])
    lost = [fate == "loss" for fate in plain_fates(plain)]
    for number, fate in enumerate(plain_fates(line)):
        assert fate == "rule" or (fate == "loss") == lost[number]


def plain_fates(line: Line) -> list[str]:
    line.run()
    return line.fates()


def test_a_loss_far_into_the_stream_is_found_without_walking_there() -> None:
    """Numbers a rule swallowed in between are skipped, whole blocks of them."""
    walked = Line(Impairments(loss=BernoulliLoss(0.01)))
    for _ in range(20_000):
        walked.send(100, 0)
    jumped = Line(Impairments(loss=BernoulliLoss(0.01)))
    jumped.direction.offered = 18_000
    for _ in range(2_000):
        jumped.send(100, 0)
    assert plain_fates(jumped) == plain_fates(walked)[18_000:]


@pytest.mark.parametrize(
    ("loss", "share"),
    [(BernoulliLoss(0.1), 0.1), (GilbertElliott(good_to_bad=0.05, bad_to_good=0.25), 1 / 6)],
)
def test_the_share_lost_is_the_share_asked_for(loss: LossModel, share: float) -> None:
    line = Line(Impairments(loss=loss))
    for _ in range(40_000):
        line.send(100, 0)
    assert abs(len(line.dropped) / 40_000 - share) < 0.01


def test_gilbert_elliott_loses_in_bursts_of_the_length_asked_for() -> None:
    line = Line(Impairments(loss=GilbertElliott(good_to_bad=0.01, bad_to_good=0.2)))
    for _ in range(80_000):
        line.send(100, 0)
    lost = "".join("x" if fate == "loss" else "." for fate in plain_fates(line))
    bursts = [len(burst) for burst in lost.split(".") if burst]
    assert 4.3 < sum(bursts) / len(bursts) < 5.7


def test_a_drop_list_loses_exactly_its_packets() -> None:
    line = Line(Impairments(loss=DropList((1, 2, 5000))))
    for _ in range(5002):
        line.send(100, 0)
    assert [number for number, fate in enumerate(plain_fates(line)) if fate == "loss"] == [1, 2, 5000]


def test_a_drop_list_that_comes_later_counts_from_then() -> None:
    line = Line(UNIMPAIRED)
    send_all(line, [(0, 100)] * 10)
    line.direction.change(Impairments(loss=DropList((0, 2))), 0)
    send_all(line, [(0, 100)] * 5)
    assert [number for number, fate in enumerate(plain_fates(line)) if fate == "loss"] == [10, 12]


@given(st.integers(1_000, 100_000), st.lists(st.integers(28, 1500), min_size=1, max_size=80))
def test_a_byte_limited_queue_holds_what_it_says(limit: int, sizes: list[int]) -> None:
    line = Line(Impairments(rate=1_000_000, queue_bytes=limit))
    waiting = 0
    for number, size in enumerate(sizes):
        line.send(size, 0)
        fits = number == 0 or waiting + size <= limit
        assert (len(line.dropped) == 0 or line.dropped[-1][0] is not line.sent[-1]) == fits
        waiting += size if fits else 0


def test_a_time_limited_queue_bounds_the_waiting() -> None:
    line = Line(Impairments(rate=1_000_000, queue_time=100 * MS))
    send_all(line, [(0, 1000)] * 50)
    line.run()
    assert max(due for due, _ in line.arrived) <= 100 * MS
    assert len(line.arrived) == 12
    assert {reason for _, reason in line.dropped} == {"queue_full"}


@given(impairments(ordered=True), impairments(ordered=True), sendings, sendings)
def test_a_change_keeps_the_queue_and_lets_nothing_overtake(
    before: Impairments, after: Impairments, first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    line, alone = Line(before), Line(before)
    now = send_all(line, first)
    send_all(alone, first)
    line.direction.change(after, now)
    send_all(line, second, start=now)
    line.run()
    alone.run()
    assert line.fates()[: len(first)] == alone.fates()
    times = [due for due, _ in line.arrived]
    assert times == sorted(times)


def test_lowering_the_delay_overtakes_only_where_reordering_is_allowed() -> None:
    for allowed in (False, True):
        line = Line(Impairments(delay=300 * MS))
        line.send(100, 0)
        line.direction.change(Impairments(delay=10 * MS, reorder_allowed=allowed), 0)
        for _ in range(2):
            line.send(100, 0)
        line.run()
        assert [due for due, _ in line.arrived] == ([10 * MS, 10 * MS, 300 * MS] if allowed else [300 * MS] * 3)


def test_bytes_that_wait_at_a_change_of_rate_still_fill_the_queue() -> None:
    """They leave at the old pace; the new limit is in bytes, not in the time that they would take now."""
    line = Line(Impairments(rate=1_000_000, queue_bytes=10_000))
    send_all(line, [(0, 1000)] * 10)
    line.direction.change(Impairments(rate=100_000_000, queue_bytes=10_000), 0)
    line.send(1000, 0)
    assert [why for _, why in line.dropped] == ["queue_full"]
    line.send(1000, 8 * MS)
    assert len(line.dropped) == 1
    line.run()
    assert [due for due, _ in line.arrived][-2:] == [80 * MS, 80 * MS + 80_000]


@given(impairments(ordered=True), st.integers(1, 20))
def test_an_overlay_lifted_leaves_behaviour_as_it_was(how: Impairments, worse: int) -> None:
    healed, never = Line(how), Line(how)
    for line in (healed, never):
        send_all(line, [(MS, 500)] * 5)
        line.run()
    healed.direction.overlay("fault", {"delay": worse * MS, "jitter": 0, "loss": BernoulliLoss(1.0)}, 0)
    healed.direction.lift("fault", 0)
    for line in (healed, never):
        send_all(line, [(MS, 500)] * 40, start=SECOND)
        line.run()
    assert healed.fates() == never.fates()


def test_overlays_nest_and_each_takes_back_only_its_own() -> None:
    direction = Line(Impairments(delay=10 * MS)).direction
    direction.overlay("a", {"delay": 20 * MS}, 0)
    direction.overlay("b", {"delay": 30 * MS, "rate": 1_000_000}, 0)
    direction.overlay("c", {"queue_bytes": 5_000}, 0)
    assert (direction.impairments.delay, direction.impairments.queue_bytes) == (30 * MS, 5_000)
    direction.lift("a", 0)
    assert direction.impairments.delay == 30 * MS
    direction.lift("b", 0)
    assert direction.impairments == Impairments(delay=10 * MS)
    direction.lift("c", 0)
    direction.lift("c", 0)
    assert direction.impairments == Impairments(delay=10 * MS)


def test_a_duplicate_takes_its_own_time_on_the_line() -> None:
    line = Line(Impairments(duplicate=1.0, rate=8_000_000))
    line.send(1000, 0)
    line.run()
    assert [due for due, _ in line.arrived] == [MS, 2 * MS]
    assert line.direction.duplicated == 1


def test_each_purpose_draws_for_itself() -> None:
    """With one stream for all, exactly the lost packets would be the duplicated ones."""
    line = Line(Impairments(loss=BernoulliLoss(0.5), duplicate=0.5))
    for _ in range(400):
        line.send(100, 0)
    assert 70 < line.direction.duplicated < 130


def test_a_reordered_packet_is_overtaken_by_those_behind_it() -> None:
    line = Line(Impairments(reorder=0.5, reorder_by=5 * MS))
    send_all(line, [(MS, 100)] * 40)
    line.run()
    place = {id(packet): number for number, packet in enumerate(line.sent)}
    order = [place[id(packet)] for _, packet in line.arrived]
    assert order != sorted(order)
    assert sorted(order) == list(range(40))


def test_jitter_stays_within_its_width_and_uses_it() -> None:
    line = Line(Impairments(delay=50 * MS, jitter=20 * MS, reorder_allowed=True))
    for _ in range(2000):
        line.send(100, 0)
    line.run()
    delays = [due for due, _ in line.arrived]
    assert 30 * MS <= min(delays) < 32 * MS
    assert 68 * MS < max(delays) <= 70 * MS


@pytest.mark.parametrize(("correlation", "low", "high"), [(0.0, -0.1, 0.1), (0.9, 0.8, 1.0)])
def test_jitter_leans_on_the_packet_before_as_much_as_asked(correlation: float, low: float, high: float) -> None:
    line = Line(Impairments(delay=50 * MS, jitter=20 * MS, jitter_correlation=correlation, reorder_allowed=True))
    for _ in range(4000):
        line.send(100, 0)
    line.run()
    place = {id(packet): due - 50 * MS for due, packet in line.arrived}
    offsets = [place[id(packet)] for packet in line.sent]
    products = sum(a * b for a, b in itertools.pairwise(offsets))
    assert low < products / sum(a * a for a in offsets) < high


def test_a_corrupt_packet_differs_in_one_bit_behind_its_headers() -> None:
    line = Line(Impairments(corrupt=1.0))
    whole = line.send(200, 0).raw
    clean = Line(UNIMPAIRED).send(200, 0).raw
    flipped = int.from_bytes(whole, "big") ^ int.from_bytes(clean, "big")
    assert flipped.bit_count() == 1
    assert whole[:28] == clean[:28]


def test_the_fast_path_and_the_careful_path_agree() -> None:
    """A direction that may reorder but has no reason to takes the slow path for every packet."""
    settings_: dict[str, Any] = {"delay": 7 * MS, "rate": 3_000_000, "queue_bytes": 20_000}
    fast, slow = Line(Impairments(**settings_)), Line(Impairments(**settings_, reorder_allowed=True))
    for line in (fast, slow):
        send_all(line, [(MS * (n % 3), 100 + n * 13 % 1300) for n in range(300)])
        line.run()
    assert fast.fates() == slow.fates()
    assert fast.dropped


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delay": -1}, "can't be negative"),
        ({"jitter": 5}, "before they were sent"),
        ({"duplicate": 2.0}, "between 0 and 1"),
        ({"rate": 0}, "black hole"),
        ({"queue_bytes": 5}, "needs a rate"),
        ({"rate": 1, "queue_bytes": 1, "queue_time": 1}, "one limit"),
        ({"rate": 1, "queue_bytes": -5}, "negative"),
        ({"mtu": 100}, "576"),
    ],
)
def test_impossible_impairments_are_refused_with_a_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Impairments(**fields)


@settings(max_examples=30)
@given(impairments())
def test_impairments_survive_json(how: Impairments) -> None:
    assert Impairments.from_json(how.to_json()) == how


def test_an_unknown_loss_model_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="gilbert_elliott"):
        loss_from_json({"model": "gilbert"})
    assert loss_from_json(0.5) == BernoulliLoss(0.5)
