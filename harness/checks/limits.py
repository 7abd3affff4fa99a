"""The limits of every check: names and units as a playbook writes them, defaults and where each default comes from.

"S4" and the like are rows of the scenario catalogue; "tcp", "rtmp" and "gateways" the fact pages of that topic.
Durations are ns (``_ns``). A default is what was asked for or measured as good behaviour, never what happens to pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.checks.parameters import count, duration, roles, word
from harness.checks.verdict import Outcome, Verdict
from harness.history.events import Event
from harness.units import format_duration

_RECEIVERS = "no default list: every receiving role that the run has"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What all limits share: the check's name, its claim as a sentence, and verdicts upon the claim."""

    check: ClassVar[str] = ""

    def claim(self) -> str:
        """The claim as a sentence."""
        raise NotImplementedError

    def expected(self) -> str:
        """The limit alone, with its unit."""
        raise NotImplementedError

    def passed(self, observed: str, *, because: str = "", evidence: Iterable[Event] = ()) -> Verdict:
        """The history bears the claim out."""
        return self._verdict(Outcome.PASS, observed, because, evidence)

    def failed(self, observed: str, *, because: str = "", evidence: Iterable[Event] = ()) -> Verdict:
        """The history contradicts the claim."""
        return self._verdict(Outcome.FAIL, observed, because, evidence)

    def unknown(self, observed: str, *, because: str = "", evidence: Iterable[Event] = ()) -> Verdict:
        """The history cannot tell."""
        return self._verdict(Outcome.UNKNOWN, observed, because, evidence)

    def _verdict(self, outcome: Outcome, observed: str, because: str, evidence: Iterable[Event]) -> Verdict:
        numbers = tuple(sorted({event.number for event in evidence}))
        return Verdict(outcome, self.check, self.claim(), self.expected(), observed, because, numbers)


def at_most(ns: int) -> str:
    """``"≤ 2.00 s"``."""
    return f"≤ {format_duration(ns)}"


def joined(names: Iterable[str], *, otherwise: str = "every receiver") -> str:
    """``"gateway, viewer"``, or ``otherwise`` for no names."""
    return ", ".join(names) or otherwise


# --- every run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ScriptRan(Limits):
    """The run came to its end: steady state reached, every step done, nobody interrupted it."""

    check: ClassVar[str] = "script_ran"

    def claim(self) -> str:
        return "the steady state was reached and every step of the playbook was carried out"

    def expected(self) -> str:
        return "every step done"


@dataclass(frozen=True, kw_only=True)
class FaultsFired(Limits):
    """Every fault touched something: its receipt counts at least one packet, connection or process."""

    check: ClassVar[str] = "faults_fired"

    def claim(self) -> str:
        return "every fault touched what it was meant to break"

    def expected(self) -> str:
        return "every receipt ≥ 1"


@dataclass(frozen=True, kw_only=True)
class EmulatorPunctual(Limits):
    """The emulated network delivered on time and lost nothing: the system was measured and not this machine."""

    check: ClassVar[str] = "emulator_punctual"
    late_p99_ns: int = duration(
        "1 ms", meaning="99th percentile of how late packets were delivered", source="design goal wire_error_p99_ms"
    )
    late_max_ns: int = duration(
        "50 ms", meaning="how late the latest packet was delivered", source="a quarter of TCP's least RTO (200 ms)"
    )

    def claim(self) -> str:
        return (
            f"the emulated network is punctual to {format_duration(self.late_p99_ns)} (p99), "
            f"{format_duration(self.late_max_ns)} at worst, and loses nothing of its own"
        )

    def expected(self) -> str:
        return f"{at_most(self.late_p99_ns)} (p99), {at_most(self.late_max_ns)} at worst, 0 packets lost by itself"


@dataclass(frozen=True, kw_only=True)
class NothingCrashed(Limits):
    """No program ends unless it was asked to (then without an error) or killed by a fault; none tells a failure."""

    check: ClassVar[str] = "nothing_crashed"

    def claim(self) -> str:
        return "no program ends unasked, or with an error when it is asked to"

    def expected(self) -> str:
        return "0 crashes"


@dataclass(frozen=True, kw_only=True)
class StoppedInOrder(Limits):
    """Each program that can tell ends by itself when it is asked to: it says so, and exits with code 0."""

    check: ClassVar[str] = "stopped_in_order"

    def claim(self) -> str:
        return "every program that is alive at the script's end stops in order when it is asked to"

    def expected(self) -> str:
        return "program:stopped and exit code 0 from each"


