"""When something was broken: fault windows, and which role's media they silence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.history.events import Event

DEADLY = frozenset({"kill", "restart"})
"""Kinds of fault that end a process; what they break stays broken until the role is started again."""

SILENCING = frozenset({"black_hole", "link_flap", "carrier_off", "interface_down", "pause"}) | DEADLY
"""Kinds of fault during which no media passes (as far as they reach the flow)."""

BREAKING = frozenset({"tcp_reset", "nat_state_lost", "nat_rebind"}) | DEADLY
"""Kinds of fault that take a moment and after which the connection is dead, silently or with a reset."""


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """One fault from ``fault:entered`` to ``fault:left``."""

    entered: Event
    left: Event | None
    """None where the history ends with the fault still active."""
    back: int | None = None
    """Of a fault that ends a process: when its role was started again, where it was."""

    @property
    def fault(self) -> str:
        return str(self.entered.data["fault"])

    @property
    def kind(self) -> str:
        return str(self.entered.data["kind"])

    @property
    def scope(self) -> str:
        """``network``, ``node`` or ``process``."""
        return str(self.entered.data["scope"])

    @property
    def target(self) -> str:
        """Link, node or role."""
        return str(self.entered.data["target"])

    @property
    def what(self) -> str:
        """The fault as a sentence."""
        return str(self.entered.data["what"])

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self.entered.data["settings"]
        return settings

    @property
    def start(self) -> int:
        return self.entered.t_ns

    @property
    def end(self) -> int | None:
        return None if self.left is None else self.left.t_ns

    @property
    def broken(self) -> Sequence[tuple[int, int | None]]:
        """When it was broken, from and until (None: to the end): once, or as often as a flapping link died.

        A flap's windows stand in its receipt, as times since it entered; without one it counts as broken throughout.
        """
        if self.kind in DEADLY:
            return [(self.start, self.back)]
        receipt = {} if self.left is None else self.left.data["receipt"]
        flaps = receipt.get("windows_ns") if self.kind == "link_flap" else None
        if flaps is None:
            return [(self.start, self.end)]
        return [(self.start + begin, self.start + end) for begin, end in flaps]

    @property
    def touched(self) -> int | None:
        """What the receipt counts: packets, connections, processes; None without a receipt."""
        return None if self.left is None else int(self.left.data["touched"])

    def covers(self, t_ns: int) -> bool:
        """Whether it broke something at ``t_ns``."""
        return any(begin <= t_ns and (end is None or t_ns < end) for begin, end in self.broken)


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without a break in which at least one fault silenced a role's media."""

    windows: tuple[FaultWindow, ...]
    start: int
    end: int | None
    """None where it lasts to the end of the history."""


def pair(
    entered: Iterable[Event],
    left: Iterable[Event],
    *,
    started: Sequence[Event] = (),
    roles: Mapping[str, str] | None = None,
) -> tuple[FaultWindow, ...]:
    """Join each ``fault:entered`` with the first ``fault:left`` of the same fault that is not older; by start.

    ``started`` holds the ``process:started`` events, of which the next one of its role (or that role's node) mends
    what a kill broke.
    """
    waiting: dict[str, list[Event]] = {}
    for event in left:
        waiting.setdefault(str(event.data["fault"]), []).append(event)
    windows = []
    for event in entered:
        candidates = waiting.get(str(event.data["fault"]), [])
        match = next((end for end in candidates if end.t_ns >= event.t_ns), None)
        if match is not None:
            candidates.remove(match)
        windows.append(FaultWindow(event, match, _started_again(event, started, roles or {})))
    return tuple(windows)


def _started_again(killed: Event, started: Sequence[Event], roles: Mapping[str, str]) -> int | None:
    role = killed.data["target"]
    places = (role, roles.get(role))
    later = (event.t_ns for event in started if event.t_ns > killed.t_ns and {event.source, event.node} & {*places})
    return next(later, None)


def merge(windows: Iterable[FaultWindow]) -> tuple[Outage, ...]:
    """Times of overlapping and touching windows as one outage each, in order."""
    outages: list[Outage] = []
    broken = [(start, end, window) for window in windows for start, end in window.broken]
    for start, end, window in sorted(broken, key=lambda entry: entry[0]):
        last = outages[-1] if outages else None
        if last is not None and (last.end is None or start <= last.end):
            latest = None if last.end is None or end is None else max(last.end, end)
            outages[-1] = Outage((*last.windows, window), last.start, latest)
        else:
            outages.append(Outage((window,), start, end))
    return tuple(outages)


def reaches(window: FaultWindow, role: str, roles: Mapping[str, str]) -> bool:
    """Whether media of ``role`` runs through what the fault breaks.

    Media goes publisher → gateway → each receiver, so what breaks at the publisher or the gateway reaches everyone, and
    what breaks at one receiver only that one. A link belongs to the role whose node its name begins with
    (``viewer_link``); links that name no role's node (``wifi``, ``backhaul``) are the publisher's way to the gateway.
    """
    owner = _owner(window, roles)
    return owner is None or owner in ("publisher", "gateway", role)


def _owner(window: FaultWindow, roles: Mapping[str, str]) -> str | None:
    flow = window.settings.get("flow")
    # a flow is named "publisher.rtmp" or "phone:1935"
    target = re.split("[.:]", flow)[0] if isinstance(flow, str) else window.target
    if target in roles:
        return target
    return next((role for role, node in roles.items() if target == node or target.startswith(f"{node}_")), None)


def stops_tcp(window: FaultWindow) -> bool:
    """Whether the fault stops RTMP: a black hole of UDP alone, or of another port than 1935, does not."""
    if window.kind != "black_hole":
        return window.kind in SILENCING
    port = window.settings.get("port")
    return window.settings.get("proto", "any") in ("any", "tcp") and port in (None, 0, 1935)
