"""Asking a history: by name, source, time and field; what was broken when."""

from __future__ import annotations

from typing import Any

import pytest

from harness.history.events import Event
from harness.history.query import History
from harness.units import SECOND

ROLES = {"publisher": "phone", "gateway": "gateway", "viewer": "viewer", "destination": "platform"}


def event(number: int, at: float, name: str, source: str = "runner", node: str = "-", **data: Any) -> Event:
    return Event(number, round(at * SECOND), node, source, name, data)


def fault(number: int, start: float, end: float | None, *, target: str = "backhaul", **more: Any) -> list[Event]:
    name = f"f{number}"
    entered: dict[str, Any] = {"kind": "black_hole", "scope": "network", "what": f"{target} broken", "settings": {}}
    told = [event(number, start, "fault:entered", "network", fault=name, target=target, **{**entered, **more})]
    if end is not None:
        told.append(event(number + 1, end, "fault:left", "network", fault=name, touched=5, receipt={}))
    return told


def run(*events: Event) -> History:
    started = event(0, 0, "run:started", engine="netns", roles=ROLES, systems={"publisher": "reference"})
    return History([started, event(0, 2, "script:started", steps=1), *events])


def spans(history: History, role: str = "publisher") -> list[tuple[float, float | None]]:
    return [
        (outage.start / SECOND, None if outage.end is None else outage.end / SECOND) for outage in history.outages(role)
    ]


def test_events_are_found_by_name_source_node_time_and_field() -> None:
    history = run(
        event(1, 3, "media:frozen", "viewer", "viewer", last_frame=1),
        event(2, 4, "media:frozen", "destination", "platform", last_frame=2),
        event(3, 5, "media:resumed", "viewer", "viewer", last_frame=1),
        event(4, 6, "media:frozen", "viewer", "viewer", last_frame=9),
    )

    def numbers(*names: str, **which: Any) -> list[int]:
        return [found.number for found in history.named(*names, **which)]

    assert numbers("media:frozen") == [1, 2, 4]
    assert numbers("media:frozen", source="viewer") == [1, 4]
    assert numbers("media:frozen", node="platform") == [2]
    assert numbers("media:frozen", after=4 * SECOND) == [2, 4]
    assert numbers("media:frozen", before=4 * SECOND) == [1, 2]
    assert numbers("media:frozen", "media:resumed", source="viewer") == [1, 3, 4]
    assert numbers("media:frozen", last_frame=9) == [4]
    assert numbers("nobody:said") == []


def test_first_and_last() -> None:
    history = run(event(1, 3, "play:started", "viewer"), event(2, 5, "play:started", "viewer"))
    first, last = history.first("play:started"), history.last("play:started", before=4 * SECOND)
    assert first is last is not None
    assert history.last("play:started", source="gateway") is None


def test_the_script_counts_from_its_own_beginning() -> None:
    history = run(event(1, 7, "script:ended", steps=1), event(2, 9, "run:ended"))
    assert (history.zero, history.script_end, history.end) == (2 * SECOND, 7 * SECOND, 9 * SECOND)
    assert history.at(7 * SECOND) == "t=5.00 s"
    assert history.roles["publisher"] == "phone"
    assert history.systems == {"publisher": "reference"}


def test_a_history_without_events_answers_too() -> None:
    history = History([])
    assert (history.zero, history.end, history.script_end) == (0, 0, 0)
    assert (history.roles, list(history.faults), list(history.outages())) == ({}, [], [])


def test_faults_are_joined_with_their_receipts_and_may_nest() -> None:
    history = run(*fault(1, 5, 20), *fault(3, 8, 10, target="wifi"))
    assert [(window.target, window.touched) for window in history.faults] == [("backhaul", 5), ("wifi", 5)]
    assert [window.target for window in history.active_at(9 * SECOND)] == ["backhaul", "wifi"]
    assert [window.target for window in history.active_at(10 * SECOND)] == ["backhaul"]
    assert [window.target for window in history.active_at(20 * SECOND)] == []


