"""Histories that read like stories, for tests of the checks.

Times are seconds of the script (the playbook's time). An event needs only the fields that matter to the story; the
others are filled in by the table's types. ``but`` and ``without`` make the smallest change that breaks something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from harness.history import events, journal
from harness.history.events import Event
from harness.history.query import History
from harness.units import SECOND
from reference_impl import telemetry

ROLES = {"publisher": "phone", "gateway": "gateway", "viewer": "viewer", "destination": "platform"}
PIDS = {role: 11 + place for place, role in enumerate(ROLES)}
"""Of each role's first program; its second one has 10 more."""
WATCHERS = ("gateway", "viewer", "destination")
BEFORE_THE_SCRIPT = 3.0
FPS = 30

_EMPTY: dict[type, Callable[[], Any]] = {str: str, int: int, float: float, bool: bool, dict: dict, list: list}


@dataclass(frozen=True)
class Line:
    """One event of a story; the story's order decides between equal times."""

    at: float
    source: str
    name: str
    data: dict[str, Any]


class Story:
    """Collects lines; :meth:`history` tells them in order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def tell(self, at: float, source: str, name: str, **data: Any) -> Self:
        """One event; raises for what the tables of events do not know."""
        table = {**telemetry.EVENTS, **events.EVENTS}[name]
        filled = {field: data.pop(field, _empty(kind)) for field, kind in table.items()}
        filled |= data
        journal.verify(source, name, filled)
        self.lines.append(Line(at, source, name, filled))
        return self

    def without(self, name: str, source: str | None = None) -> Self:
        """As if these events had never been told."""
        kept = [line for line in self.lines if line.name != name or source not in (None, line.source)]
        assert len(kept) < len(self.lines), f"the story has no {name}"
        self.lines = kept
        return self

    def but(self, name: str, source: str | None = None, *, later: float = 0, **data: Any) -> Self:
        """The same story, but these events have other data, or came later."""
        assert any(line.name == name and source in (None, line.source) for line in self.lines), name
        self.lines = [
            Line(line.at + later, line.source, name, {**line.data, **data})
            if line.name == name and source in (None, line.source)
            else line
            for line in self.lines
        ]
        return self

    def history(self, *, cut: str = "") -> History:
        """The story as a history, complete unless ``cut`` says why not."""
        ordered = sorted(self.lines, key=lambda line: line.at)
        return History((_event(number, line) for number, line in enumerate(ordered)), cut=cut)

    # --- chapters ----------------------------------------------------------------------------------------------

    def black_hole(
        self, start: float, end: float, *, link: str = "backhaul", fault: str = "hole", **settings: Any
    ) -> Self:
        """Everything on a link is swallowed for a while."""
        entered = {"fault": fault, "kind": "black_hole", "scope": "network", "target": link}
        self.tell(start, "network", "fault:entered", **entered, what=f"{link} black hole", settings=settings)
        return self.tell(end, "network", "fault:left", fault=fault, touched=400)

    def kill(self, at: float, role: str, *, back: float | None = None) -> Self:
        """SIGKILL, and the role's next start."""
        entered = {"fault": f"kill-{role}", "kind": "kill", "scope": "process", "target": role}
        self.tell(at, "engine", "fault:entered", **entered, what=f"{role} killed")
        receipt = {"pid": PIDS[role], "signal": "SIGKILL"}
        self.tell(at, "engine", "fault:left", fault=f"kill-{role}", touched=1, receipt=receipt)
        self.tell(at, role, "process:signalled", pid=PIDS[role], signal="SIGKILL")
        self.tell(at + 0.01, role, "process:exited", pid=PIDS[role], signal=9, program=role)
        if back is not None:
            self.tell(back, role, "process:started", pid=PIDS[role] + 10, incarnation=2, program=role)
            self.tell(back + 0.3, role, "program:ready", role=role)
        return self

    def freeze(self, role: str, start: float, end: float, *, missing: int, idr: bool = True) -> Self:
        """A receiver without pictures from ``start`` to ``end``."""
        last = round(start * FPS)
        self.tell(start + 0.5, role, "media:frozen", last_frame=last, after_ms=500, setting="frozen_after=500 ms")
        return self.tell(
            end,
            role,
            "media:resumed",
            last_frame=last,
            frame=last + missing + 1,
            gap_ms=(end - start) * 1000,
            missing=missing,
            idr=idr,
            parameter_sets=idr,
            decoded=idr and role != "gateway",
            method="sei",
        )

    def reconnect(self, noticed: float, back: float, *, epoch: int = 2) -> Self:
        """The publisher notices a stall, tries every 0.25 s, and is let in at ``back``."""
        setting = "stall_after=1.0 s"
        self.tell(
            noticed, "publisher", "stall:detected", connection=1, age_ms=1000, setting=setting, watchdog="ack_progress"
        )
        self.tell(noticed, "publisher", "status:changed", status="reconnecting")
        self.tell(noticed, "publisher", "reconnect:started", reason="stall", setting=setting)
        attempts = max(1, int((back - 0.2 - noticed) / 0.25) + 1)
        for number in range(attempts):
            self.tell(noticed + 0.25 * number, "publisher", "connect:attempted", connection=epoch + number)
        last = epoch + attempts - 1
        self.tell(back - 0.2, "publisher", "connect:established", connection=last, attempt=attempts)
        self.tell(back - 0.2, "publisher", "connection:reset", connection=1, reason="replaced")
        self.tell(back - 0.01, "gateway", "stale:ignored", session="s1", epoch=epoch - 1, what="close")
        self.publish(back, connection=last, epoch=epoch)
        self.tell(back + 0.01, "publisher", "reconnect:completed", reconnect=epoch - 1, attempts=attempts)
        return self.tell(back + 0.01, "publisher", "status:changed", status="live")

    def publish(self, at: float, *, connection: int, epoch: int) -> Self:
        """The gateway accepts a publish, and its first frame is a key frame everywhere."""
        self.tell(at, "gateway", "publish:accepted", session="s1", stream="live/cam1", epoch=epoch)
        self.tell(at + 0.01, "publisher", "publish:started", connection=connection)
        self.tell(at + 0.02, "publisher", "keyframe:encoded", frame=round(at * FPS), reason="reconnect")
        self.tell(at + 0.05, "gateway", "gate:opened", session="s1", epoch=epoch, frame=round(at * FPS))
        for place, delay in (("gateway", 0.05), ("viewer", 0.08), ("destination", 0.09)):
            self._keyframe(at + delay, place, frame=round(at * FPS), first=place == "gateway")
        return self

    def _keyframe(self, at: float, place: str, *, frame: int, first: bool = False) -> Self:
        return self.tell(at, place, "keyframe:received", frame=frame, idr=True, parameter_sets=True, first=first)

    def progress(self, start: float, end: float, *roles: str) -> Self:
        """Receivers count pictures every second."""
        for role in roles or WATCHERS:
            for second in range(int(end - start) + 1):
                frame = round((start + second) * FPS)
                self.tell(start + second, role, "media:progressed", frames=frame, last_frame=frame, longest_gap_ms=36.0)
        return self

    def sampled(self, at: float, *, rto_s: float, backoff: int, srtt_s: float = 0.05) -> Self:
        """What TCP_INFO says of the publisher's connection."""
        figures = {"rto_ms": rto_s * 1000, "srtt_ms": srtt_s * 1000, "backoff": backoff, "connection": 1}
        return self.tell(at, "publisher", "tcp:sampled", **figures)

    def session_ends(self, *, lost: float, window: float, ended: float) -> Self:
        """The publisher is given up: the window runs out, session and egress end."""
        self.tell(lost, "gateway", "session:lost", session="s1", epoch=1, reason="idle", window_s=window)
        setting = f"reconnect_window={window:g} s"
        self.tell(ended, "gateway", "session:ended", session="s1", reason="window ran out", setting=setting)
        self.tell(ended + 0.1, "gateway", "egress:stop_requested", session="s1", egress="platform", reason="session")
        self.tell(ended + 0.4, "gateway", "egress:stopped", session="s1", egress="platform", reason="session")
        return self.tell(ended + 0.4, "destination", "push:ended", push=1, reason="unpublish")

    def ends(self, at: float, *, session_open: bool = True) -> Self:
        """The script is over; everything is stopped in order and the ledgers are empty."""
        self.tell(at, "runner", "script:ended")
        if session_open:
            self.tell(at + 0.1, "gateway", "session:ended", session="s1", reason="shut down")
            self.tell(at + 0.2, "gateway", "egress:stopped", session="s1", egress="platform", reason="shut down")
            self.tell(at + 0.2, "destination", "push:ended", push=1, reason="unpublish")
        for role, pid in self._alive():
            self.tell(at + 0.4, role, "ledger:told", tasks=3, descriptors=9)
            self.tell(at + 0.5, role, "program:stopped", role=role, reason="control")
            self.tell(at + 0.6, role, "process:exited", program=role, pid=pid, expected=True)
        self.tell(at + 0.8, "engine", "ledger:taken", moment="after")
        self.tell(at + 0.9, "network", "emulator:measured", packets=90_000, late_p99_us=140.0, late_max_us=900.0)
        return self.tell(at + 1.0, "runner", "run:ended")

    def _alive(self) -> list[tuple[str, int]]:
        started = [(line.source, line.data["pid"]) for line in self.lines if line.name == "process:started"]
        exited = [(line.source, line.data["pid"]) for line in self.lines if line.name == "process:exited"]
        return [process for process in started if process not in exited]


