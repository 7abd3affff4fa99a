"""Each check passes a good history, finds what is broken in a minimally broken one, and says when it cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from stories import (
    PIDS,
    Story,
    a_blip,
    a_drop_with_a_reconnect,
    a_live_stream,
    a_publisher_gone_for_good,
    a_publisher_killed_and_back,
    a_wait,
)

from harness.checks import CHECKS, EVERY_RUN, Outcome, Verdict, expectation, run_check

PASS, FAIL, UNKNOWN = Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN
RECEIVERS = ("viewer", "destination", "gateway")


@dataclass(frozen=True)
class Case:
    """What a check says of a story."""

    outcome: Outcome
    check: str
    why: str
    """The story in one sentence; the test's name."""
    story: Story
    says: str
    """Part of what was observed."""
    given: Mapping[str, object] = field(default_factory=dict)


def verdict_of(case: Case) -> Verdict:
    return run_check(case.story.history(), expectation(case.check, case.given).limits)


def drop() -> Story:
    return a_drop_with_a_reconnect()


def silent(story: Story, *sources: str) -> Story:
    """As if a third party played these roles: it tells nothing."""
    story.lines = [
        line for line in story.lines if line.source not in sources or line.name.startswith(("process:", "ledger:taken"))
    ]
    return story


def no_idr() -> Story:
    """The publisher goes on in the middle of a GOP; the gate holds its frames back for 1.2 s."""
    story = drop().but("keyframe:received", later=1.2, first=False).but("media:resumed", later=1.2)
    return story.but("gate:opened", later=1.2, withheld=90, waited_ms=1200)


def drop_and_second_session() -> Story:
    story = drop().tell(7, "gateway", "session:ended", session="s1", reason="connection closed")
    return story.tell(9.3, "gateway", "session:opened", session="s2", stream="live/cam1")


def refused_for_two_seconds() -> Story:
    code = "NetStream.Publish.BadName"
    return drop().tell(9.2, "publisher", "publish:refused", connection=9, code=code, description="Already publishing")


def gone_and_never_accepted() -> Story:
    story = a_live_stream().black_hole(5, 9)
    for number in range(4):
        story.tell(9.2 + number, "publisher", "connect:attempted", connection=2 + number)
    return story.ends(20)


def thrashing() -> Story:
    story = drop()
    for number in range(20):
        story.tell(7 + number * 0.05, "publisher", "connect:attempted", connection=50 + number)
    return story


def stale_close_kills_the_new_one() -> Story:
    return drop().tell(9.5, "gateway", "session:lost", session="s1", epoch=1, reason="closed", window_s=60)


def stale_end_kills_the_session() -> Story:
    return drop().tell(9.5, "gateway", "session:ended", session="s1", reason="idle timer of epoch 1")


def egress_restarted() -> Story:
    story = drop().tell(6, "gateway", "egress:stopped", session="s1", egress="platform", reason="source lost")
    return story.tell(9.4, "gateway", "egress:started", session="s1", egress="platform", worker=41)


def lying_egress() -> Story:
    story = a_live_stream().black_hole(5, 50, link="platform_link")
    story.tell(5.6, "destination", "media:frozen", last_frame=150, after_ms=500)
    return story.ends(60)


def buried_alive() -> Story:
    story = a_blip()
    return story.tell(5, "gateway", "egress:state_changed", egress="platform", state="FAILED", reason="stalled")


def paused(role: str) -> Story:
    story = a_live_stream()
    entered = {"fault": "p", "kind": "pause", "scope": "process", "target": role, "what": f"{role} paused"}
    story.tell(5, "engine", "fault:entered", **entered).tell(9, "engine", "fault:left", fault="p", touched=1)
    return story.tell(6, "publisher", "stall:detected", connection=1).ends(12)


def gateway_killed_and_back() -> Story:
    """It finds the worker that its predecessor left, ends it, and starts its own."""
    story = a_live_stream().kill(5, "gateway", back=6)
    story.tell(6.5, "gateway", "egress:leftover_ended", egress="platform", worker=40, how="SIGTERM")
    story.tell(6.45, "destination", "push:ended", push=1, reason="unpublish")
    story.tell(7, "gateway", "egress:started", session="s2", egress="platform", worker=41)
    return story.tell(7.2, "destination", "push:accepted", push=2).ends(12)