def test_a_fault_that_enters_again_under_its_name_has_two_windows() -> None:
    history = run(*fault(1, 5, 6), *(Event(e.number, e.t_ns + 4 * SECOND, *_rest(e)) for e in fault(1, 5, 6)))
    assert [(w.start // SECOND, (w.end or 0) // SECOND) for w in history.faults] == [(5, 6), (9, 10)]


def _rest(told: Event) -> tuple[str, str, str, Any]:
    return told.node, told.source, told.name, told.data


def test_a_fault_without_a_receipt_is_still_active() -> None:
    history = run(*fault(1, 5, None))
    assert history.faults[0].touched is None
    assert history.active_at(99 * SECOND)
    assert spans(history) == [(5, None)]


def test_overlapping_faults_are_one_outage() -> None:
    assert spans(run(*fault(1, 5, 9), *fault(3, 8, 12, target="wifi"), *fault(5, 15, 16))) == [(5, 12), (15, 16)]


@pytest.mark.parametrize(
    ("more", "silences"),
    [
        ({}, True),
        ({"settings": {"proto": "tcp"}}, True),
        ({"settings": {"proto": "udp"}}, False),
        ({"settings": {"port": 1935}}, True),
        ({"settings": {"port": 443}}, False),
        ({"settings": {"flow": "publisher.rtmp"}}, True),
        ({"settings": {"flow": "viewer.rtmp"}}, False),
        ({"settings": {"flow": "phone:1935"}}, True),
        ({"settings": {"flow": "platform:1935"}}, False),
        ({"target": "viewer_link"}, False),
        ({"target": "platform_link"}, False),
        ({"target": "gateway_link"}, True),
        ({"kind": "carrier_off", "scope": "node", "target": "phone"}, True),
        ({"kind": "pause", "scope": "process", "target": "gateway"}, True),
        ({"kind": "pause", "scope": "process", "target": "viewer"}, False),
        ({"kind": "change_link"}, False),
    ],
)
def test_an_outage_is_what_silences_the_publishers_path(more: dict[str, Any], silences: bool) -> None:
    assert bool(spans(run(*fault(1, 5, 9, **more)))) is silences


def test_a_receiver_suffers_from_the_publishers_path_and_from_its_own() -> None:
    history = run(*fault(1, 5, 6), *fault(3, 8, 9, target="viewer_link"), *fault(5, 11, 12, target="platform_link"))
    assert spans(history, "viewer") == [(5, 6), (8, 9)]
    assert spans(history, "destination") == [(5, 6), (11, 12)]


def test_a_kill_is_over_when_the_role_is_started_again() -> None:
    kill = fault(1, 5, 5, kind="kill", scope="process", target="publisher")
    started = event(3, 6, "process:started", "publisher", "phone", pid=9, program="publisher", incarnation=2)
    assert spans(run(*kill)) == [(5, None)]
    assert spans(run(*kill, started)) == [(5, 6)]


def test_a_flapping_link_is_broken_as_often_as_its_receipt_says() -> None:
    entered, left = fault(1, 5, 20, kind="link_flap")
    windows_ns = [[0, 3 * SECOND], [6 * SECOND, 9 * SECOND]]
    told = Event(
        left.number, left.t_ns, "-", "network", "fault:left", {**left.data, "receipt": {"windows_ns": windows_ns}}
    )
    history = run(entered, told)
    assert spans(history) == [(5, 8), (11, 14)]
    assert history.active_at(7 * SECOND) and not history.active_at(9 * SECOND)
    assert spans(run(entered, left)) == [(5, 20)]


def test_resets_and_lost_nat_state_break_a_connection_in_a_moment() -> None:
    history = run(*fault(1, 5, 5, kind="tcp_reset"), *fault(3, 7, 7, kind="nat_state_lost", target="hotspot"))
    assert [window.kind for window in history.breaks()] == ["tcp_reset", "nat_state_lost"]
    assert spans(history) == []