# --- the publisher's side ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OutageDetected(Limits):
    """Each outage that lasts long enough is noticed in time, counted from the moment the fault entered."""

    check: ClassVar[str] = "outage_detected"
    by: str = word("publisher", meaning="the role that has to notice", source="S4")
    within_ns: int = duration(
        "2 s", meaning="from fault:entered to the first sign of it", source="S4: detected <= 2.0 s"
    )

    def claim(self) -> str:
        return f"the {self.by} detects the outage within {format_duration(self.within_ns)}"

    def expected(self) -> str:
        return at_most(self.within_ns)


@dataclass(frozen=True, kw_only=True)
class Reconnects(Limits):
    """The publisher reconnects this often: enough, and without thrashing."""

    check: ClassVar[str] = "reconnects"
    at_least: int = count(0, meaning="fewest completed reconnects", source="none: an outage may be waited out")
    at_most: int | None = count(None, meaning="most completed reconnects", source="none: depends on the faults")

    def claim(self) -> str:
        return f"the publisher reconnects {self.expected()}"

    def expected(self) -> str:
        if self.at_most is None:
            return f"at least {_times(self.at_least)}"
        if self.at_least == self.at_most:
            return f"exactly {_times(self.at_least)}"
        return f"{self.at_least} to {_times(self.at_most)}" if self.at_least else f"at most {_times(self.at_most)}"


@dataclass(frozen=True, kw_only=True)
class NoReconnect(Limits):
    """A blip is ridden out: the publisher does not even begin to reconnect."""

    check: ClassVar[str] = "no_reconnect"

    def claim(self) -> str:
        return "the publisher rides it out without reconnecting"

    def expected(self) -> str:
        return "0 reconnects begun"


@dataclass(frozen=True, kw_only=True)
class AttemptsBounded(Limits):
    """The publisher does not hammer the gateway, and reports as many attempts as it made."""

    check: ClassVar[str] = "attempts_bounded"
    per_second: int = count(
        5, meaning="most connection attempts in any second", source="rtmp: fresh connects every 0.25 s, plus one"
    )
    at_most: int | None = count(None, meaning="most attempts in the whole run", source="none: depends on the faults")

    def claim(self) -> str:
        return f"connection attempts stay bounded ({self.expected()}) and are reported truthfully"

    def expected(self) -> str:
        total = "" if self.at_most is None else f", at most {self.at_most} in all"
        return f"at most {self.per_second} per second{total}"


@dataclass(frozen=True, kw_only=True)
class NeverStopped(Limits):
    """The publisher never tells its user that the stream has stopped while the script runs."""

    check: ClassVar[str] = "never_stopped"

    def claim(self) -> str:
        return 'the publisher never reports the status "stopped" before the end'

    def expected(self) -> str:
        return '0 times "stopped"'


@dataclass(frozen=True, kw_only=True)
class StatusSeen(Limits):
    """In each outage that lasts long enough, a program tells its user in time what is going on."""

    check: ClassVar[str] = "status_seen"
    by: str = word("publisher", meaning="the role that tells its status", source="X12: the app's user")
    status: str = word("reconnecting", meaning="the status that must be seen", source='X12: "reconnecting" is seen')
    within_ns: int = duration("2 s", meaning="from the outage's begin to the status", source="S4: detected <= 2.0 s")

    def claim(self) -> str:
        return f'the {self.by} says "{self.status}" within {format_duration(self.within_ns)} of each outage\'s begin'

    def expected(self) -> str:
        return f'"{self.status}" {at_most(self.within_ns)}'


@dataclass(frozen=True, kw_only=True)
class OldConnectionHeld(Limits):
    """A stalled connection is kept until a new one is up: reset earlier, its RST is lost and a ghost keeps the key."""

    check: ClassVar[str] = "old_connection_held"

    def claim(self) -> str:
        return "a stalled connection is held until a new one is up"

    def expected(self) -> str:
        return "0 stalled connections dropped before another was established"


# --- media ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class KeyframeFirst(Limits):
    """After each new publish, and after each gap in which frames were lost, the first frame is an IDR with SPS/PPS."""

    check: ClassVar[str] = "keyframe_first"
    at: tuple[str, ...] = roles(meaning="where it must arrive first", source=_RECEIVERS)
    within_ns: int = duration(
        "1 s", meaning="from the new publish to its first key frame", source="rtmp: 0.06-1 s with a forced key frame"
    )

    def claim(self) -> str:
        return (
            f"after a reconnect or a gap the first frame at {joined(self.at)} is an IDR with SPS/PPS, "
            f"within {format_duration(self.within_ns)} of the new publish"
        )

    def expected(self) -> str:
        return f"IDR with SPS/PPS, {at_most(self.within_ns)}"