def stopped_at_loss() -> Story:
    """The egress ends with the publisher's connection and is started anew when the publisher is back."""
    story = a_publisher_killed_and_back()
    named = {"session": "s1", "egress": "platform", "reason": "source lost"}
    story.tell(5.06, "gateway", "egress:stop_requested", **named)
    story.tell(5.3, "destination", "push:ended", push=1).tell(5.35, "gateway", "egress:stopped", **named)
    story.tell(7.3, "gateway", "egress:started", session="s1", egress="platform~2", worker=41)
    return story.tell(7.5, "destination", "push:accepted", push=2)


def gate_without_a_door() -> Story:
    story = a_drop_with_a_reconnect().but("media:resumed", "viewer", idr=False, parameter_sets=False, decoded=False)
    return story.tell(9.6, "viewer", "media:undecodable", frame=280, error="no reference picture")


def hung_at_the_end() -> Story:
    """The gateway never finishes its shutdown; the harness kills it after 10 s."""
    story = drop().without("program:stopped", "gateway").but("process:exited", "gateway", later=10, signal=9)
    return story.tell(25.4, "gateway", "process:signalled", pid=PIDS["gateway"], signal="SIGKILL")


def killed_while_winding_up() -> Story:
    """The playbook's ``always`` kills the gateway when the script has ended."""
    story = drop().without("program:stopped", "gateway").but("process:exited", "gateway", signal=9)
    entered = {"fault": "kill", "kind": "kill", "scope": "process", "target": "gateway"}
    story.tell(15.2, "engine", "fault:entered", **entered, what="gateway killed")
    receipt = {"pid": PIDS["gateway"], "signal": "SIGKILL"}
    return story.tell(15.2, "engine", "fault:left", fault="kill", touched=1, receipt=receipt)


def crash() -> Story:
    return drop().tell(7, "gateway", "process:exited", program="gateway", pid=PIDS["gateway"], code=1, incarnation=1)


