"""The keyframe gate in virtual time: what opens it, what closes it, and the time stamps behind it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.machines.keyframe_gate import (
    GateSettings,
    JoinGate,
    KeyframeGate,
    PacketKind,
    Passed,
    Withheld,
)

HEADER, IDR, PICTURE = PacketKind.VIDEO_HEADER, PacketKind.IDR, PacketKind.PICTURE
AUDIO, AUDIO_HEADER, SCRIPT = PacketKind.AUDIO, PacketKind.AUDIO_HEADER, PacketKind.SCRIPT


def open_gate(*, at: int = 0, until: int = 1000, step: int = 33) -> KeyframeGate:
    """A gate that passed pictures stamped ``at`` to ``until`` in real time."""
    gate = KeyframeGate(GateSettings())
    gate.offer(HEADER, at, now=0.0)
    gate.offer(IDR, at, now=0.0)
    for stamp in range(at + step, until + 1, step):
        gate.offer(PICTURE, stamp, now=(stamp - at) / 1000)
    return gate


def stamp_of(result: Passed | Withheld) -> int:
    assert isinstance(result, Passed)
    return result.timestamp


def test_nothing_but_an_idr_with_parameter_sets_opens_the_gate() -> None:
    gate = KeyframeGate(GateSettings())
    assert gate.offer(PICTURE, 0, now=0.0) == Withheld()
    assert gate.offer(AUDIO, 5, now=0.0) == Withheld()
    assert gate.offer(IDR, 33, now=0.1) == Withheld(), "no parameter sets yet"
    assert gate.offer(HEADER, 66, now=0.2) == Withheld()
    assert gate.offer(PICTURE, 66, now=0.2) == Withheld()
    passed = gate.offer(IDR, 99, now=0.3)
    assert isinstance(passed, Passed)
    assert passed.opened is not None
    assert passed.opened.withheld == 4
    assert passed.opened.waited_s == pytest.approx(0.3)


def test_parameter_sets_in_band_are_as_good_as_a_header() -> None:
    gate = KeyframeGate(GateSettings())
    assert isinstance(gate.offer(IDR, 0, parameter_sets=True, now=0.0), Passed)


def test_a_new_epoch_closes_the_gate_and_forgets_the_old_headers() -> None:
    gate = open_gate()
    assert gate.new_epoch(now=1.0)
    assert gate.offer(PICTURE, 1033, now=1.03) == Withheld()
    assert gate.offer(IDR, 1066, now=1.06) == Withheld(), "the new connection announced no parameter sets"
    gate.offer(HEADER, 1066, now=1.06)
    assert isinstance(gate.offer(IDR, 1099, now=1.1), Passed)


def test_a_break_in_the_publishers_clock_closes_the_gate_and_says_so() -> None:
    gate = open_gate()
    closed = gate.offer(PICTURE, 2500, now=1.1)
    assert isinstance(closed, Withheld)
    assert "gap_after=1s" in closed.closed
    assert gate.offer(PICTURE, 2533, now=1.2) == Withheld()
    assert isinstance(gate.offer(IDR, 2566, now=1.3), Passed)


def test_an_idr_right_after_a_break_passes() -> None:
    gate = open_gate()
    passed = gate.offer(IDR, 4000, now=4.0)
    assert isinstance(passed, Passed)
    assert passed.opened is not None


def test_a_stream_of_few_pictures_is_not_taken_for_broken() -> None:
    gate = KeyframeGate(GateSettings())
    gate.offer(IDR, 0, parameter_sets=True, now=0.0)
    stamp = 0
    for step in (400, 400, 400, 400, 400, 400, 400, 400, 400, 2000):
        stamp += step
        assert isinstance(gate.offer(PICTURE, stamp, now=stamp / 1000), Passed)


def test_audio_waits_for_the_picture_and_older_audio_never_passes() -> None:
    gate = open_gate()
    gate.new_epoch(now=1.0)
    gate.offer(HEADER, 5000, now=5.0)
    assert gate.offer(AUDIO, 5010, now=5.0) == Withheld()
    gate.offer(IDR, 5040, now=5.04)
    assert gate.offer(AUDIO, 5030, now=5.05) == Withheld()
    assert stamp_of(gate.offer(AUDIO, 5051, now=5.06)) == 5051


def test_a_stream_without_pictures_passes_after_two_seconds_of_audio() -> None:
    gate = KeyframeGate(GateSettings())
    results = [gate.offer(AUDIO, stamp, now=stamp / 1000) for stamp in range(0, 3000, 20)]
    first = next(index for index, result in enumerate(results) if isinstance(result, Passed))
    assert first * 20 == 2000


def test_video_that_begins_late_waits_for_its_idr_like_any_other() -> None:
    gate = KeyframeGate(GateSettings())
    for stamp in range(0, 3000, 20):
        gate.offer(AUDIO, stamp, now=stamp / 1000)
    assert gate.is_open
    closed = gate.offer(HEADER, 3000, now=3.0)
    assert isinstance(closed, Withheld)
    assert closed.closed == "what was taken for audio only has video"
    assert gate.offer(PICTURE, 3033, now=3.03) == Withheld()
    assert stamp_of(gate.offer(IDR, 3066, now=3.06)) == 3066


def test_a_publisher_whose_clock_went_on_keeps_its_stamps() -> None:
    gate = open_gate(at=100_000, until=101_000)
    gate.new_epoch(now=1.0)
    gate.offer(HEADER, 131_000, now=31.0)
    passed = gate.offer(IDR, 131_000, now=31.2)
    assert stamp_of(passed) == 131_000
    assert isinstance(passed, Passed)
    assert passed.opened is not None
    assert passed.opened.rebased_ms == 0


def test_a_clock_that_restarts_at_zero_is_moved_by_the_time_that_passed() -> None:
    gate = open_gate(at=100_000, until=100_990)
    gate.new_epoch(now=1.0)
    gate.offer(HEADER, 0, now=30.99)
    assert stamp_of(gate.offer(IDR, 0, now=30.99)) == 130_990
    assert stamp_of(gate.offer(PICTURE, 33, now=31.02)) == 131_023
    gate.new_epoch(now=40.0)
    gate.offer(HEADER, 0, now=41.02)
    assert stamp_of(gate.offer(IDR, 0, now=41.02)) == 141_023


def test_a_restarted_clock_that_happens_to_be_ahead_is_noticed_all_the_same() -> None:
    gate = open_gate(until=990)
    gate.new_epoch(now=1.0)
    gate.offer(HEADER, 5_000_000, now=3.0)
    assert stamp_of(gate.offer(IDR, 5_000_000, now=2.99)) == 2990


def test_headers_do_not_move_the_clock() -> None:
    gate = open_gate(at=100_000, until=100_990)
    assert stamp_of(gate.offer(SCRIPT, 0, now=1.0)) == 100_990
    assert stamp_of(gate.offer(AUDIO_HEADER, 0, now=1.0)) == 100_990
    assert stamp_of(gate.offer(PICTURE, 101_023, now=1.03)) == 101_023


@pytest.mark.parametrize("name", ["gap_after", "audio_only_after", "clock_behind", "clock_ahead"])
def test_a_setting_that_makes_no_sense_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        GateSettings(**{name: 0.0})


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*PacketKind, None]),
        st.one_of(st.integers(min_value=-50, max_value=100), st.integers(min_value=-200_000, max_value=200_000)),
        st.booleans(),
    ),
    max_size=80,
)


@settings(max_examples=500, deadline=None)
@given(EVENTS)
def test_whatever_comes_the_gate_keeps_its_laws(events: list[tuple[PacketKind | None, int, bool]]) -> None:
    gate, now, clock = KeyframeGate(GateSettings()), 0.0, 0
    may_pass, saw_video, sets = False, False, False
    last = {"video": -1, "audio": -1}
    for kind, step, in_band in events:
        now += 0.02
        if kind is None:
            gate.new_epoch(now=now)
            may_pass = sets = False
            continue
        clock = max(0, clock + step)
        carries_sets = in_band and kind is IDR
        sets = sets or carries_sets or kind is HEADER
        result = gate.offer(kind, clock, parameter_sets=carries_sets, now=now)
        saw_video = saw_video or kind in (IDR, PICTURE)
        if isinstance(result, Withheld):
            may_pass = may_pass and not result.closed
            continue
        if kind is IDR:
            assert may_pass or sets, "an IDR passed that nobody can decode"
            may_pass = True
        if kind is PICTURE:
            assert may_pass, "a picture passed before an IDR after a gap"
        if kind is AUDIO:
            assert may_pass or not saw_video or gate.is_open
        if kind in (IDR, PICTURE, AUDIO):
            track = "audio" if kind is AUDIO else "video"
            assert result.timestamp >= last[track], "a time stamp went back"
            last[track] = result.timestamp


def test_a_receiver_that_joins_gets_headers_then_waits_for_the_idr() -> None:
    gate = JoinGate()
    assert gate.passes(HEADER)
    assert not gate.passes(PICTURE)
    assert not gate.passes(AUDIO)
    assert gate.passes(IDR)
    assert gate.passes(PICTURE)
    assert gate.passes(AUDIO)
    gate.skip()
    assert not gate.passes(PICTURE)
    assert not gate.passes(AUDIO)


def test_a_receiver_of_an_audio_stream_does_not_wait_but_still_gets_no_torn_picture() -> None:
    gate = JoinGate()
    assert gate.passes(AUDIO, has_video=False)
    assert not gate.passes(PICTURE)


def test_a_stream_that_had_pictures_never_opens_on_sound_alone() -> None:
    gate = open_gate()
    gate.new_epoch(now=1.0)
    for stamp in range(1000, 6000, 20):
        assert gate.offer(AUDIO, stamp, now=stamp / 1000) == Withheld()