@dataclass(frozen=True, kw_only=True)
class MediaResumed(Limits):
    """Media flows again in time after each heal.

    Where the publisher waited instead of reconnecting, TCP resumes at its next retransmission mark and no earlier: then
    the limit is the later of ``within`` and that mark (computed from the socket's own RTO) + 100 ms + ``slack``.
    """

    check: ClassVar[str] = "media_resumed"
    at: tuple[str, ...] = roles(meaning="where media must flow again", source=_RECEIVERS)
    within_ns: int = duration(
        "2 s", meaning="from the heal to the first good picture", source="S4: <= 2 s after restore"
    )
    slack_ns: int = duration(
        "250 ms", meaning="beyond the retransmission mark + 100 ms + 4 round trips", source="tcp: poll grid 0-0.5 s"
    )

    def claim(self) -> str:
        return f"media flows again at {joined(self.at)} within {format_duration(self.within_ns)} of the heal"

    def expected(self) -> str:
        return at_most(self.within_ns)


@dataclass(frozen=True, kw_only=True)
class LongestGap(Limits):
    """No receiver is without a picture for longer than this."""

    check: ClassVar[str] = "longest_gap"
    at: tuple[str, ...] = roles("viewer", meaning="who watches", source="S3: viewer-visible")
    at_most_ns: int = duration(
        "3 s", meaning="longest time between two pictures", source="S3: viewer-visible gap <= 3 s"
    )

    def claim(self) -> str:
        return f"the longest gap at {joined(self.at)} is at most {format_duration(self.at_most_ns)}"

    def expected(self) -> str:
        return at_most(self.at_most_ns)


@dataclass(frozen=True, kw_only=True)
class FramesLost(Limits):
    """No more frames are missing than this."""

    check: ClassVar[str] = "frames_lost"
    at: tuple[str, ...] = roles("viewer", meaning="who counts", source="S2: no frame lost")
    at_most: int = count(0, meaning="most missing frames", source="S2: no frame lost")

    def claim(self) -> str:
        return f"at most {self.at_most} frames are lost at {joined(self.at)}"

    def expected(self) -> str:
        return f"≤ {self.at_most} frames"


@dataclass(frozen=True, kw_only=True)
class GateHeld(Limits):
    """After a gap nothing that cannot be decoded gets through the gateway."""

    check: ClassVar[str] = "gate_held"
    at: tuple[str, ...] = roles(meaning="who must see nothing broken", source=_RECEIVERS)

    def claim(self) -> str:
        return f"after a gap {joined(self.at)} gets nothing until an IDR with SPS/PPS"

    def expected(self) -> str:
        return "0 frames before the IDR, 0 undecodable"


# --- session and ingest -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SessionKept(Limits):
    """One broadcast stays one session over all its connections."""

    check: ClassVar[str] = "session_kept"
    sessions: int = count(1, meaning="sessions over the whole run", source="S4, S5: one broadcast")

    def claim(self) -> str:
        return f"the broadcast stays {self.sessions} session{'s' * (self.sessions != 1)} over all connections"

    def expected(self) -> str:
        return f"{self.sessions} opened, 0 ended before the end"


@dataclass(frozen=True, kw_only=True)
class SessionEnded(Limits):
    """A publisher that is gone for good ends the session: exactly once, when the window has run out, and not before."""

    check: ClassVar[str] = "session_ended"
    within_ns: int | None = duration(
        None, meaning="from session:lost to session:ended", source="the session's own reconnect_window + 1 s"
    )
    exactly: int = count(1, meaning="how often sessions end", source="S6: exactly once")
    reason: str = word("", meaning="text that the reason must contain", source="none: any reason")

    def claim(self) -> str:
        return f"the session ends exactly {_times(self.exactly)}, {self._when()}"

    def expected(self) -> str:
        reason = f', because of "{self.reason}"' if self.reason else ""
        return f"{_times(self.exactly)}, {self._when()}{reason}"

    def _when(self) -> str:
        if self.within_ns is None:
            return "when its reconnect window has run out"
        return f"within {format_duration(self.within_ns)} of the publisher's loss"


