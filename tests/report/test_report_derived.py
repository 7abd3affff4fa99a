"""Freezes, films, lanes and curves from small histories."""

from __future__ import annotations

import pytest
from synthetic_history import ROLES, S, Story, drop_run

from harness.history.events import EVENTS
from harness.report.film import derive_films, derive_freezes
from harness.report.lanes import MARKS, Lane, derive_lanes, tone_of_state
from harness.report.model import RunView, build_model
from harness.report.series import bitrate_charts, delay_charts, flow_title, tcp_charts
from reference_impl import telemetry


def lanes(story: Story) -> dict[str, Lane]:
    events = story.events()
    freezes = derive_freezes(events, end_ns=events[-1].t_ns)
    return {lane.key: lane for lane in derive_lanes(events, freezes=freezes, end_ns=events[-1].t_ns, roles=ROLES)}


def resumed(story: Story, t: float, *, gap_ms: float, last: int = 10, frame: int = 50, idr: bool = True) -> None:
    story.tell(
        t,
        "viewer",
        "media:resumed",
        last_frame=last,
        frame=frame,
        gap_ms=gap_ms,
        missing=frame - last - 1,
        idr=idr,
        parameter_sets=idr,
        decoded=True,
        delay_ms=1.0,
        method="sei",
    )


def frozen(story: Story, t: float, *, last: int = 10, after_ms: float = 500) -> None:
    story.tell(t, "viewer", "media:frozen", last_frame=last, after_ms=after_ms, setting="frozen_after = 500 ms")


def saved(story: Story, t: float, frame: int, role: str = "viewer") -> None:
    story.tell(t, role, "picture:saved", frame=frame, path=f"{frame}.jpg", moment="m")


# --- freezes and films ---------------------------------------------------------------------------------------------


def test_a_freeze_lasts_as_long_as_the_measured_gap_not_from_when_it_was_noticed() -> None:
    story = Story()
    frozen(story, 2.5)
    resumed(story, 6, gap_ms=4000)
    (freeze,) = derive_freezes(story.events(), end_ns=9 * S)
    assert (freeze.start_ns, freeze.end_ns, freeze.resumed, freeze.missing) == (2 * S, 6 * S, True, 39)
    assert freeze.numbers == (0, 1)


def test_a_freeze_that_never_ends_lasts_until_the_history_does() -> None:
    story = Story()
    frozen(story, 2.5)
    (freeze,) = derive_freezes(story.events(), end_ns=9 * S)
    assert (freeze.start_ns, freeze.end_ns, freeze.resumed, freeze.first_frame) == (2 * S, 9 * S, False, None)


def test_a_freeze_ends_with_the_stream() -> None:
    story = Story()
    frozen(story, 2.5)
    story.tell(4, "viewer", "media:ended", frames=1, last_frame=10, reason="stop")
    (freeze,) = derive_freezes(story.events(), end_ns=9 * S)
    assert (freeze.end_ns, freeze.resumed) == (4 * S, False)


def test_a_film_shows_the_pictures_on_both_sides_of_each_freeze_by_frame_number() -> None:
    story = Story()
    saved(story, 1, 3)
    saved(story, 2.6, 10)  # saved late: after the freeze was noticed
    resumed(story, 6, gap_ms=4000)
    saved(story, 6.1, 50)
    saved(story, 7, 80)
    events = story.events()
    (film,) = derive_films(events, freezes=derive_freezes(events, end_ns=9 * S))
    (cut,) = film.cuts
    assert cut.before is not None and cut.before.frame == 10
    assert cut.after is not None and cut.after.frame == 50


def test_a_stream_without_frame_numbers_is_matched_by_time() -> None:
    story = Story()
    saved(story, 1.9, -1)
    resumed(story, 6, gap_ms=4000, last=-1, frame=-1)
    saved(story, 6.1, -1)
    events = story.events()
    (film,) = derive_films(events, freezes=derive_freezes(events, end_ns=9 * S))
    before, after = film.cuts[0].before, film.cuts[0].after
    assert before is not None and after is not None
    assert (before.number, after.number) == (0, 2)


