"""What a verdict tells beside its numbers: what was broken at that time, and which setting decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.history.events import Event
from harness.history.query import History
from harness.units import format_duration

RECEIVERS = ("gateway", "destination", "viewer", "viewer2")
"""Roles that receive media, in the order of the path."""


class CannotTellError(Exception):
    """The history lacks what a check needs: the check's verdict is *unknown*, with this text as what was observed."""

    def __init__(self, what: str, *, evidence: Iterable[Event] = ()) -> None:
        self.evidence = tuple(evidence)
        super().__init__(what)


def active_faults(history: History, t_ns: int) -> str:
    """``"active fault: backhaul black hole (since t=5.00 s)"``, or that there was none and which healed last."""
    active = history.active_at(t_ns)
    if active:
        named = ", ".join(f"{window.what} (since {history.at(window.start)})" for window in active)
        return f"active fault: {named}"
    healed = [(end, window) for window in history.faults for _, end in window.broken if end is not None and end <= t_ns]
    if not healed:
        return "active fault: none"
    when, last = max(healed, key=lambda entry: entry[0])
    return f"active fault: none ({last.what}, healed at {history.at(when)})"


def setting_of(*events: Event | None) -> str:
    """``"decided by stall_after=1 s"`` from the last of these events that names a setting; else empty."""
    for event in reversed(events):
        if event is not None and event.data.get("setting"):
            return f"decided by {event.data['setting']}"
    return ""


def because(history: History, t_ns: int, *parts: str, decided: Sequence[Event | None] = ()) -> str:
    """The reasons, the deciding setting and the active fault at ``t_ns``, as one line."""
    return " | ".join(part for part in (*parts, setting_of(*decided), active_faults(history, t_ns)) if part)


def receivers(history: History, asked: Sequence[str], *told: str) -> tuple[str, ...]:
    """The roles that were asked for, or all receiving roles of the run that told at least one event named in ``told``.

    Raises :class:`CannotTellError` for a role that was asked for and told none of them, and where nobody did.
    """
    silent = [role for role in asked if not history.tells(role, *told)]
    if silent:
        raise CannotTellError(f"{', '.join(silent)} told nothing about media: its program may not be able to")
    found = asked or tuple(role for role in RECEIVERS if history.tells(role, *told))
    if not found:
        raise CannotTellError("no receiver told anything about media")
    return tuple(found)


def struck(history: History, pid: int, *, since: int = 0) -> list[str]:
    """Names of the signals that faults sent to this process; the harness's own when it winds up are not among them."""
    receipts = [window.left.data["receipt"] for window in history.faults if window.left and window.start >= since]
    return [str(receipt["signal"]) for receipt in receipts if receipt.get("pid") == pid and "signal" in receipt]


def milliseconds(value: float) -> int:
    """A ``_ms`` field in ns."""
    return round(value * 1_000_000)


def span(start: int, end: int) -> str:
    """The time between two moments, for people."""
    return format_duration(end - start)