@dataclass(frozen=True, kw_only=True)
class PublishAccepted(Limits):
    """A publisher that comes back is taken in at once, not refused as a stranger to its own stream."""

    check: ClassVar[str] = "publish_accepted"
    within_ns: int = duration("1 s", meaning="from the connection to the accepted publish", source="S11: <= 1 s")

    def claim(self) -> str:
        return f"the returning publisher is accepted within {format_duration(self.within_ns)} and never refused"

    def expected(self) -> str:
        return f"{at_most(self.within_ns)}, 0 refusals"


@dataclass(frozen=True, kw_only=True)
class NeverRefused(Limits):
    """Nobody who is entitled to is refused: neither publisher nor viewer."""

    check: ClassVar[str] = "never_refused"

    def claim(self) -> str:
        return "no publish and no play is refused"

    def expected(self) -> str:
        return "0 refusals"


@dataclass(frozen=True, kw_only=True)
class NoStaleHarm(Limits):
    """What comes late from an old connection never ends the newer one."""

    check: ClassVar[str] = "no_stale_harm"

    def claim(self) -> str:
        return "an older connection's end never harms the newer one"

    def expected(self) -> str:
        return "0 losses by an older epoch"


# --- egress -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EgressKept(Limits):
    """The push to the platform goes on: no stop, no restart, the same push at the destination."""

    check: ClassVar[str] = "egress_kept"

    def claim(self) -> str:
        return "the egress is kept: the destination sees one push throughout"

    def expected(self) -> str:
        return "0 stops, 0 restarts, the same push"


AFTER: Mapping[str, str] = {"session_ended": "session:ended", "session_lost": "session:lost", "fault": "fault:entered"}
"""Words for what an egress's end is measured from, and the event each stands for."""


@dataclass(frozen=True, kw_only=True)
class EgressStopped(Limits):
    """Every egress is stopped exactly so often and soon after what should end it; the destination sees it go."""

    check: ClassVar[str] = "egress_stopped"
    within_ns: int = duration("5 s", meaning="from that event to egress:stopped", source="C5, S16: gone <= 5 s later")
    exactly: int = count(1, meaning="how often each egress is stopped", source="S15: stop called once")
    after: Literal["session_ended", "session_lost", "fault"] = word(
        "session_ended", meaning="what the time counts from", source="S16: after the grace", choices=tuple(AFTER)
    )

    def claim(self) -> str:
        return (
            f"each egress is stopped exactly {_times(self.exactly)}, "
            f"within {format_duration(self.within_ns)} of {AFTER[self.after]}"
        )

    def expected(self) -> str:
        return f"{_times(self.exactly)} each, {at_most(self.within_ns)}"


@dataclass(frozen=True, kw_only=True)
class HonestStatus(Limits):
    """An egress is never called active while nothing arrives at its destination, nor failed while media arrives."""

    check: ClassVar[str] = "honest_status"
    silent_at_most_ns: int = duration(
        "30 s", meaning="longest silence while it is called active", source="X4; LiveKit: failed after 30-35 s (S17)"
    )

    def claim(self) -> str:
        return (
            f"the egress is never called active with no media at the destination for "
            f"more than {format_duration(self.silent_at_most_ns)}, nor failed while media arrives there"
        )

    def expected(self) -> str:
        return f"{at_most(self.silent_at_most_ns)} silent while active"


@dataclass(frozen=True, kw_only=True)
class LeftoverEnded(Limits):
    """The egress workers that a killed gateway left are ended by its next start, before their successors push."""

    check: ClassVar[str] = "leftover_ended"
    within_ns: int = duration(
        "5 s", meaning="from the gateway's next start to the end of each", source="C5, S16: gone <= 5 s later"
    )

    def claim(self) -> str:
        return (
            f"a restarted gateway ends the workers that it finds within {format_duration(self.within_ns)}, "
            f"and the destination never has two pushers at once"
        )

    def expected(self) -> str:
        return f"each worker {at_most(self.within_ns)} after the start, at most 1 push at a time"


# --- the end ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NothingOrphaned(Limits):
    """Nothing is left over at the end: processes, sockets, sessions, egresses, viewers, tasks, descriptors."""

    check: ClassVar[str] = "nothing_orphaned"
    descriptors: int = count(
        0, meaning="file descriptors that a program may have gained", source="C16: back to baseline"
    )

    def claim(self) -> str:
        return "nothing is orphaned at the end"

    def expected(self) -> str:
        return "the ledger of the end holds nothing that the ledger of the beginning did not"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