def test_without_a_freeze_a_film_has_its_first_and_last_picture() -> None:
    story = Story()
    saved(story, 1, 3, "destination")
    saved(story, 2, 33)
    saved(story, 3, 63)
    films = derive_films(story.events(), freezes=[])
    assert [film.role for film in films] == ["viewer", "destination"]
    first, last = films[0].first, films[0].last
    assert first is not None and last is not None
    assert (first.frame, last.frame, films[0].cuts) == (33, 63, [])


# --- lanes ---------------------------------------------------------------------------------------------------------


def test_every_mark_is_drawn_from_an_event_of_the_tables_with_fields_it_has() -> None:
    for name, look in MARKS.items():
        fields = EVENTS.get(name) or telemetry.EVENTS[name]
        assert look.label.format_map(dict.fromkeys(fields, "x")) is not None


def test_lanes_stand_in_the_order_in_which_media_flows() -> None:
    keys = [lane.key for lane in build_model(drop_run(idr=True)).lanes]
    assert keys == ["playbook", "publisher", "gateway", "egress", "viewer", "viewer2", "destination"]


def test_what_the_engine_does_to_a_node_stands_on_the_lane_of_its_role() -> None:
    story = Story()
    story.tell_at(1, "phone", "engine", "process:signalled", {"pid": 1, "signal": "SIGKILL"})
    (mark,) = lanes(story)["publisher"].marks
    assert mark.label == "SIGKILL"


def test_an_unexpected_exit_is_marked_as_a_failure_and_an_expected_one_is_not() -> None:
    story = Story()
    exited = {"pid": 1, "program": "gateway", "incarnation": 1, "code": 1, "signal": 0}
    story.tell_at(1, "gateway", "engine", "process:exited", {**exited, "expected": False})
    story.tell_at(2, "gateway", "engine", "process:exited", {**exited, "expected": True})
    assert [mark.tone for mark in lanes(story)["gateway"].marks] == ["fail", "mute"]


def test_good_keyframes_are_ticks_and_one_that_is_no_idr_is_a_failing_mark() -> None:
    story = Story()
    for t, idr in ((1, True), (2, False)):
        story.tell(t, "gateway", "keyframe:received", frame=t, idr=idr, parameter_sets=idr, first=False)
    lane = lanes(story)["gateway"]
    assert lane.keyframes == [1 * S]
    assert [(mark.tone, mark.label) for mark in lane.marks] == [("fail", "keyframe 2 is no IDR")]


def test_a_picture_that_came_back_without_an_idr_is_marked_as_a_failure() -> None:
    story = Story()
    resumed(story, 6, gap_ms=4000, idr=False)
    (mark,) = lanes(story)["viewer"].marks
    assert (mark.tone, mark.label) == ("fail", "back at frame 50, no IDR")