def a_live_stream() -> Story:
    """Publisher, gateway, viewer and destination are up and streaming; the script begins at 0 s."""
    story = Story()
    zero = -BEFORE_THE_SCRIPT
    systems = dict.fromkeys(ROLES, "reference")
    story.tell(zero, "runner", "run:started", engine="netns", topology="hotspot", seed=1, roles=ROLES, systems=systems)
    story.tell(zero + 0.1, "engine", "ledger:taken", moment="before")
    for role in ROLES:
        story.tell(zero + 0.2, role, "process:started", program=role, pid=PIDS[role], incarnation=1)
        story.tell(zero + 0.4, role, "program:ready", role=role)
        story.tell(zero + 0.4, role, "ledger:told", tasks=3, descriptors=9)
    story.tell(zero + 0.5, "publisher", "connect:attempted", connection=1)
    story.tell(zero + 0.6, "publisher", "connect:established", connection=1)
    story.tell(zero + 0.8, "gateway", "publish:accepted", session="s1", stream="live/cam1", epoch=1)
    story.tell(zero + 0.8, "gateway", "session:opened", session="s1", stream="live/cam1")
    story.tell(zero + 0.8, "publisher", "publish:started", connection=1)
    story.tell(zero + 0.8, "publisher", "status:changed", status="live")
    story.tell(zero + 1.0, "gateway", "egress:started", session="s1", egress="platform", worker=40)
    story.tell(zero + 1.2, "destination", "push:accepted", push=1)
    story.tell(zero + 1.3, "gateway", "egress:state_changed", egress="platform", state="ACTIVE")
    for role in WATCHERS:
        started = {"frame": 1, "idr": True, "parameter_sets": True, "decoded": role != "gateway"}
        story.tell(zero + 1.5, role, "media:started", **started)
    story.tell(0, "runner", "script:started", steps=1)
    story.tell(5, "runner", "step:begun", step=1, line=10, text="break something")
    return story.progress(-1, 4)


