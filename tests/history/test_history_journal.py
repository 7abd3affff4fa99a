"""The journal writes every event once, in order of time, and its file says itself whether it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.history.events import Event, UnknownEventError
from harness.history.journal import HEADER, HOLD_BACK_NS, SCHEMA, Journal
from harness.history.query import History
from harness.units import MILLISECOND
from reference_impl import telemetry

ZERO = 5_000_000_000_000
Told = tuple[int, str, str, str, dict[str, Any]]


class Clock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.now = ZERO

    def __call__(self) -> int:
        return self.now


def keyframe(at_ms: float, source: str = "viewer", *, frame: int = 0) -> Told:
    data = {"frame": frame, "idr": True, "parameter_sets": True, "first": False}
    return ZERO + round(at_ms * MILLISECOND), source, source, "keyframe:received", data


def step(at_ms: float) -> Told:
    return ZERO + round(at_ms * MILLISECOND), "-", "runner", "script:started", {"steps": 1}


def write(path: Path, told: list[Told], *, late_ms: float = 0) -> list[Event]:
    """Tell events in this order, each ``late_ms`` after it happened or when the one before it arrived."""
    clock = Clock()
    journal = Journal(path, zero_ns=ZERO, clock=clock)
    for event in told:
        clock.now = max(clock.now, event[0] + round(late_ms * MILLISECOND))
        journal.record(*event)
    journal.close()
    return journal.written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_the_file_is_a_header_one_line_per_event_and_a_closing_line(path: Path) -> None:
    write(path, [keyframe(1, frame=3)])
    header, event, closing = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert header["schema"] == SCHEMA
    assert event == {
        "n": 0,
        "t_ns": 1_000_000,
        "node": "viewer",
        "source": "viewer",
        "name": "keyframe:received",
        "data": {"frame": 3, "idr": True, "parameter_sets": True, "first": False},
    }
    assert closing["closed"]["events"] == 1
    assert len(closing["closed"]["sha256"]) == 64


def test_what_was_written_is_what_is_read(path: Path) -> None:
    written = write(path, [step(0), keyframe(1), keyframe(2, "gateway")])
    history = History.load(path)
    assert list(history.events) == written
    assert history.complete


def test_nothing_in_the_file_depends_on_when_the_run_took_place(path: Path, tmp_path: Path) -> None:
    write(path, [step(0), keyframe(1)])
    other = tmp_path / "other.jsonl"
    later = Journal(other, zero_ns=2 * ZERO, clock=lambda: 2 * ZERO)
    for t_ns, node, source, name, data in (step(0), keyframe(1)):
        later.record(t_ns + ZERO, node, source, name, data)
    later.close()
    assert other.read_bytes() == path.read_bytes()


def test_events_are_held_back_for_a_quarter_of_a_second_and_merged_by_time(path: Path) -> None:
    clock = Clock()
    journal = Journal(path, zero_ns=ZERO, clock=clock)
    journal.record(*keyframe(20))
    journal.record(*keyframe(10, "gateway"))
    assert journal.next_deadline() == ZERO + 10 * MILLISECOND + HOLD_BACK_NS
    journal.advance(now=ZERO + 10 * MILLISECOND + HOLD_BACK_NS)
    assert [event.source for event in journal.written] == ["gateway"]
    journal.close()
    assert [event.source for event in journal.written] == ["gateway", "viewer"]


def test_a_straggler_is_kept_and_read_in_its_place(path: Path) -> None:
    written = write(path, [keyframe(0), keyframe(1000), keyframe(500, "gateway")], late_ms=400)
    assert [event.t_ns // MILLISECOND for event in written] == [0, 1000, 500]
    history = History.load(path)
    assert history.complete
    assert [event.t_ns // MILLISECOND for event in history.events] == [0, 500, 1000]
    assert [event.number for event in history.events] == [0, 2, 1]


@given(data=st.data())
def test_how_sources_interleave_on_arrival_never_shows(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sources = ("publisher", "gateway", "viewer", "destination")
    times = st.lists(st.integers(0, 240), min_size=0, max_size=8)
    pipes = [
        [keyframe(at, source, frame=number) for number, at in enumerate(sorted(data.draw(times)))] for source in sources
    ]
    arrivals = data.draw(st.permutations([place for place, pipe in enumerate(pipes) for _ in pipe]))
    queues = [iter(pipe) for pipe in pipes]
    folder = tmp_path_factory.mktemp("order")
    write(folder / "one", [event for pipe in pipes for event in pipe])
    write(folder / "other", [next(queues[place]) for place in arrivals])
    assert (folder / "one").read_bytes() == (folder / "other").read_bytes()


def test_at_the_same_time_the_runner_speaks_first_then_engine_and_network(path: Path) -> None:
    entered = {"fault": "f", "kind": "k", "scope": "network", "target": "t", "what": "w", "settings": {}}
    hole = (ZERO, "-", "network", "fault:entered", entered)
    ready = (ZERO, "-", "engine", "lab:ready", {"nodes": 5, "took_ms": 1, "scheduling": "other"})
    written = write(path, [keyframe(0), hole, ready, step(0)])
    assert [event.source for event in written] == ["runner", "engine", "network", "viewer"]


def test_fields_stand_in_the_tables_order_whatever_order_they_were_told_in(path: Path) -> None:
    t_ns, node, source, name, data = keyframe(0)
    write(path, [(t_ns, node, source, name, dict(reversed(data.items())))])
    assert list(History.load(path).events[0].data) == ["frame", "idr", "parameter_sets", "first"]


# --- the vocabulary ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "data"),
    [
        ("viewer", "keyframe:recieved", {}),
        ("viewer", "script:started", {"steps": 1}),
        ("runner", "play:started", {"stream": "live/cam1"}),
        ("viewer", "play:started", {}),
        ("viewer", "play:started", {"stream": 7}),
        ("runner", "script:started", {"steps": 1, "more": 2}),
        ("runner", "script:started", {"steps": True}),
    ],
)
def test_an_event_that_is_not_in_its_sources_table_is_refused(
    path: Path, source: str, name: str, data: dict[str, Any]
) -> None:
    journal = Journal(path, zero_ns=ZERO, clock=Clock())
    with pytest.raises(telemetry.UnknownEventError):
        journal.record(ZERO, "-", source, name, data)
    journal.close()
    assert journal.written == []


def test_the_engine_may_speak_of_a_roles_process_under_the_roles_name(path: Path) -> None:
    write(path, [(ZERO, "viewer", "viewer", "process:started", {"pid": 4, "program": "viewer", "incarnation": 1})])
    assert History.load(path).tells("viewer", "process:started")


def test_harness_errors_of_the_vocabulary_are_errors_of_the_vocabulary() -> None:
    assert issubclass(UnknownEventError, telemetry.UnknownEventError)


def test_nothing_can_have_happened_before_zero(path: Path) -> None:
    journal = Journal(path, zero_ns=ZERO, clock=Clock())
    with pytest.raises(ValueError, match="1000000 ns before the run's zero"):
        journal.record(*keyframe(-1))
    journal.close()


def test_nothing_can_be_told_after_the_end(path: Path) -> None:
    journal = Journal(path, zero_ns=ZERO, clock=Clock())
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="after the history was closed"):
        journal.record(*keyframe(1))


# --- cut short -----------------------------------------------------------------------------------------------------


def test_leaving_after_an_exception_keeps_the_events_but_not_the_claim_of_being_whole(path: Path) -> None:
    with pytest.raises(KeyError), Journal(path, zero_ns=ZERO, clock=Clock()) as journal:
        journal.record(*keyframe(1))
        raise KeyError
    history = History.load(path)
    assert len(history.events) == 1
    assert history.cut == "it has no closing line (cut short after 1 events)"


def test_leaving_in_order_closes(path: Path) -> None:
    with Journal(path, zero_ns=ZERO, clock=Clock()) as journal:
        journal.record(*keyframe(1))
    assert History.load(path).complete


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel takes half of a write that goes past ``size`` and refuses the next one, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_disk_that_fills_up_is_a_clear_error_and_leaves_whole_lines_behind(path: Path) -> None:
    clock = Clock()
    journal = Journal(path, zero_ns=ZERO, clock=clock)
    with no_file_larger_than(len(HEADER) + 300), pytest.raises(HarnessError, match="cannot be written") as caught:
        for number in range(10):
            clock.now += 2 * HOLD_BACK_NS
            journal.record(*keyframe(number, frame=number))
    assert "free some space" in caught.value.cure
    assert journal.failure is caught.value
    history = History.load(path)
    assert len(history.events) == len(journal.written) == 2
    assert history.cut == "it has no closing line (cut short after 2 events)"
    with pytest.raises(HarnessError):
        journal.record(*keyframe(10))
    journal.close()
    assert not History.load(path).complete


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_full_from_the_start_is_told_at_the_start() -> None:
    with pytest.raises(HarnessError, match="cannot be written"):
        Journal(Path("/dev/full"), zero_ns=ZERO)


def test_a_directory_that_is_missing_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be written") as caught:
        Journal(tmp_path / "nowhere" / "events.jsonl", zero_ns=ZERO)
    assert "--out" in caught.value.cure


_KILLED = """
import sys, time
from pathlib import Path
from harness.history.journal import Journal
journal = Journal(Path(sys.argv[1]), zero_ns=time.monotonic_ns(), hold_back_ns=0)
for number in range(10**9):
    data = {"frame": number, "idr": True, "parameter_sets": True, "first": False}
    journal.record(time.monotonic_ns(), "viewer", "viewer", "keyframe:received", data)
    if number == 500:
        print("going", flush=True)
