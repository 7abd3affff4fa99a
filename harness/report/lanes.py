"""The lanes of the timeline: who did what when.

A lane belongs to a role (or the playbook, the network, the egress). It has *marks*, moments with a shape, and
*strips*, thin bars that show a state over time. How an event looks is one row of :data:`MARKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.history.events import Event
from harness.report.film import RECEIVERS, Freeze
from harness.units import MILLISECOND, format_duration

Tone = Literal["ok", "calm", "warn", "fail", "mute"]
Shape = Literal["dot", "ring", "cross", "triangle", "diamond", "square", "flag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One event on a lane."""

    t_ns: int
    shape: Shape
    tone: Tone
    label: str
    """Short text beside the mark; empty: the mark speaks for itself."""
    weight: int
    """What is drawn, or labelled, first where there is no room for all: 3 before 1."""
    number: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A state that held for a while."""

    start_ns: int
    end_ns: int
    tone: Tone
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The states of one subject, one after the other."""

    subject: str
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One horizontal lane."""

    key: str
    node: str
    marks: Sequence[Mark]
    strips: Sequence[Strip]
    keyframes: Sequence[int]
    """Times of good keyframes, drawn as ticks; one that is no IDR is a mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one kind of event is drawn; ``label`` is a format string over the event's fields."""

    shape: Shape
    tone: Tone = "calm"
    label: str = ""
    weight: int = 2


