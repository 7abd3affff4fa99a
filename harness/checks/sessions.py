"""Checks on the gateway's ingest: one broadcast is one session, and its rightful publisher is always let in."""

from __future__ import annotations

from collections.abc import Sequence

from harness.checks.circumstances import CannotTellError, because
from harness.checks.limits import NeverRefused, NoStaleHarm, PublishAccepted, SessionEnded, SessionKept
from harness.checks.verdict import Verdict
from harness.history.events import Event
from harness.history.query import History
from harness.units import MILLISECOND, SECOND, format_duration

_TICK = 100 * MILLISECOND
"""How much earlier than its window a session may end: the window is told in rounded figures."""


def session_kept(history: History, limits: SessionKept) -> Verdict:
    """Counts sessions opened in the whole run; none may end before the script's end."""
    opened = _sessions(history)
    ended = history.named("session:ended", before=history.script_end)
    epochs = history.named("publish:accepted")
    observed = f"{len(opened)} opened, {len(ended)} ended before the end, {len(epochs)} publishes accepted"
    if len(opened) == limits.sessions and not ended:
        return limits.passed(observed, evidence=[*opened, *epochs])
    culprit = ended[0] if ended else opened[-1]
    why = f"ended because of {culprit.data['reason']}" if ended else ""
    return limits.failed(
        observed, because=because(history, culprit.t_ns, why, decided=[culprit]), evidence=[*opened, *ended]
    )


def session_ended(history: History, limits: SessionEnded) -> Verdict:
    """Counts ends before the script's end, and measures each from its ``session:lost`` (else from the last fault)."""
    _sessions(history)
    ended = history.named("session:ended", before=history.script_end)
    if len(ended) != limits.exactly:
        lost = history.last("session:lost")
        reason = because(history, history.script_end, _window_text(lost), decided=[*ended])
        return limits.failed(_counted(ended, history), because=reason, evidence=[*ended, *([lost] if lost else [])])
    for end in ended:
        problem = _wrong_end(history, limits, end)
        if problem:
            return limits.failed(problem, because=because(history, end.t_ns, decided=[end]), evidence=[end])
    last = ended[-1] if ended else None
    reason = because(history, last.t_ns, str(last.data["reason"]), decided=[last]) if last else ""
    return limits.passed(_counted(ended, history), because=reason, evidence=ended)


def _wrong_end(history: History, limits: SessionEnded, end: Event) -> str:
    if limits.reason and limits.reason not in str(end.data["reason"]):
        return f'ended because of "{end.data["reason"]}"'
    start, window = _end_due(history, end)
    took = end.t_ns - start
    if took < window - _TICK:
        return f"ended {format_duration(took)} after the loss, before its window of {format_duration(window)} ran out"
    within = window + SECOND if limits.within_ns is None else limits.within_ns
    return f"ended {format_duration(took)} after the loss" if took > within else ""


def _end_due(history: History, end: Event) -> tuple[int, int]:
    """When the publisher was lost, and the window that the gateway gave it, in ns."""
    lost = history.last("session:lost", before=end.t_ns, session=end.data["session"])
    if lost is not None:
        return lost.t_ns, round(lost.data["window_s"] * SECOND)
    fault = history.last("fault:entered", before=end.t_ns)
    if fault is None:
        raise CannotTellError("the session ended without a loss or a fault before it", evidence=[end])
    return fault.t_ns, 0


def _window_text(lost: Event | None) -> str:
    return (
        f"reconnect window {format_duration(round(lost.data['window_s'] * SECOND))}"
        if lost is not None
        else "the session was never lost"
    )


def _counted(ended: Sequence[Event], history: History) -> str:
    when = ", ".join(history.at(event.t_ns) for event in ended)
    return f"ended {len(ended)} times" + (f" ({when})" if when else "")


def _sessions(history: History) -> list[Event]:
    opened = history.named("session:opened")
    if not opened:
        raise CannotTellError("the gateway told of no session: its program may not be able to")
    return opened