def test_the_session_strip_shows_when_the_publisher_was_away() -> None:
    story = Story()
    story.tell(1, "gateway", "session:opened", stream="x", session="s1")
    story.tell(3, "gateway", "session:lost", session="s1", epoch=1, reason="reset", window_s=60)
    story.tell(4, "gateway", "session:taken_over", session="s1", old_epoch=1, new_epoch=2, rule="closed")
    story.tell(5, "gateway", "session:resumed", session="s1", epoch=2, away_ms=2000)
    story.tell(8, "gateway", "session:ended", session="s1", reason="stop", setting="")
    story.tell(9, "runner", "run:ended")
    (strip,) = lanes(story)["gateway"].strips
    assert [(span.start_ns // S, span.end_ns // S, span.tone) for span in strip.spans] == [
        (1, 3, "ok"),
        (3, 4, "warn"),
        (4, 8, "ok"),
    ]


def test_egress_has_a_lane_of_its_own_with_a_strip_for_each_destination() -> None:
    story = Story()
    for name in ("a", "b"):
        story.tell(1, "gateway", "egress:state_changed", egress=name, state="live", reason="", setting="")
    story.tell(2, "gateway", "egress:stopped", session="s", egress="a", reason="stop", exit="0", took_ms=1)
    story.tell(3, "runner", "run:ended")
    strips = lanes(story)["egress"].strips
    assert [(strip.subject, strip.spans[-1].end_ns // S) for strip in strips] == [("a", 2), ("b", 3)]


@pytest.mark.parametrize(
    ("state", "tone"), [("live", "ok"), ("reconnecting", "warn"), ("failed", "fail"), ("odd", "calm")]
)
def test_an_unknown_state_is_shown_calmly_rather_than_hidden(state: str, tone: str) -> None:
    assert tone_of_state(state) == tone


# --- curves --------------------------------------------------------------------------------------------------------


def count(story: Story, t: float, flow: str, size: int, dropped: int = 0) -> None:
    story.tell(t, "network", "flow:counted", flow=flow, packets=1, bytes=size, dropped=dropped, dropped_because={})


@pytest.mark.parametrize(
    ("flow", "title"),
    [
        ("phone:40000>gateway:1935/tcp", "phone → gateway:1935"),
        ("gateway:1935>phone:40000/tcp", "gateway:1935 → phone"),
        ("a:50000>b:8000/udp", "a → b:8000/udp"),
        ("[fd00::1]:40000>[fd00::2]:1935/tcp", "[fd00::1] → [fd00::2]:1935"),
        ("strange", "strange"),
    ],
)
def test_a_flow_is_named_by_its_hosts_and_its_service(flow: str, title: str) -> None:
    assert flow_title(flow) == title


def test_bitrate_is_the_bytes_of_each_100_ms_with_zero_where_nothing_came() -> None:
    story = Story()
    count(story, 0.1, "phone:40000>gateway:1935/tcp", 1000)
    count(story, 0.3, "phone:40001>gateway:1935/tcp", 2000)
    (chart,) = bitrate_charts(story.events())
    assert chart.series[0].points == [
        (0, 80_000.0),
        (S // 10, 0.0),
        (S // 5, 160_000.0),
        (3 * S // 10, 0.0),
    ]
    assert (chart.peak, chart.note) == (160_000.0, "2 connections")


def test_drops_are_kept_even_when_nothing_was_delivered() -> None:
    story = Story()
    count(story, 0.1, "phone:40000>gateway:1935/tcp", 1000)
    count(story, 0.2, "phone:40000>gateway:1935/tcp", 0, dropped=7)
    (chart,) = bitrate_charts(story.events())
    assert chart.dropped == [(S // 10, 7)]


def test_acknowledgements_do_not_get_a_chart_beside_the_media_that_they_acknowledge() -> None:
    story = Story()
    count(story, 0.1, "phone:40000>gateway:1935/tcp", 100_000)
    count(story, 0.1, "gateway:1935>phone:40000/tcp", 1_000)
    assert [chart.title for chart in bitrate_charts(story.events())] == ["phone → gateway:1935"]


def sample(story: Story, t: float, connection: int, outstanding: int) -> None:
    fields = dict.fromkeys(telemetry.EVENTS["tcp:sampled"], 0)
    story.tell(t, "publisher", "tcp:sampled", **{**fields, "connection": connection, "outstanding_bytes": outstanding})


def test_tcp_curves_follow_the_newest_connection_and_break_where_it_changes() -> None:
    story = Story()
    sample(story, 1, 1, 10)
    sample(story, 2, 2, 20)
    sample(story, 3, 1, 999)
    sample(story, 4, 2, 30)
    chart = tcp_charts(story.events())[0]
    assert chart.series[0].points == [(1 * S, 10.0), (2 * S, None), (2 * S, 20.0), (4 * S, 30.0)]


def test_a_receiver_that_never_measured_a_delay_has_no_delay_chart() -> None:
    story = Story()
    progressed = dict.fromkeys(telemetry.EVENTS["media:progressed"], 0)
    story.tell(1, "viewer", "media:progressed", **{**progressed, "delay_ms": None})
    story.tell(1, "destination", "media:progressed", **{**progressed, "delay_ms": 80.0})
    assert [chart.title for chart in delay_charts(story.events())] == ["destination media delay"]


def test_sampled_events_alone_make_no_lane_of_the_network() -> None:
    story = Story()
    count(story, 0.1, "phone:40000>gateway:1935/tcp", 1000)
    assert build_model(RunView(events=story.events(), verdicts=[])).lanes == []