MARKS: Mapping[str, Look] = {
    # runner and engine
    "steady:reached": Look(shape="flag", label="steady"),
    "steady:missed": Look(shape="cross", tone="fail", label="not steady: {missing}", weight=3),
    "script:started": Look(shape="flag", label="script starts", weight=1),
    "step:begun": Look(shape="square", label="{text}", weight=3),
    "step:failed": Look(shape="cross", tone="fail", label="step failed: {error}", weight=3),
    "script:ended": Look(shape="flag", label="script ends", weight=1),
    "person:asked": Look(shape="flag", label="{question} {answer}"),
    "run:interrupted": Look(shape="cross", tone="fail", label="interrupted by {by}", weight=3),
    "program:ready": Look(shape="dot", tone="mute", label="ready", weight=1),
    "program:failed": Look(shape="cross", tone="fail", label="failed: {error}", weight=3),
    "program:stopped": Look(shape="dot", tone="mute", label="stopped", weight=1),
    "process:started": Look(shape="ring", tone="mute", weight=1),
    "process:exited": Look(shape="ring", tone="mute", weight=1),
    "process:signalled": Look(shape="triangle", tone="warn", label="{signal}", weight=3),
    # network
    "link:changed": Look(shape="square", label="{link} changed", weight=2),
    "carrier:changed": Look(shape="square", tone="warn", label="carrier", weight=3),
    "nat:rebound": Look(shape="square", tone="warn", label="{router} rebound", weight=3),
    # publisher
    "connect:attempted": Look(shape="ring", tone="mute", weight=1),
    "connect:established": Look(shape="dot", weight=1),
    "connect:failed": Look(shape="cross", tone="mute", weight=1),
    "publish:started": Look(shape="dot", tone="ok", label="publishing #{connection}"),
    "publish:refused": Look(shape="cross", tone="fail", label="refused: {code}", weight=3),
    "connection:lost": Look(shape="cross", tone="fail", label="connection #{connection} lost"),
    "connection:reset": Look(shape="cross", tone="mute", label="reset #{connection}", weight=1),
    "stall:detected": Look(shape="triangle", tone="warn", label="stall detected", weight=3),
    "stall:cleared": Look(shape="triangle", tone="ok", label="stall cleared"),
    "reconnect:started": Look(shape="diamond", tone="warn", label="reconnecting", weight=2),
    "reconnect:completed": Look(shape="diamond", tone="ok", label="reconnect {reconnect} done", weight=3),
    "reconnect:abandoned": Look(shape="diamond", tone="mute", label="reconnect abandoned"),
    "reconnect:gave_up": Look(shape="cross", tone="fail", label="gave up", weight=3),
    "frames:dropped": Look(shape="square", tone="warn", label="frames dropped", weight=1),
    # gateway
    "publish:accepted": Look(shape="dot", tone="ok", label="publish accepted, epoch {epoch}"),
    "publish:rejected": Look(shape="cross", tone="fail", label="publish rejected", weight=3),
    "session:opened": Look(shape="square", tone="ok", label="session opened"),
    "session:stalled": Look(shape="triangle", tone="warn", label="session stalled"),
    "session:recovered": Look(shape="triangle", tone="ok", label="recovered"),
    "session:lost": Look(shape="cross", tone="warn", label="publisher lost", weight=3),
    "session:taken_over": Look(shape="diamond", label="taken over, epoch {new_epoch}"),
    "session:resumed": Look(shape="diamond", tone="ok", label="session resumed", weight=3),
    "session:ended": Look(shape="square", tone="mute", label="session ended"),
    "stale:ignored": Look(shape="ring", tone="mute", label="stale {what} ignored", weight=1),
    "gate:closed": Look(shape="square", tone="warn", label="gate closed", weight=1),
    "gate:opened": Look(shape="square", tone="ok", label="gate opened, frame {frame}"),
    "viewer:dropped": Look(shape="cross", tone="warn", label="{viewer} dropped"),
    "viewer:joined": Look(shape="dot", tone="mute", weight=1),
    "viewer:left": Look(shape="ring", tone="mute", weight=1),
    # egress
    "egress:started": Look(shape="dot", tone="ok", label="started"),
    "egress:stop_requested": Look(shape="ring", label="stop asked"),
    "egress:stopped": Look(shape="square", tone="mute", label="stopped"),
    "egress:leftover_ended": Look(shape="square", tone="warn", label="leftover ended", weight=3),
    "egress:retried": Look(shape="ring", tone="warn", label="retry {attempt}", weight=1),
    # receivers
    "play:started": Look(shape="dot", tone="mute", label="play", weight=1),
    "play:refused": Look(shape="cross", tone="fail", label="refused: {code}"),
    "play:retried": Look(shape="ring", tone="warn", label="retry {attempt}", weight=1),
    "push:accepted": Look(shape="dot", tone="ok", label="push {push}", weight=1),
    "push:ended": Look(shape="ring", tone="mute", label="push {push} ended", weight=1),
    "media:started": Look(shape="dot", tone="ok", label="first picture"),
    "media:resumed": Look(shape="diamond", tone="ok", label="back at frame {frame}", weight=3),
    "media:skipped": Look(shape="triangle", tone="warn", label="skipped {first} to {last}", weight=1),
    "media:disordered": Look(shape="cross", tone="fail", label="frame {frame} after {previous}"),
    "media:undecodable": Look(shape="cross", tone="fail", label="undecodable {frame}", weight=1),
    "media:ended": Look(shape="ring", tone="mute", label="ended", weight=1),
}

_STATE_TONES: Mapping[str, Tone] = {
    "live": "ok",
    "publishing": "ok",
    "streaming": "ok",
    "running": "ok",
    "active": "ok",
    "pushing": "ok",
    "connected": "ok",
    "starting": "warn",
    "connecting": "warn",
    "reconnecting": "warn",
    "retrying": "warn",
    "stalled": "warn",
    "waiting": "warn",
    "held": "warn",
    "holding": "warn",
    "failed": "fail",
    "lost": "fail",
    "refused": "fail",
    "stopped": "mute",
    "stopping": "mute",
    "ended": "mute",
}
# Which session event begins which state; None ends the strip.
_SESSION_STATES: Mapping[str, tuple[Tone, str] | None] = {
    "session:opened": ("ok", "session live"),
    "session:stalled": ("warn", "session stalled"),
    "session:recovered": ("ok", "session live"),
    "session:lost": ("warn", "session held, waiting for its publisher"),
    "session:taken_over": ("ok", "session live"),
    "session:resumed": ("ok", "session live"),
    "session:ended": None,
}
_LANE_ORDER = ("playbook", "network", "publisher", "gateway", "egress", *RECEIVERS)
_ALWAYS_SHOWN = frozenset({"publisher", "gateway", *RECEIVERS})
_NOBODY = "-"


