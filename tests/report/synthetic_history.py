"""A run as the harness would tell it, made up: the hotspot's backhaul drops for 4 s while a phone streams.

With ``idr=False`` the publisher is the planted ``reference-no-idr``: it reconnects, but goes on in the middle of a
group of pictures, so the gateway's gate keeps the picture frozen until the next regular keyframe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checks.verdict import Outcome, Verdict
from harness.history.events import EVENTS, Event
from harness.report.model import RunView
from reference_impl import telemetry

S = 1_000_000_000
ROLES = {
    "publisher": "phone",
    "gateway": "gateway",
    "viewer": "viewer",
    "viewer2": "viewer2",
    "destination": "platform",
}
FPS = 30
GOP_S = 2.0


class Story:
    """Collects events in any order; verifies each against the tables of events."""

    def __init__(self) -> None:
        self._told: list[tuple[int, str, str, str, dict[str, Any]]] = []

    def tell(self, t_s: float, source: str, name: str, **data: Any) -> None:
        node = ROLES.get(source, "-")
        self.tell_at(t_s, node, source, name, data)

    def tell_at(self, t_s: float, node: str, source: str, name: str, data: dict[str, Any]) -> None:
        verify(name, data)
        self._told.append((round(t_s * S), node, source, name, data))

    def events(self) -> list[Event]:
        ordered = sorted(self._told, key=lambda item: item[0])
        return [Event(number, *item) for number, item in enumerate(ordered)]


def verify(name: str, data: Mapping[str, Any]) -> None:
    """Raise unless the tables know this event."""
    if name in EVENTS:
        assert data.keys() == EVENTS[name].keys(), (name, data.keys() ^ EVENTS[name].keys())
    else:
        telemetry.verify(name, data)


def frame_at(t_s: float) -> int:
    return round((t_s - 1.2) * FPS)


def drop_events(*, idr: bool, drop_s: float = 4.0, extra_events: int = 0) -> list[Event]:
    """The whole history."""
    story, cut = Story(), 8.3
    heal = cut + drop_s
    back = heal + 0.31
    picture_back = back + 0.19 if idr else 1.2 + GOP_S * (int((back - 1.2) / GOP_S) + 1) + 0.17
    end = heal + 6.5
    _set_up(story, idr=idr)
    _outage(story, cut=cut, heal=heal)
    _publisher(story, cut=cut, heal=heal, back=back, idr=idr)
    _gateway(story, cut=cut, back=back, picture_back=picture_back, idr=idr)
    for role, late in (("viewer", 0.0), ("viewer2", 0.012), ("destination", 0.034)):
        _receiver(story, role, cut=cut, picture_back=picture_back + late, end=end, idr=idr)
    _keyframes(story, cut=cut, back=back, end=end, idr=idr)
    _samples(story, cut=cut, heal=heal, back=back, picture_back=picture_back, end=end)
    for number in range(extra_events):
        story.tell(2 + number * (end - 3) / max(extra_events, 1), "publisher", "keyframe:requested", reason="x" * 40)
    _tear_down(story, end=end)
    return story.events()


def _set_up(story: Story, *, idr: bool) -> None:
    systems = dict.fromkeys(ROLES, "reference")
    systems["publisher"] = "reference" if idr else "reference-no-idr"
    story.tell(
        0,
        "runner",
        "run:started",
        playbook="hotspot/backhaul_drop_4s",
        engine="netns",
        seed=42,
        topology="hotspot",
        roles=ROLES,
        systems=systems,
    )
    story.tell(0.046, "engine", "lab:ready", nodes=5, took_ms=43.7, scheduling="SCHED_FIFO 10")
    for number, role in enumerate(reversed(ROLES)):
        started = {"pid": 100 + number, "program": systems[role], "incarnation": 1}
        story.tell_at(0.05, ROLES[role], "engine", "process:started", started)
        story.tell(0.62 + number * 0.05, role, "program:ready", role=role, detail="")
    story.tell(0.9, "publisher", "connect:attempted", connection=1, attempt=1, host="gateway.test", port=1935)
    story.tell(
        0.98,
        "publisher",
        "connect:established",
        connection=1,
        attempt=1,
        took_ms=82.1,
        local="10.0.1.2:40000",
        remote="10.0.9.2:1935",
    )
    story.tell(1.18, "publisher", "publish:started", connection=1, took_ms=201.4)
    story.tell(1.18, "publisher", "status:changed", status="live", reason="published")
    story.tell(1.1, "gateway", "publish:accepted", stream="live/cam1", session="s1", epoch=1, peer="198.51.100.7:61000")
    story.tell(1.1, "gateway", "session:opened", stream="live/cam1", session="s1")
    story.tell(1.3, "gateway", "gate:opened", session="s1", epoch=1, frame=0, withheld=0, waited_ms=11.0)
    story.tell(
        1.4, "gateway", "egress:started", session="s1", egress="platform", worker=131, url="rtmp://platform.test/in/x"
    )
    story.tell(1.4, "gateway", "egress:state_changed", egress="platform", state="starting", reason="", setting="")
    story.tell(1.9, "gateway", "egress:state_changed", egress="platform", state="live", reason="", setting="")
    story.tell(3.2, "runner", "steady:reached", took_ms=2150)
    story.tell(3.3, "runner", "script:started", steps=1)


def _outage(story: Story, *, cut: float, heal: float) -> None:
    text = f"at: 5s  black_hole: {{link: backhaul, for: {heal - cut:g}s}}"
    story.tell(cut, "runner", "step:begun", step=1, line=14, text=text, late_ms=0.4)
    settings = {"link": "backhaul", "direction": "both", "proto": "any"}
    story.tell(
        cut,
        "network",
        "fault:entered",
        fault="f1",
        kind="black_hole",
        scope="network",
        target="backhaul",
        what="backhaul swallows everything, both ways; Wi-Fi stays up",
        settings=settings,
    )
    receipt = {"packets": 487, "bytes": 391_002, "up": 402, "down": 85}
    story.tell(heal, "network", "fault:left", fault="f1", touched=487, receipt=receipt)
    story.tell(heal + 5, "runner", "script:ended", steps=1)


def _publisher(story: Story, *, cut: float, heal: float, back: float, idr: bool) -> None:
    setting = "stall_after = 1.50 s"
    noticed = cut + 1.52
    story.tell(
        noticed,
        "publisher",
        "stall:detected",
        connection=1,
        watchdog="ack_progress",
        age_ms=1507.3,
        setting=setting,
    )
    story.tell(noticed, "publisher", "reconnect:started", reason="stall", setting=setting)
    story.tell(noticed, "publisher", "status:changed", status="reconnecting", reason="stall")
    attempts = int((heal + 0.1 - noticed) / 0.5) + 1
    for n in range(attempts):
        story.tell(
            noticed + n * 0.5,
            "publisher",
            "connect:attempted",
            connection=2 + n,
            attempt=n + 1,
            host="gateway.test",
            port=1935,
        )
        if n + 1 < attempts:
            story.tell(
                noticed + n * 0.5 + 0.49,
                "publisher",
                "connect:failed",
                connection=2 + n,
                attempt=n + 1,
                reason="no answer within 0.50 s",
            )
    new = 1 + attempts
    story.tell(
        back - 0.2,
        "publisher",
        "connect:established",
        connection=new,
        attempt=attempts,
        took_ms=83.0,
        local="10.0.1.2:40008",
        remote="10.0.9.2:1935",
    )
    story.tell(back - 0.19, "publisher", "connection:reset", connection=1, reason="replaced")
    story.tell(back, "publisher", "publish:started", connection=new, took_ms=190.0)
    story.tell(back, "publisher", "status:changed", status="live", reason="reconnected")
    story.tell(
        back,
        "publisher",
        "reconnect:completed",
        reconnect=1,
        connection=new,
        attempts=attempts,
        took_ms=(back - noticed) * 1000,
    )
    if idr:
        story.tell(back, "publisher", "keyframe:requested", reason="reconnect")


def _gateway(story: Story, *, cut: float, back: float, picture_back: float, idr: bool) -> None:
    story.tell(
        cut + 1.03,
        "gateway",
        "session:stalled",
        session="s1",
        epoch=1,
        silent_ms=1001.2,
        setting="silent_after = 1.00 s",
    )
    story.tell(
        back - 0.05,
        "gateway",
        "publish:accepted",
        stream="live/cam1",
        session="s1",
        epoch=2,
        peer="198.51.100.7:61008",
    )
    story.tell(back - 0.05, "gateway", "session:taken_over", session="s1", old_epoch=1, new_epoch=2, rule="silent")
    story.tell(back - 0.05, "gateway", "gate:closed", session="s1", reason="new epoch")
    story.tell(back - 0.02, "gateway", "stale:ignored", session="s1", epoch=1, what="reset")
    story.tell(back + 0.04, "gateway", "session:resumed", session="s1", epoch=2, away_ms=(back + 0.04 - cut) * 1000)
    if not idr:
        story.tell(
            back + 0.06,
            "gateway",
            "keyframe:received",
            frame=frame_at(back),
            idr=False,
            parameter_sets=False,
            first=True,
        )
    story.tell(
        picture_back - 0.05,
        "gateway",
        "gate:opened",
        session="s1",
        epoch=2,
        frame=frame_at(picture_back - 0.12),
        withheld=0 if idr else 31,
        waited_ms=(picture_back - 0.05 - back) * 1000,
    )


def _receiver(story: Story, role: str, *, cut: float, picture_back: float, end: float, idr: bool) -> None:
    last, frame = frame_at(cut - 0.1), frame_at(picture_back - 0.12)
    if role == "destination":
        story.tell(1.85, role, "push:accepted", stream="in/x", peer="10.0.9.2:51000", push=1)
    else:
        story.tell(1.5, role, "play:started", stream="live/cam1")
    story.tell(1.95, role, "media:started", frame=15, idr=True, parameter_sets=True, decoded=True, delay_ms=118.2)
    story.tell(1.96, role, "picture:saved", frame=15, path=f"pictures/{role}/first.jpg", moment="first")
    story.tell(cut + 0.62, role, "media:frozen", last_frame=last, after_ms=500.0, setting="frozen_after = 500 ms")
    story.tell(
        cut + 0.63,
        role,
        "picture:saved",
        frame=last,
        path=f"pictures/{role}/before_{last}.jpg",
        moment="last before freeze",
    )
    story.tell(
        picture_back,
        role,
        "media:resumed",
        last_frame=last,
        frame=frame,
        gap_ms=(picture_back - cut - 0.12) * 1000,
        missing=frame - last - 1,
        idr=True,
        parameter_sets=True,
        decoded=True,
        delay_ms=131.0,
        method="sei",
    )
    story.tell(
        picture_back + 0.01,
        role,
        "picture:saved",
        frame=frame,
        path=f"pictures/{role}/after_{frame}.jpg",
        moment="first after freeze",
    )
    story.tell(end - 0.4, role, "media:ended", frames=470, last_frame=frame_at(end - 0.6), reason="stop")


def _keyframes(story: Story, *, cut: float, back: float, end: float, idr: bool) -> None:
    moments = [1.2 + n * GOP_S for n in range(int((end - 1.8) / GOP_S))]
    if idr:
        moments = [m for m in moments if m < back] + [back + 0.02 + n * GOP_S for n in range(3)]
    for moment in moments:
        story.tell(moment, "publisher", "keyframe:encoded", frame=frame_at(moment), reason="interval")
        if moment < cut - 0.1 or moment > back:
            for role in ("gateway", "viewer", "viewer2", "destination"):
                story.tell(
                    moment + 0.1,
                    role,
                    "keyframe:received",
                    frame=frame_at(moment),
                    idr=True,
                    parameter_sets=True,
                    first=False,
                )


def _samples(story: Story, *, cut: float, heal: float, back: float, picture_back: float, end: float) -> None:
    for tick in range(12, round(end * 10) - 6):
        t = tick / 10 + 0.003
        down = cut < t < heal
        old = t < heal + 0.1
        media = 26_000 + (tick * 7919) % 5_000 + (18_000 if tick % 20 == 4 else 0)
        flow = f"phone:{40000 if old else 40008}>gateway:1935/tcp"
        if t < cut or t > back:
            _flow(story, t, flow, media if t < cut or t > back + 0.3 else media * 2, 0)
            _flow(story, t, "gateway:1935>phone:40000/tcp", 900, 0)
        elif down:
            _flow(story, t, flow, 0, 9 if t < cut + 0.5 else 1)
        if t < cut + 0.15 or t > picture_back - 0.1:
            for to, port in (("viewer", 50100), ("viewer2", 50200)):
                _flow(story, t, f"gateway:1935>{to}:{port}/tcp", media, 0)
            _flow(story, t, "gateway:51000>platform:1935/tcp", media, 0)
        age = max(0.0, min(t, back) - cut) * 1000 if old else 0
        story.tell(
            t,
            "publisher",
            "tcp:sampled",
            connection=1 if old else 9,
            outstanding_bytes=round(min(14_000 + age * 250, 420_000)),
            unsent_bytes=0,
            acked_bytes=tick * 26_000,
            last_ack_age_ms=age + 21,
            rto_ms=min(280.0 * 2 ** int(age / 700), 4000.0),
            srtt_ms=78.0,
            backoff=int(age / 700),
            queued_bytes=0,
        )
        if tick % 5 == 0:
            for role, base in (("viewer", 118.0), ("viewer2", 121.0), ("destination", 143.0)):
                away = cut + 0.12 < t < picture_back
                delay = None if away else base + (tick * 31) % 9 + (140 if picture_back < t < picture_back + 1 else 0)
                story.tell(
                    t,
                    role,
                    "media:progressed",
                    frames=0 if away else 15,
                    last_frame=frame_at(t),
                    video_bytes=0 if away else 120_000,
                    audio_packets=0 if away else 23,
                    delay_ms=delay,
                    delay_max_ms=delay,
                    longest_gap_ms=34.0,
                )


def _flow(story: Story, t: float, flow: str, size: int, dropped: int) -> None:
    because = {"black_hole": dropped} if dropped else {}
    story.tell(
        t,
        "network",
        "flow:counted",
        flow=flow,
        packets=size // 1200 + 1,
        bytes=size,
        dropped=dropped,
        dropped_because=because,
    )


def _tear_down(story: Story, *, end: float) -> None:
    story.tell(end - 0.3, "gateway", "session:ended", session="s1", reason="stop", setting="")
    story.tell(
        end - 0.5, "gateway", "egress:stopped", session="s1", egress="platform", reason="stop", exit="0", took_ms=41.0
    )
    histogram = {"10": 812, "20": 14_021, "50": 20_133, "100": 4_410, "200": 312, "500": 41, "1000": 6, "2000": 1}
    story.tell(
        end - 0.1,
        "network",
        "emulator:measured",
        packets=39_736,
        late_p50_us=31.0,
        late_p99_us=148.0,
        late_max_us=1422.0,
        histogram=histogram,
        ring_lost=0,
        unsent=0,
        malformed=0,
        left_out=0,
    )
    story.tell(end, "runner", "run:ended")


def number_of(events: list[Event], name: str, source: str) -> int:
    """Number of the first event with this name from this source."""
    return next(event.number for event in events if event.name == name and event.source == source)


def drop_verdicts(events: list[Event], *, idr: bool) -> list[Verdict]:
    """The verdicts that the checks would give."""
    stall = number_of(events, "stall:detected", "publisher")
    resumed = number_of(events, "media:resumed", "viewer")
    verdicts = [
        Verdict(
            Outcome.PASS,
            "outage_detected_within",
            "the outage is detected within 2.00 s",
            "a stall told at most 2.00 s after the fault",
            "1.52 s",
            "",
            (stall,),
            21,
        ),
        Verdict(Outcome.PASS, "reconnects", "exactly one reconnect", "1", "1", "", (stall + 1,), 22),
        Verdict(
            Outcome.PASS,
            "egress",
            "egress is kept",
            "no stop before the end",
            "kept, stopped once at the end",
            "",
            (),
            23,
        ),
        Verdict(Outcome.PASS, "nothing_orphaned", "nothing is orphaned", "an empty ledger", "empty ledger"),
    ]
    if idr:
        verdicts.insert(
            2,
            Verdict(
                Outcome.PASS,
                "first_frame_is_idr",
                "the first frame after the reconnect is an IDR",
                "IDR with SPS/PPS at gateway, viewer and destination",
                "IDR frame 343",
                "",
                (resumed,),
                24,
            ),
        )
        return verdicts
    wrong = next(e.number for e in events if e.name == "keyframe:received" and not e.data["idr"])
    verdicts.insert(
        2,
        Verdict(
            Outcome.FAIL,
            "first_frame_is_idr",
            "the first frame after the reconnect is an IDR",
            "an IDR with SPS/PPS at the gateway within 1.00 s of the reconnect",
            "frame 342 is a P frame; 31 frames were withheld until the next IDR, 0.76 s later",
            "the publisher asked its encoder for no keyframe (keyframe_on_reconnect)",
            (stall, wrong, resumed),
            24,
        ),
    )
    verdicts.append(
        Verdict(
            Outcome.UNKNOWN,
            "media_resumed_within",
            "the viewer sees new pictures within 2.00 s of healing",
            "at most 2.00 s",
            "no SEI stamps on 31 frames",
            "the check could not match frames",
            (resumed,),
            25,
        )
    )
    return verdicts


def drop_run(*, idr: bool, run_dir: Path | None = None, extra_events: int = 0) -> RunView:
    """The whole run as the report is given it."""
    events = drop_events(idr=idr, extra_events=extra_events)
    provenance = {
        "host": "builder-7",
        "kernel": "Linux 6.18.5 x86_64",
        "versions": {"deadair": "0.1.0", "python": "3.11.7", "pyroute2": "0.9.7", "av": "17.0.1"},
        "command": "deadair run hotspot/backhaul_drop_4s --seed 42",
        "seed": 42,
        "git": {"revision": "8e1d866", "dirty": True},
        "scheduling": "SCHED_FIFO 10",
        "wall_clock_at_zero": "2026-11-21T03:51:49.120331Z",
        "took_s": 21.4,
    }
    return RunView(events=events, verdicts=drop_verdicts(events, idr=idr), provenance=provenance, run_dir=run_dir)