def publish_accepted(history: History, limits: PublishAccepted) -> Verdict:
    """From each new connection (or restart) of the publisher to its accepted publish; no refusal in between."""
    refused = history.in_script("publish:refused", "publish:rejected")
    if refused:
        reason = because(history, refused[0].t_ns, _why_refused(refused[0]), decided=refused[:1])
        return limits.failed(f"refused {len(refused)} times", because=reason, evidence=refused)
    accepted = history.in_script("publish:accepted")
    if not accepted:
        return _nobody_returned(history, limits)
    slowest = max(accepted, key=lambda event: event.t_ns - _asked(history, event))
    took = slowest.t_ns - _asked(history, slowest)
    reason = because(history, slowest.t_ns, f"epoch {slowest.data['epoch']}")
    verdict = limits.passed if took <= limits.within_ns else limits.failed
    return verdict(f"accepted {format_duration(took)} after it connected", because=reason, evidence=accepted)


def _asked(history: History, accepted: Event) -> int:
    """When the connection was made that this publish came on; for a silent program, when its process started."""
    started = history.first("publish:started", source="publisher", after=accepted.t_ns)
    previous = history.last("publish:started", source="publisher", before=accepted.t_ns)
    lower = 0 if previous is None else previous.t_ns
    which = {} if started is None else {"connection": started.data["connection"]}
    connected = history.last("connect:established", source="publisher", after=lower, before=accepted.t_ns, **which)
    process = history.last("process:started", source="publisher", before=accepted.t_ns)
    known = connected or process
    return accepted.t_ns if known is None else known.t_ns


def _nobody_returned(history: History, limits: PublishAccepted) -> Verdict:
    tried = history.in_script("connect:attempted")
    if not tried:
        raise CannotTellError("nobody published again after the script began: the claim was not put to the test")
    reason = because(history, tried[-1].t_ns)
    return limits.failed(f"never accepted in {len(tried)} attempts", because=reason, evidence=tried)


def never_refused(history: History, limits: NeverRefused) -> Verdict:
    """No refusal told by either side before the script's end: of a publish, or of a play while there was a session."""
    told = history.tells("gateway", "publish:accepted", "publish:rejected")
    if not told and not history.tells("publisher", "publish:started", "publish:refused"):
        raise CannotTellError("neither the gateway nor the publisher tells of publishes")
    refused = history.in_script("publish:refused", "publish:rejected")
    refused += [event for event in history.in_script("play:refused") if _is_on_air(history, event.t_ns)]
    if not refused:
        return limits.passed("0 refusals", evidence=history.named("publish:accepted"))
    reason = because(history, refused[0].t_ns, _why_refused(refused[0]), decided=refused[:1])
    who = ", ".join(dict.fromkeys(event.source for event in refused))
    return limits.failed(f"{len(refused)} refusals (told by {who})", because=reason, evidence=refused)


def _is_on_air(history: History, t_ns: int) -> bool:
    """Whether a session was open; a gateway that tells of none gets no benefit of the doubt."""
    opened = history.named("session:opened", before=t_ns)
    ended = {event.data["session"] for event in history.named("session:ended", before=t_ns)}
    return not opened or any(event.data["session"] not in ended for event in opened)


def _why_refused(event: Event) -> str:
    return " ".join(str(event.data[field]) for field in ("code", "description", "reason") if event.data.get(field))


def no_stale_harm(history: History, limits: NoStaleHarm) -> Verdict:
    """No loss told for an epoch below the current one; no end of a session whose newer epoch is alive."""
    _sessions(history)
    harm = [event for session in history.named("session:opened") for event in _harm(history, session.data["session"])]
    if harm:
        reason = because(history, harm[0].t_ns, str(harm[0].data["reason"]), decided=harm[:1])
        observed = f"{harm[0].name} at {history.at(harm[0].t_ns)} while a newer connection was publishing"
        return limits.failed(observed, because=reason, evidence=harm)
    ignored = history.named("stale:ignored")
    epochs = max((event.data["epoch"] for event in history.named("publish:accepted")), default=0)
    observed = f"{epochs} epochs, {len(ignored)} late events of older ones ignored"
    return limits.passed(observed, evidence=ignored)


def _harm(history: History, session: str) -> list[Event]:
    epoch, alive, harm = 0, False, []
    story = history.named(
        "publish:accepted", "session:lost", "session:ended", before=history.script_end, session=session
    )
    for event in story:
        if event.name == "publish:accepted":
            epoch, alive = event.data["epoch"], True
        elif event.name == "session:lost" and event.data["epoch"] < epoch:
            harm.append(event)
        elif event.name == "session:lost":
            alive = False
        elif alive and epoch > 1 and "unpublish" not in str(event.data["reason"]):
            harm.append(event)
    return harm