def derive_lanes(
    events: Sequence[Event], *, freezes: Sequence[Freeze], end_ns: int, roles: Mapping[str, str]
) -> list[Lane]:
    """A lane for every role that told something worth drawing, in the order in which media flows."""
    builders: dict[str, _Builder] = {}
    role_of_node = {node: role for role, node in reversed(list(roles.items()))}
    for event in events:
        key = lane_of(event, role_of_node)
        builders.setdefault(key, _Builder(key=key, node=event.node)).add(event)
    for role in RECEIVERS:
        if role in builders:
            builders[role].add_pictures([f for f in freezes if f.role == role], end_ns=end_ns)
    lanes = [builder.lane(end_ns=end_ns) for builder in sorted(builders.values(), key=_order)]
    return [lane for lane in lanes if lane.marks or lane.strips or lane.keyframes or lane.key in _ALWAYS_SHOWN]


def lane_of(event: Event, role_of_node: Mapping[str, str]) -> str:
    """The lane that an event belongs to; what the engine does to a node stands on the lane of its role."""
    if event.name.startswith("egress:"):
        return "egress"
    if event.source == "runner":
        return "playbook"
    if event.source in ("engine", "network"):
        return role_of_node.get(event.node, "network")
    return event.source


def _order(builder: _Builder) -> tuple[int, str]:
    return (_LANE_ORDER.index(builder.key) if builder.key in _LANE_ORDER else len(_LANE_ORDER), builder.key)


def tone_of_state(state: str) -> Tone:
    """The tone of a state's name; one that the table does not know is calm, never hidden."""
    words = state.lower().replace("_", " ").split()
    return next((_STATE_TONES[word] for word in words if word in _STATE_TONES), "calm")


@dataclass(slots=True)
class _Builder:
    key: str
    node: str
    marks: list[Mark] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    # subject -> [(since, tone, label)]; a tone of None ends the state.
    states: dict[str, list[tuple[int, Tone | None, str]]] = field(default_factory=dict)
    pictures: Strip | None = None
    playing: list[tuple[int, bool]] = field(default_factory=list)

    def add(self, event: Event) -> None:
        if self.node == _NOBODY:
            self.node = event.node
        if event.name in ("keyframe:encoded", "keyframe:received"):
            self._add_keyframe(event)
            return
        look = MARKS.get(event.name)
        if look is not None:
            self.marks.append(_mark(event, look))
        self._add_state(event)

    def _add_keyframe(self, event: Event) -> None:
        if event.data.get("idr", True):
            self.keyframes.append(event.t_ns)
        else:
            look = Look(shape="cross", tone="fail", label="keyframe {frame} is no IDR", weight=3)
            self.marks.append(_mark(event, look))

    def _add_state(self, event: Event) -> None:
        told = _told_state(event)
        if told is not None:
            subject, tone, label = told
            self.states.setdefault(subject, []).append((event.t_ns, tone, label))
        if event.name in ("media:started", "media:resumed"):
            self.playing.append((event.t_ns, True))
        elif event.name == "media:ended":
            self.playing.append((event.t_ns, False))

    def add_pictures(self, freezes: Sequence[Freeze], *, end_ns: int) -> None:
        """The strip of a receiver: playing, and frozen in between."""
        spans = [*_playing_spans(self.playing, end_ns=end_ns), *(_freeze_span(freeze) for freeze in freezes)]
        if spans:
            self.pictures = Strip(subject="picture", spans=spans)

    def lane(self, *, end_ns: int) -> Lane:
        strips = [_strip(subject, told, end_ns=end_ns) for subject, told in self.states.items()]
        if self.pictures is not None:
            strips.insert(0, self.pictures)
        return Lane(key=self.key, node=self.node, marks=self.marks, strips=strips, keyframes=self.keyframes)