def a_drop_with_a_reconnect(*, heal: float = 9.0) -> Story:
    """The backhaul is dead from 5 s on; the publisher notices at 6.5 s and is back 0.3 s after the heal."""
    story = a_live_stream().black_hole(5, heal).reconnect(6.5, heal + 0.3)
    for role in WATCHERS:
        story.freeze(role, 5.1, heal + 0.5, missing=round((heal - 5) * FPS))
    return story.progress(heal + 1, heal + 5).ends(heal + 6)


def a_blip() -> Story:
    """400 ms without the backhaul: TCP repeats what was lost, nobody reconnects, nothing is missing."""
    return a_live_stream().black_hole(5, 5.4).progress(5, 9).ends(10)


def a_wait(*, resumed: float) -> Story:
    """A 3 s outage that the publisher waits out: RTO 0.2 s doubling, fired at 0.2, 0.6, 1.4 s; next at 3.0 s, 6.2 s."""
    story = a_live_stream().black_hole(5, 8.5)
    story.sampled(4.9, rto_s=0.2, backoff=0)
    for fired, backoff, rto in ((5.2, 1, 0.4), (5.6, 2, 0.8), (6.4, 3, 1.6), (8.0, 4, 3.2)):
        story.sampled(fired + 0.05, rto_s=rto, backoff=backoff).sampled(fired + 0.15, rto_s=rto, backoff=backoff)
    for role in WATCHERS:
        story.freeze(role, 5.1, resumed, missing=0, idr=False)
    return story.progress(resumed + 1, resumed + 4).ends(resumed + 5)


def a_publisher_gone_for_good() -> Story:
    """Killed at 5 s; the window of 6 s runs out; the egress ends once."""
    story = a_live_stream().kill(5, "publisher")
    story.session_ends(lost=5.02, window=6, ended=11.05)
    for role in WATCHERS:
        story.tell(5.6, role, "media:frozen", last_frame=150, after_ms=500)
    return story.ends(20, session_open=False)


def a_publisher_killed_and_back() -> Story:
    """Killed at 5 s, started again at 6 s, publishing at 7.2 s."""
    story = a_live_stream().kill(5, "publisher", back=6)
    story.tell(5.05, "gateway", "session:lost", session="s1", epoch=1, reason="reset", window_s=60)
    story.tell(6.9, "publisher", "connect:attempted", connection=1).tell(
        7, "publisher", "connect:established", connection=1
    )
    story.publish(7.2, connection=1, epoch=2)
    for role in WATCHERS:
        story.freeze(role, 5.1, 7.4, missing=40)
    return story.progress(8, 12).ends(13)


def _empty(kind: type | tuple[type, ...]) -> Any:
    return _EMPTY[kind[0] if isinstance(kind, tuple) else kind]()


def _event(number: int, line: Line) -> Event:
    t_ns = round((line.at + BEFORE_THE_SCRIPT) * SECOND)
    return Event(number, t_ns, ROLES.get(line.source, "-"), line.source, line.name, line.data)