"""


def test_a_killed_harness_leaves_a_history_that_can_be_read_and_is_cut_short(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "going\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    history = History.load(path)
    assert len(history.events) > 400
    assert [event.number for event in history.events] == list(range(len(history.events)))
    assert "cut short" in history.cut or "not whole" in history.cut


# --- the hash ------------------------------------------------------------------------------------------------------


def _whole(path: Path) -> bytes:
    write(path, [step(0), *(keyframe(number, frame=number) for number in range(1, 6))])
    return path.read_bytes()


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_no_byte_can_be_altered_unnoticed(place: int, change: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(_whole(tmp_path_factory.mktemp("hash") / "events.jsonl"))
    content[place % len(content)] ^= change
    assert _noticed(bytes(content))


@given(length=st.integers(0, 10_000))
def test_no_byte_can_be_cut_off_unnoticed(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = _whole(tmp_path_factory.mktemp("hash") / "events.jsonl")
    assert _noticed(content[: length % len(content)])


@given(order=st.permutations(range(8)))
def test_no_lines_can_change_places_unnoticed(order: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    content = _whole(tmp_path_factory.mktemp("hash") / "events.jsonl")
    lines = content.splitlines(keepends=True)
    shuffled = b"".join(lines[place] for place in order)
    assert _noticed(shuffled) or shuffled == content


def test_lines_that_were_added_or_renumbered_are_noticed(path: Path) -> None:
    lines = _whole(path).splitlines(keepends=True)
    assert _noticed(b"".join([*lines[:-1], lines[-2], lines[-1]]))
    assert _noticed(b"".join([*lines, lines[-2]]))
    renumbered = [line.replace(b'"n":5', b'"n":6') for line in lines]
    assert History.parse(b"".join(renumbered)).cut == "line 7 has number 6, expected 5"


def _noticed(content: bytes) -> bool:
    try:
        return not History.parse(content).complete
    except HarnessError:
        return True


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no json\n", b'{"schema":"deadair.history/9"}\n', b"[]\n"])
def test_a_file_that_is_no_history_is_refused(content: bytes) -> None:
    with pytest.raises(HarnessError, match="is not a history"):
        History.parse(content, where="x.jsonl")


def test_a_history_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="No such file"):
        History.load(tmp_path / "events.jsonl")


def test_whoever_listens_sees_each_event_once_in_its_final_order(path: Path) -> None:
    seen: list[Event] = []
    journal = Journal(path, zero_ns=ZERO, clock=Clock(), on_written=seen.append)
    for event in (keyframe(3), keyframe(1, "gateway"), keyframe(2)):
        journal.record(*event)
    journal.close()
    assert seen == journal.written
    assert [event.t_ns // MILLISECOND for event in seen] == [1, 2, 3]