def _told_state(event: Event) -> tuple[str, Tone | None, str] | None:
    """Subject, tone and label of the state that this event begins; tone None ends the subject's state."""
    data = event.data
    teller = _STATES.get(event.name) or (_session_state if event.name in _SESSION_STATES else None)
    return teller(event.name, data) if teller else None


def _session_state(name: str, data: Mapping[str, Any]) -> tuple[str, Tone | None, str]:
    tone, label = _SESSION_STATES[name] or (None, "")
    return f"session {data['session']}", tone, label


def _status_state(_name: str, data: Mapping[str, Any]) -> tuple[str, Tone | None, str]:
    return "status", tone_of_state(data["status"]), data["status"]


def _egress_state(_name: str, data: Mapping[str, Any]) -> tuple[str, Tone | None, str]:
    return str(data["egress"]), tone_of_state(data["state"]), f"{data['egress']}: {data['state']}"


def _egress_stopped(_name: str, data: Mapping[str, Any]) -> tuple[str, Tone | None, str]:
    return str(data["egress"]), None, ""


_STATES: Mapping[str, Callable[[str, Mapping[str, Any]], tuple[str, Tone | None, str]]] = {
    "status:changed": _status_state,
    "egress:state_changed": _egress_state,
    "egress:stopped": _egress_stopped,
}


def _is_broken(resumed: Event) -> bool:
    """A picture after missing ones must be an IDR, and must decode wherever there is a decoder (a gateway has none)."""
    data = resumed.data
    broken_off = data["missing"] and not data["idr"]
    return bool(broken_off or (resumed.source != "gateway" and not data["decoded"]))


def _mark(event: Event, look: Look) -> Mark:
    tone, label = look.tone, look.label.format_map(event.data) if look.label else ""
    if event.name == "process:exited" and not event.data["expected"]:
        tone, label = "fail", f"{event.data['program']} exited"
    if event.name == "play:refused" and event.data["code"].endswith("StreamNotFound"):
        tone, label = "warn", "no stream there"  # whether it should have been is for a claim to say
    if event.name == "carrier:changed":
        tone, label = ("ok", "carrier up") if event.data["up"] else ("fail", "carrier down")
    if event.name == "media:resumed" and _is_broken(event):
        tone, label = "fail", f"{label}, no IDR" if not event.data["idr"] else f"{label}, not decoded"
    weight = 3 if tone == "fail" else look.weight
    return Mark(
        t_ns=event.t_ns,
        shape=look.shape,
        tone=tone,
        label=label,
        weight=weight,
        number=event.number,
        name=event.name,
    )


def _strip(subject: str, told: Sequence[tuple[int, Tone | None, str]], *, end_ns: int) -> Strip:
    ends = [since for since, _, _ in told[1:]] + [end_ns]
    spans = [
        Span(start_ns=since, end_ns=end, tone=tone, label=label)
        for (since, tone, label), end in zip(told, ends, strict=True)
        if tone is not None
    ]
    return Strip(subject=subject, spans=_joined(spans))


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Neighbours that say the same are one span."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last and (last.label, last.tone, last.end_ns) == (span.label, span.tone, span.start_ns):
            joined[-1] = Span(start_ns=last.start_ns, end_ns=span.end_ns, tone=span.tone, label=span.label)
        else:
            joined.append(span)
    return joined


def _playing_spans(playing: Sequence[tuple[int, bool]], *, end_ns: int) -> list[Span]:
    spans: list[Span] = []
    since: int | None = None
    for t_ns, on in playing:
        if on and since is None:
            since = t_ns
        elif not on and since is not None:
            spans.append(Span(start_ns=since, end_ns=t_ns, tone="ok", label="playing"))
            since = None
    if since is not None:
        spans.append(Span(start_ns=since, end_ns=end_ns, tone="ok", label="playing"))
    return spans


def _freeze_span(freeze: Freeze) -> Span:
    length = format_duration(max(freeze.end_ns - freeze.start_ns, MILLISECOND))
    label = f"frozen {length}" if freeze.resumed else f"frozen {length}, never resumed"
    return Span(start_ns=freeze.start_ns, end_ns=freeze.end_ns, tone="fail", label=label)