CASES = [
    # --- every run
    Case(PASS, "script_ran", "every step was done", drop(), "1 step done"),
    Case(UNKNOWN, "script_ran", "a step failed", drop().tell(6, "runner", "step:failed", step=1, error="no such link"),
         "no such link"),
    Case(UNKNOWN, "script_ran", "somebody pressed Ctrl-C", drop().tell(6, "runner", "run:interrupted", by="SIGINT"),
         "interrupted by SIGINT"),
    Case(UNKNOWN, "script_ran", "the stream never got going",
         drop().tell(-1, "runner", "steady:missed", missing="viewer: media:started"), "viewer: media:started"),
    Case(UNKNOWN, "script_ran", "the run has no end", drop().without("run:ended"), "no run:ended"),
    Case(PASS, "faults_fired", "the fault dropped packets", drop(), "touched 400"),
    Case(UNKNOWN, "faults_fired", "the fault touched nothing", drop().but("fault:left", touched=0), "touched nothing"),
    Case(UNKNOWN, "faults_fired", "the fault left no receipt", drop().without("fault:left"), "no receipt"),
    Case(PASS, "emulator_punctual", "p99 is 140 µs", drop(), "p99 140 µs"),
    Case(UNKNOWN, "emulator_punctual", "p99 is 3 ms", drop().but("emulator:measured", late_p99_us=3000.0), "3.00 ms"),
    Case(PASS, "emulator_punctual", "p99 is 3 ms and 5 ms are allowed",
         drop().but("emulator:measured", late_p99_us=3000.0), "3.00 ms", {"late_p99": "5 ms"}),
    Case(UNKNOWN, "emulator_punctual", "one packet was 60 ms late",
         drop().but("emulator:measured", late_max_us=60_000.0), "at most 60.0 ms"),
    Case(PASS, "emulator_punctual", "one packet was 60 ms late and 100 ms are allowed",
         drop().but("emulator:measured", late_max_us=60_000.0), "at most 60.0 ms", {"late_max": "100 ms"}),
    Case(UNKNOWN, "emulator_punctual", "the ring was too small", drop().but("emulator:measured", ring_lost=3),
         "3 packets found no room"),
    Case(UNKNOWN, "emulator_punctual", "packets could not be read", drop().but("emulator:measured", malformed=2),
         "2 packets of the nodes could not be read"),
    Case(UNKNOWN, "emulator_punctual", "an interface took nothing and none was off",
         drop().but("emulator:measured", unsent=9), "9 packets were not taken"),
    Case(PASS, "emulator_punctual", "an interface took nothing after a kill",
         a_publisher_gone_for_good().but("emulator:measured", unsent=9), "p99 140 µs"),
    Case(PASS, "emulator_punctual", "only the capture lacks packets",
         drop().but("emulator:measured", left_out=9), "p99 140 µs"),
    Case(UNKNOWN, "emulator_punctual", "nobody measured", drop().without("emulator:measured"), "told nothing"),
    Case(PASS, "nothing_crashed", "a kill by the playbook is no crash", a_publisher_gone_for_good(), "0 crashes"),
    Case(FAIL, "nothing_crashed", "the gateway exits by itself", crash(), "exit code 1"),
    Case(FAIL, "nothing_crashed", "a program tells that it failed",
         drop().tell(6, "viewer", "program:failed", role="viewer", error="no such codec"), "no such codec"),
    Case(FAIL, "nothing_crashed", "a crash in the shut-down that was asked for",
         drop().but("process:exited", "gateway", code=1), "ended when asked to at t=15.6 s with exit code 1"),
    Case(FAIL, "nothing_crashed", "the harness's own SIGKILL excuses nobody", hung_at_the_end(), "signal 9"),
    Case(PASS, "nothing_crashed", "somebody else's program ends as it likes when it is asked to",
         drop().without("program:ready", "viewer").but("process:exited", "viewer", code=255), "0 crashes"),
    Case(PASS, "stopped_in_order", "everybody says so and exits with 0", drop(),
         "in order: publisher, gateway, viewer, destination"),
    Case(PASS, "stopped_in_order", "who was killed before need not", a_publisher_gone_for_good(),
         "in order: gateway, viewer, destination"),
    Case(PASS, "stopped_in_order", "nor who is killed by a fault while the others stop", killed_while_winding_up(),
         "in order: publisher, viewer, destination"),
    Case(PASS, "stopped_in_order", "the second life of a program counts", a_publisher_killed_and_back(),
         "in order: gateway, viewer, destination, publisher"),
    Case(PASS, "stopped_in_order", "somebody else's program cannot tell", drop().without("program:ready"),
         "no program of this run can tell"),
    Case(FAIL, "stopped_in_order", "it hangs and has to be killed", hung_at_the_end(),
         "gateway had to be ended by signal 9, 10.6 s after the script"),
    Case(FAIL, "stopped_in_order", "it fails while it shuts down", drop().but("process:exited", "viewer", code=1),
         "viewer ended with exit code 1"),
    Case(FAIL, "stopped_in_order", "it leaves without a word", drop().without("program:stopped", "gateway"),
         "gateway ended without a program:stopped"),
    Case(FAIL, "stopped_in_order", "nobody saw it end", drop().without("process:exited", "gateway"),
         "gateway never ended"),
    Case(UNKNOWN, "stopped_in_order", "the script never ended", drop().without("script:ended"), "has not ended"),
    # --- publisher
    Case(PASS, "outage_detected", "noticed after 1.5 s", drop(), "after 1.50 s", {"within": "2 s"}),
    Case(FAIL, "outage_detected", "noticed after 1.5 s where 1 s is asked", drop(), "after 1.50 s", {"within": "1 s"}),
    Case(FAIL, "outage_detected", "never noticed", drop().without("stall:detected"), "never noticed"),
    Case(UNKNOWN, "outage_detected", "the blip is shorter than the limit", a_blip(), "no outage lasted longer"),
    Case(UNKNOWN, "outage_detected", "the publisher cannot tell", silent(drop(), "publisher"), "tells nothing"),
    Case(PASS, "outage_detected", "the gateway sees the killed publisher go", a_publisher_gone_for_good(),
         "after 20.0 ms", {"by": "gateway"}),
    Case(PASS, "outage_detected", "a kill is noticed however soon its victim is back", a_publisher_killed_and_back(),
         "after 50.0 ms", {"by": "gateway"}),
    Case(UNKNOWN, "outage_detected", "the publisher cannot notice its own death", a_publisher_gone_for_good(),
         "no fault silenced the publisher"),
    Case(PASS, "outage_detected", "the publisher notices that the gateway stands still", paused("gateway"),
         "after 1.00 s"),
    Case(UNKNOWN, "outage_detected", "nobody notices that he stands still himself", paused("publisher"),
         "no fault silenced the publisher"),
    Case(PASS, "outage_detected", "the slowest of several counts",
         drop().black_hole(11, 14, fault="second").tell(12.8, "publisher", "stall:detected", connection=15),
         "after 1.80 s at the slowest of 2"),
    Case(UNKNOWN, "outage_detected", "UDP alone was swallowed",
         a_live_stream().black_hole(5, 9, proto="udp").ends(12), "no fault silenced the publisher"),
    Case(UNKNOWN, "outage_detected", "only the viewer's own link was dead",
         a_live_stream().black_hole(5, 9, link="viewer_link").ends(12), "no fault silenced the publisher"),
    Case(PASS, "reconnects", "once, at most twice allowed", drop(), "once", {"at_most": 2}),
    Case(FAIL, "reconnects", "once where twice is asked", drop(), "once", {"at_least": 2}),
    Case(FAIL, "reconnects", "once where none is allowed", drop(), "once", {"at_most": 0}),
    Case(PASS, "reconnects", "by the gateway's epochs", silent(drop(), "publisher"), "once", {"at_least": 1}),
    Case(UNKNOWN, "reconnects", "neither side can tell", silent(drop(), "publisher", "gateway"), "neither"),
    Case(PASS, "no_reconnect", "the blip is ridden out", a_blip(), "0 reconnects"),
    Case(FAIL, "no_reconnect", "a reconnect was begun", drop(), "1 reconnect, the first at t=6.50 s"),
    Case(UNKNOWN, "no_reconnect", "neither side can tell", silent(a_blip(), "publisher", "gateway"), "neither"),
    Case(PASS, "attempts_bounded", "four a second", drop(), "at most 4 in a second"),
    Case(FAIL, "attempts_bounded", "twenty a second", thrashing(), "in a second"),
    Case(FAIL, "attempts_bounded", "more in all than allowed", drop(), "11 attempts", {"at_most": 10}),
    Case(FAIL, "attempts_bounded", "fewer reported than made", drop().but("reconnect:completed", attempts=3),
         "reported 3 attempts where 11 were made"),
    Case(UNKNOWN, "attempts_bounded", "the publisher cannot tell", silent(drop(), "publisher"), "tells nothing"),
    Case(PASS, "old_connection_held", "reset when the new one was up", drop(), "1 stalls"),
    Case(PASS, "old_connection_held", "nothing stalled", a_blip(), "0 stalls"),
    Case(FAIL, "old_connection_held", "thrown into the hole at once", drop().but("connection:reset", later=-2),
         "connection 1 was reset at t=7.10 s with no other one up"),
    Case(UNKNOWN, "old_connection_held", "the publisher cannot tell", silent(drop(), "publisher"), "tells nothing"),
    Case(PASS, "never_stopped", "reconnecting, then live", drop(), "reconnecting, live"),
    Case(FAIL, "never_stopped", "stopped while the link was down",
         drop().tell(7, "publisher", "status:changed", status="stopped", reason="gave up"), '"stopped" at t=7.00 s'),
    Case(PASS, "never_stopped", "stopped after the end is no lie",
         drop().tell(15.4, "publisher", "status:changed", status="stopped"), "reconnecting, live"),
    Case(UNKNOWN, "never_stopped", "the publisher cannot tell", silent(drop(), "publisher"), "no status"),
    # --- media
    Case(PASS, "keyframe_first", "IDR first everywhere", drop(), "slowest 90.0 ms after the publish, at destination"),
    Case(PASS, "keyframe_first", "a wait that lost nothing needs no IDR", a_wait(resumed=11.3), "no new publish"),
    Case(FAIL, "keyframe_first", "frames in the middle of a GOP came first", no_idr(),
         "the first IDR at t=10.6 s (frame 279) was not the first frame of its connection"),
    Case(FAIL, "keyframe_first", "the IDR comes 1.2 s after the publish",
         no_idr().but("keyframe:received", "gateway", first=True), "1.25 s after the publish"),
    Case(FAIL, "keyframe_first", "no IDR at all at the gateway",
         drop().without("keyframe:received", "gateway").without("media:resumed", "gateway"),
         "no IDR after the publish", {"at": ["gateway"]}),
    Case(FAIL, "keyframe_first", "the key frame is no IDR", drop().but("keyframe:received", "gateway", idr=False),
         "no IDR"),
    Case(FAIL, "keyframe_first", "SPS and PPS are missing",
         drop().but("media:resumed", "viewer", parameter_sets=False), "without SPS/PPS"),
    Case(FAIL, "keyframe_first", "the viewer cannot decode it", drop().but("media:resumed", "viewer", decoded=False),
         "not decoded"),
    Case(PASS, "keyframe_first", "an old key frame on its way is not the new one",
         drop().tell(9.31, "viewer", "keyframe:received", frame=120, idr=True, parameter_sets=True),
         "slowest 90.0 ms after the publish, at destination"),
    Case(FAIL, "keyframe_first", "an old key frame on its way does not stand for the new one",
         drop().without("keyframe:received", "viewer").without("media:resumed", "viewer")
         .tell(9.31, "viewer", "keyframe:received", frame=120, idr=True, parameter_sets=True),
         "at viewer: no IDR after the publish"),
    Case(FAIL, "keyframe_first", "a publisher that began anew needs an IDR too, though no number is missing",
         a_publisher_killed_and_back().but("media:resumed", "viewer", missing=0, frame=9, idr=False), "no IDR"),
    Case(UNKNOWN, "keyframe_first", "the viewer tells nothing", silent(drop(), "viewer"), "viewer told nothing",
         {"at": ["viewer"]}),
    Case(PASS, "media_resumed", "0.5 s after the heal", drop(), "500 ms after the heal", {"within": "1 s"}),
    Case(FAIL, "media_resumed", "0.5 s after the heal where 0.3 s is asked", drop(), "200 ms too late",
         {"within": "300 ms"}),
    Case(FAIL, "media_resumed", "never", drop().without("media:resumed", "viewer"), "never at viewer"),
    Case(FAIL, "media_resumed", "counting on without seeing more is no resumption",
         drop().without("media:resumed").but("media:progressed", frames=100), "never at gateway"),
    Case(UNKNOWN, "media_resumed", "nobody counted anything new",
         a_blip().but("media:progressed", frames=100), "told nothing after the heal"),
    Case(PASS, "media_resumed", "a blip that froze nothing", a_blip(), "never interrupted"),
    Case(PASS, "media_resumed", "after the kill, from the restart on", a_publisher_killed_and_back(),
         "1.40 s after the heal"),
    Case(UNKNOWN, "media_resumed", "nothing healed", a_publisher_gone_for_good(), "no outage"),
    Case(UNKNOWN, "media_resumed", "nobody can tell", silent(drop(), *RECEIVERS), "no receiver"),
    Case(PASS, "longest_gap", "4.4 s where 5 s are allowed", drop(), "4.40 s at viewer", {"at_most": "5 s"}),
    Case(FAIL, "longest_gap", "4.4 s where 3 s are allowed", drop(), "4.40 s at viewer", {"at_most": "3 s"}),
    Case(FAIL, "longest_gap", "a gap that never ended", drop().without("media:resumed").without("media:progressed"),
         "no picture came any more", {"at_most": "5 s"}),
    Case(FAIL, "longest_gap", "the viewer had to join again",
         drop().without("media:resumed").tell(11, "viewer", "media:started", frame=300), "5.90 s",
         {"at_most": "5 s"}),
    Case(PASS, "longest_gap", "a viewer that was started again after it had seen all is not in a gap of old",
         drop().tell(14.5, "viewer", "media:started", frame=400, idr=True), "4.40 s", {"at_most": "5 s"}),
    Case(UNKNOWN, "longest_gap", "the viewer tells nothing", silent(drop(), "viewer"), "viewer told nothing"),
    Case(PASS, "frames_lost", "none in a blip", a_blip(), "0 at viewer"),
    Case(FAIL, "frames_lost", "120 in a drop", drop(), "120 at viewer"),
    Case(PASS, "frames_lost", "120 where 130 are allowed", drop(), "120 at viewer", {"at_most": 130}),
    Case(PASS, "frames_lost", "what two events tell of counts once",
         drop().tell(9.5, "viewer", "media:skipped", first=200, last=220, method="sei"), "120 at viewer",
         {"at_most": 120}),
    Case(UNKNOWN, "frames_lost", "the viewer tells nothing", silent(drop(), "viewer"), "viewer told nothing"),
    Case(PASS, "gate_held", "nothing before the IDR", drop(), "0 frames before the IDR"),
    Case(PASS, "gate_held", "the gate hid what came without an IDR", no_idr(), "90 withheld"),
    Case(FAIL, "gate_held", "the viewer got what it cannot decode", gate_without_a_door(),
         "1 gaps ended without an IDR"),
    Case(UNKNOWN, "gate_held", "nobody can tell", silent(drop(), *RECEIVERS), "no receiver"),
    Case(PASS, "status_seen", "after 1.5 s", drop(), "after 1.50 s"),
    Case(FAIL, "status_seen", "after 1.5 s where 1 s is asked", drop(), 'no "reconnecting"', {"within": "1 s"}),
    Case(FAIL, "status_seen", "it said that all was well",
         drop().but("status:changed", status="live"), 'no "reconnecting" in the outage of t=5.00 s; it said "live"'),
    Case(FAIL, "status_seen", "a second outage goes untold",
         drop().tell(11, "network", "fault:entered", fault="2", kind="black_hole", target="backhaul", what="again")
         .tell(14, "network", "fault:left", fault="2", touched=9), "in the outage of t=11.0 s"),
    Case(PASS, "status_seen", "it had not taken the status back when the next outage came",
         drop().tell(9.35, "publisher", "status:changed", status="reconnecting")
         .tell(11, "network", "fault:entered", fault="2", kind="black_hole", target="backhaul", what="again")
         .tell(14, "network", "fault:left", fault="2", touched=9), "at the slowest of 2"),
    Case(UNKNOWN, "status_seen", "a blip needs no word", a_blip(), "no outage lasted longer"),
    Case(UNKNOWN, "status_seen", "the publisher cannot tell", silent(drop(), "publisher"), "tells no status"),
    # --- sessions
    Case(PASS, "session_kept", "one session, two epochs", drop(), "1 opened"),
    Case(FAIL, "session_kept", "a new session after the outage", drop_and_second_session(), "2 opened"),
    Case(FAIL, "session_kept", "it ended", a_publisher_gone_for_good(), "1 ended before the end"),
    Case(UNKNOWN, "session_kept", "the gateway cannot tell", silent(drop(), "gateway"), "no session"),
    Case(PASS, "session_ended", "when its window ran out", a_publisher_gone_for_good(), "ended 1 times"),
    Case(FAIL, "session_ended", "never", drop(), "ended 0 times"),
    Case(FAIL, "session_ended", "twice", a_publisher_gone_for_good().tell(12, "gateway", "session:ended", session="s1"),
         "ended 2 times"),
    Case(FAIL, "session_ended", "before its window ran out",
         a_publisher_gone_for_good().but("session:ended", later=-3), "before its window"),
    Case(FAIL, "session_ended", "three seconds after its window",
         a_publisher_gone_for_good().but("session:ended", later=3), "ended 9.03 s after the loss"),
    Case(FAIL, "session_ended", "for another reason", a_publisher_gone_for_good(), "window ran out",
         {"reason": "unpublish"}),
    Case(UNKNOWN, "session_ended", "the gateway cannot tell", silent(a_publisher_gone_for_good(), "gateway"),
         "no session"),
    Case(PASS, "publish_accepted", "0.2 s after it connected", drop(), "200 ms after it connected"),
    Case(PASS, "publish_accepted", "after a restart", a_publisher_killed_and_back(), "200 ms after it connected"),
    Case(FAIL, "publish_accepted", "0.2 s where 0.1 s is asked", drop(), "200 ms", {"within": "100 ms"}),
    Case(FAIL, "publish_accepted", "refused as a stranger", refused_for_two_seconds(), "refused 1 times"),
    Case(FAIL, "publish_accepted", "it tried and was never let in", gone_and_never_accepted(), "4 attempts"),
    Case(UNKNOWN, "publish_accepted", "nobody came back", a_blip(), "not put to the test"),
    Case(PASS, "never_refused", "nobody was", drop(), "0 refusals"),
    Case(FAIL, "never_refused", "the publisher was", refused_for_two_seconds(), "1 refusals (told by publisher)"),
    Case(FAIL, "never_refused", "a viewer was while the session lasted",
         drop().tell(7, "viewer", "play:refused", stream="live/cam1", code="NetStream.Play.StreamNotFound"),
         "1 refusals (told by viewer)"),
    Case(PASS, "never_refused", "when the broadcast is over there is nothing to play",
         a_publisher_gone_for_good().tell(12, "viewer", "play:refused", stream="live/cam1"), "0 refusals"),
    Case(PASS, "never_refused", "the publisher alone can tell", silent(drop(), "gateway"), "0 refusals"),
    Case(PASS, "never_refused", "the gateway alone can tell", silent(drop(), "publisher"), "0 refusals"),
    Case(UNKNOWN, "never_refused", "nobody can tell", silent(drop(), "gateway", "publisher"), "neither"),
    Case(PASS, "no_stale_harm", "the old close was ignored", drop(), "1 late events of older ones ignored"),
    Case(FAIL, "no_stale_harm", "the old close counted as a loss", stale_close_kills_the_new_one(), "session:lost"),
    Case(FAIL, "no_stale_harm", "the old timer ended the session", stale_end_kills_the_session(), "session:ended"),
    Case(UNKNOWN, "no_stale_harm", "the gateway cannot tell", silent(drop(), "gateway"), "no session"),
    # --- egress
    Case(PASS, "egress_kept", "one push throughout", drop(), "the same push"),
    Case(FAIL, "egress_kept", "stopped and started again", egress_restarted(), "1 x egress:stopped"),
    Case(FAIL, "egress_kept", "the destination saw another push",
         drop().tell(9.4, "destination", "push:accepted", push=2), "1 x push:accepted"),
    Case(UNKNOWN, "egress_kept", "there is none", silent(drop(), "gateway", "destination"), "nobody told of an egress"),
    Case(PASS, "egress_stopped", "once, 0.4 s after the session", a_publisher_gone_for_good(), "400 ms later"),
    Case(FAIL, "egress_stopped", "never", a_publisher_gone_for_good().without("egress:stopped"), "stopped 0 times"),
    Case(FAIL, "egress_stopped", "twice",
         a_publisher_gone_for_good().tell(12, "gateway", "egress:stopped", session="s1", egress="platform"),
         "stopped 2 times"),
    Case(PASS, "egress_stopped", "counted from the fault", a_publisher_gone_for_good(), "6.45 s later",
         {"after": "fault", "within": "7 s"}),
    Case(FAIL, "egress_stopped", "not as soon after the fault as asked", a_publisher_gone_for_good(),
         "6.45 s after fault:entered", {"after": "fault", "within": "2 s"}),
    Case(PASS, "egress_stopped", "never, as asked", drop(), "never stopped", {"exactly": 0}),
    Case(FAIL, "egress_stopped", "told to stop twice",
         a_publisher_gone_for_good().tell(12, "gateway", "egress:stop_requested", session="s1", egress="platform"),
         "told to stop 2 times"),
    Case(FAIL, "egress_stopped", "6 s after the session", a_publisher_gone_for_good().but("egress:stopped", later=6),
         "6.40 s after session:ended"),
    Case(FAIL, "egress_stopped", "before the session ended",
         a_publisher_gone_for_good().but("egress:stopped", later=-3), "without session:ended before it"),
    Case(FAIL, "egress_stopped", "the destination still has the push",
         a_publisher_gone_for_good().without("push:ended"), "still has 1 push"),
    Case(UNKNOWN, "egress_stopped", "there is none", silent(drop(), "gateway", "destination"), "nobody told"),
    Case(PASS, "egress_stopped", "what was started after it came back has no reason to stop", stopped_at_loss(),
         "each 1 times, 300 ms later", {"after": "session_lost"}),
    Case(FAIL, "egress_stopped", "the second life does not excuse the first",
         stopped_at_loss().without("egress:stopped").without("egress:stop_requested"), "platform stopped 0 times",
         {"after": "session_lost"}),
    Case(PASS, "leftover_ended", "found, ended, and only then replaced", gateway_killed_and_back(),
         "1 ended, 500 ms after the start"),
    Case(FAIL, "leftover_ended", "later than asked", gateway_killed_and_back(), "worker 40 was ended 500 ms after",
         {"within": "400 ms"}),
    Case(FAIL, "leftover_ended", "never found", gateway_killed_and_back().without("egress:leftover_ended"),
         "worker 40 was never ended"),
    Case(FAIL, "leftover_ended", "its successor pushed beside it",
         gateway_killed_and_back().but("push:ended", later=1), "two pushers at once at t=7.20 s (push:accepted)"),
    Case(FAIL, "leftover_ended", "its successor was refused while it still pushed",
         gateway_killed_and_back().tell(6.3, "destination", "push:refused", code="BadName"), "(push:refused)"),
    Case(UNKNOWN, "leftover_ended", "no gateway was killed", drop(), "no gateway that had an egress"),
    Case(UNKNOWN, "leftover_ended", "the destination cannot tell", silent(gateway_killed_and_back(), "destination"),
         "tells of no pushes"),
    Case(PASS, "honest_status", "4 s of silence are no lie yet", drop(), "4.40 s silent"),
    Case(FAIL, "honest_status", "active through 55 s of silence", lying_egress(), "without media"),
    Case(FAIL, "honest_status", "called failed while media arrives", buried_alive(), "went on arriving"),
    Case(UNKNOWN, "honest_status", "the destination cannot tell", silent(drop(), "destination"), "told nothing"),
    # --- the end
    Case(PASS, "nothing_orphaned", "the lab is empty", drop(), "as empty as it was"),
    Case(PASS, "nothing_orphaned", "what was there before is no orphan",
         drop().but("ledger:taken", processes=[{"pid": 2, "source": "", "command": "init"}]), "as empty"),
    Case(FAIL, "nothing_orphaned", "a worker is left",
         drop().without("ledger:taken").tell(15.8, "engine", "ledger:taken", moment="after",
             processes=[{"pid": 40, "source": "", "command": "python -m reference_impl.gateway.egress_worker"}]),
         "process started by a program 40 (python -m reference_impl.gateway.egress_worker)"),
    Case(FAIL, "nothing_orphaned", "a socket is left",
         drop().tell(15.85, "engine", "ledger:taken", moment="after", sockets=["gateway tcp 10.0.9.2:1935 ESTAB"]),
         "socket gateway tcp"),
    Case(PASS, "nothing_orphaned", "TIME_WAIT is the kernel's own affair",
         drop().tell(15.85, "engine", "ledger:taken", sockets=[{"node": "viewer", "state": "TIME_WAIT"}]), "as empty"),
    Case(FAIL, "nothing_orphaned", "the gateway still holds a session",
         drop().tell(15.45, "gateway", "ledger:told", sessions=1, tasks=3, descriptors=9),
         "1 sessions held by gateway"),
    Case(FAIL, "nothing_orphaned", "descriptors have leaked",
         drop().tell(15.45, "gateway", "ledger:told", tasks=3, descriptors=30), "21 descriptors more"),
    Case(PASS, "nothing_orphaned", "so many descriptors are allowed",
         drop().tell(15.45, "gateway", "ledger:told", tasks=3, descriptors=30), "as empty", {"descriptors": 21}),
    Case(FAIL, "nothing_orphaned", "the gateway forgot its egress",
         a_publisher_gone_for_good().without("egress:stopped"), "egress platform (worker 40 never stopped)"),
    Case(PASS, "nothing_orphaned", "a killed gateway's worker was found and ended", gateway_killed_and_back(),
         "as empty as it was"),
    Case(FAIL, "nothing_orphaned", "a killed gateway's worker was never found",
         gateway_killed_and_back().without("egress:leftover_ended"), "(worker 40 never stopped)"),
    Case(FAIL, "nothing_orphaned", "another worker than the one left was ended",
         gateway_killed_and_back().but("egress:leftover_ended", worker=39), "(worker 40 never stopped)"),
    Case(FAIL, "nothing_orphaned", "a session never ended", a_publisher_gone_for_good().without("session:ended"),
         "session s1 (never ended)"),
    Case(UNKNOWN, "nothing_orphaned", "nobody looked", drop().without("ledger:taken"), "no ledger"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}-{case.outcome.value}-{case.why}")
def test_a_check_judges_the_story_rightly(case: Case) -> None:
    verdict = verdict_of(case)
    assert (verdict.outcome, case.says in verdict.observed) == (case.outcome, True), verdict


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_can_pass_and_can_be_broken(name: str) -> None:
    outcomes = {case.outcome for case in CASES if case.check == name}
    assert PASS in outcomes
    assert outcomes & {FAIL, UNKNOWN}
    if name not in EVERY_RUN:
        assert outcomes == {PASS, FAIL, UNKNOWN}


@pytest.mark.parametrize("name", CHECKS)
def test_a_history_that_was_cut_short_proves_nothing(name: str) -> None:
    verdict = run_check(drop().history(cut="it has no closing line"), expectation(name).limits)
    assert verdict.outcome is UNKNOWN
    assert "cut short" in verdict.observed


@pytest.mark.parametrize("case", [case for case in CASES if case.outcome is FAIL], ids=lambda case: case.why)
def test_every_failure_explains_itself(case: Case) -> None:
    verdict = verdict_of(case)
    numbers = {event.number for event in case.story.history().events}
    assert "active fault" in verdict.because
    assert verdict.claim and verdict.expected and verdict.observed
    assert set(verdict.evidence) <= numbers


def test_a_failure_names_the_deciding_setting_and_the_fault_that_was_active() -> None:
    verdict = run_check(drop().history(), expectation("outage_detected", {"within": "1 s"}).limits)
    assert "decided by stall_after=1.0 s" in verdict.because
    assert "active fault: backhaul black hole (since t=5.00 s)" in verdict.because
    assert verdict.evidence
