"""What to expect in the logs when something breaks: which program tells which event, and how long afterwards.

The times are those of the reference programs with their default settings, as measured in the scenarios that ship
(``docs/architecture.md`` says how to see them in a history). They are a reader's guide, not limits: limits stand in
the playbook's ``expect``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.faults import BlackHole, CarrierOff, ChangeLink, Fault, InterfaceDown, LinkFlap
from harness.network.topology import Topology
from harness.units import MILLISECOND, SECOND

STALL_AFTER_NS = SECOND
"""The publisher's watchdog, ``--stall-after``; it sees the stall up to 0.2 s later."""
_EDGE_NS = 200 * MILLISECOND


@dataclass(frozen=True, slots=True)
class Sign:
    """Events of one program, ``low`` to ``high`` ns after the moment that they follow."""

    low_ns: int
    high_ns: int
    who: str
    events: str


@dataclass(frozen=True, slots=True)
class Signs:
    """What follows a fault's entering, and what follows its leaving."""

    broken: Sequence[Sign] = ()
    healed: Sequence[Sign] = ()


def _sign(low: float, high: float, who: str, events: str) -> Sign:
    return Sign(round(low * SECOND), round(high * SECOND), who, events)


_FROZEN = _sign(0.5, 0.6, "every receiver", "media:frozen")
_NOTICED = _sign(
    1.0, 1.2, "publisher", "stall:detected, reconnect:started, status:changed; then connect:attempted every 0.25 s"
)
_CUT: Sequence[Sign] = (
    _FROZEN,
    _NOTICED,
    _sign(2.0, 2.1, "gateway", "session:stalled; then egress:state_changed (HOLDING)"),
    _sign(10.0, 10.1, "gateway", "session:lost (idle-reap); the reconnect window runs"),
)
"""The publisher's path is cut: each sign shows if the outage lasts that long."""

_RODE_OUT: Sequence[Sign] = (
    _sign(0.0, 1.0, "every receiver", "media:resumed at TCP's next retransmission, no frame missing, no IDR needed"),
)
_CAME_BACK: Sequence[Sign] = (
    _sign(0.1, 0.4, "publisher", "connect:established, connection:reset (the old one), publish:started"),
    _sign(0.2, 0.5, "gateway", "session:lost or session:taken_over, publish:accepted, session:resumed, gate:opened"),
    _sign(0.3, 1.0, "every receiver", "media:resumed on an IDR"),
    _sign(0.7, 1.5, "publisher", "reconnect:completed, status:changed (live)"),
)
_ONE_CONNECTION: Sequence[Sign] = (
    _FROZEN,
    _sign(1.0, 1.2, "publisher", "stall:detected, reconnect:started; the first connect:attempted gets through"),
    _sign(1.1, 1.5, "gateway", "publish:accepted, session:taken_over (silent), stale:ignored, gate:opened"),
    _sign(1.3, 2.0, "every receiver", "media:resumed on an IDR, while the hole is still there"),
)
_PUBLISHER_GONE: Sequence[Sign] = (
    _sign(0.0, 0.1, "publisher", "process:exited (signal 9)"),
    _sign(0.0, 0.1, "gateway", "session:lost (closed by the publisher)"),
    _FROZEN,
)
_PUBLISHER_BACK: Sequence[Sign] = (
    _sign(0.0, 0.5, "publisher", "process:started, program:ready, connect:established"),
    _sign(0.3, 1.0, "gateway", "publish:accepted with the next epoch, session:resumed, gate:opened"),
    _sign(0.5, 1.5, "every receiver", "media:source_changed, media:resumed on an IDR"),
)
_GATEWAY_GONE: Sequence[Sign] = (
    _sign(0.0, 0.1, "gateway", "process:exited (signal 9); its egress worker lives on"),
    _sign(0.0, 0.2, "publisher", "connection:lost, reconnect:started, connect:failed"),
    _FROZEN,
)
_GATEWAY_BACK: Sequence[Sign] = (
    _sign(0.0, 0.5, "gateway", "process:started, egress:leftover_ended, program:ready"),
    _sign(0.3, 2.0, "gateway", "session:opened (a new session), publish:accepted, egress:started"),
    _sign(0.5, 3.0, "every receiver", "media:resumed on an IDR"),
)
_RECONNECTS_AT_ONCE: Sequence[Sign] = (
    _sign(0.0, 0.2, "publisher", "connection:lost, reconnect:started, connect:attempted"),
    _sign(0.1, 0.5, "gateway", "session:lost, publish:accepted, session:resumed, gate:opened"),
    _sign(0.2, 1.0, "every receiver", "media:resumed on an IDR; no media:frozen if that took less than 0.5 s"),
)
_STOPPED: Mapping[str, Sequence[Sign]] = {
    "publisher": (_FROZEN, _sign(2.0, 2.1, "gateway", "session:stalled; the publisher itself tells nothing")),
    "gateway": (
        _sign(0.5, 0.6, "viewers and destination", "media:frozen"),
        _sign(1.0, 5.0, "publisher", "stall:detected, once the gateway's kernel has no more room"),
    ),
}

_LEAF: Mapping[str, Signs] = {
    "viewer": Signs(
        (_sign(0.5, 0.6, "{role}", "media:frozen; nobody else notices"),),
        (_sign(0.0, 2.0, "{role}", "media:resumed"), _sign(0.0, 2.0, "gateway", "viewer:joined if it was dropped")),
    ),
    "destination": Signs(
        (
            _sign(0.5, 0.6, "destination", "media:frozen; viewers do not notice"),
            _sign(1.0, 15.0, "gateway", "egress:state_changed, egress:retried (--egress-stall-after)"),
        ),
        (_sign(0.0, 5.0, "destination", "media:resumed on an IDR; a new push:accepted if the worker gave up"),),
    ),
}


def signs_of(fault: Fault, *, lasts_ns: int | None, topology: Topology, window_ns: int) -> Signs:
    """What to expect of the reference programs; empty where nothing is known.

    ``lasts_ns`` None: to the script's end. ``window_ns`` is the gateway's reconnect window.
    """
    signs = _signs(fault, lasts_ns, topology)
    gone = fault.kind == "kill" and _role_at(fault.target, topology) == "publisher"
    cut = signs.broken == _CUT and (lasts_ns is None or lasts_ns > window_ns)
    return Signs((*signs.broken, _ended(window_ns)), signs.healed) if gone or cut else signs


def _ended(window_ns: int) -> Sign:
    events = "session:ended (the reconnect window has run out), egress:stop_requested, egress:stopped"
    return Sign(window_ns, window_ns + SECOND, "gateway", events)


def _signs(fault: Fault, lasts_ns: int | None, topology: Topology) -> Signs:
    if isinstance(fault, LinkFlap):
        return _outage(victim_of(fault.link, topology), fault.off_ns)
    if isinstance(fault, BlackHole):
        return _black_hole(fault, lasts_ns, topology)
    if isinstance(fault, CarrierOff | InterfaceDown):
        return _outage(_role_at(fault.node, topology), lasts_ns)
    if isinstance(fault, ChangeLink):
        return Signs((_sign(0.0, 1.0, "publisher", "tcp:sampled: srtt_ms, rto_ms and outstanding_bytes follow"),))
    return _BY_KIND.get((fault.kind, _role_at(fault.target, topology)), _BY_KIND.get((fault.kind, ""), Signs()))


def victim_of(link: str, topology: Topology) -> str:
    """The role whose path the link is; the publisher's for whatever lies between the phone and the gateway."""
    role = _role_at(topology.link(link).a, topology)
    return "publisher" if role == "gateway" else role


def _role_at(name: str, topology: Topology) -> str:
    """The role that a node plays (a role's name stands for itself); the publisher's for routers of its path."""
    if name in topology.roles:
        return name
    return next((role for role, node in topology.roles.items() if node == name), "publisher")


def _black_hole(fault: BlackHole, lasts_ns: int | None, topology: Topology) -> Signs:
    if fault.proto == "udp" or (fault.port is not None and fault.port != 1935):
        return Signs((_sign(0.0, 0.0, "nobody", "RTMP is TCP on port 1935, so this touches nothing of it"),))
    if fault.flow is not None:
        return (
            Signs(_ONE_CONNECTION) if lasts_ns is None or lasts_ns > STALL_AFTER_NS else _outage("publisher", lasts_ns)
        )
    return _outage(victim_of(fault.link, topology), lasts_ns)


def _outage(victim: str, lasts_ns: int | None) -> Signs:
    if victim != "publisher":
        leaf = _LEAF["destination" if victim == "destination" else "viewer"]
        return Signs(_named(leaf.broken, victim, lasts_ns), _named(leaf.healed, victim, None))
    return Signs(_within(_CUT, lasts_ns), _after_heal(lasts_ns))


def _after_heal(lasts_ns: int | None) -> Sequence[Sign]:
    if lasts_ns is None or lasts_ns >= STALL_AFTER_NS + _EDGE_NS:
        return _CAME_BACK
    if lasts_ns < STALL_AFTER_NS - _EDGE_NS:
        return _RODE_OUT
    either = Sign(0, _EDGE_NS, "publisher", "on the edge of its watchdog: it may wait, or reconnect as follows")
    return (either, *_CAME_BACK)


def _within(signs: Sequence[Sign], lasts_ns: int | None) -> Sequence[Sign]:
    return tuple(sign for sign in signs if lasts_ns is None or sign.low_ns < lasts_ns)


def _named(signs: Sequence[Sign], role: str, lasts_ns: int | None) -> Sequence[Sign]:
    named = (Sign(sign.low_ns, sign.high_ns, sign.who.format(role=role), sign.events) for sign in signs)
    return _within(tuple(named), lasts_ns)


_BY_KIND: Mapping[tuple[str, str], Signs] = {
    ("kill", "publisher"): Signs(_PUBLISHER_GONE),
    ("kill", "gateway"): Signs(_GATEWAY_GONE),
    ("restart", "publisher"): Signs(_PUBLISHER_GONE, _PUBLISHER_BACK),
    ("restart", "gateway"): Signs(_GATEWAY_GONE, _GATEWAY_BACK),
    ("pause", "publisher"): Signs(_STOPPED["publisher"], (_sign(0.0, 1.0, "every receiver", "media:resumed"),)),
    ("pause", "gateway"): Signs(_STOPPED["gateway"], (_sign(0.0, 1.0, "every receiver", "media:resumed"),)),
    ("nat_state_lost", ""): Signs(_RECONNECTS_AT_ONCE),
    ("nat_rebind", ""): Signs(_RECONNECTS_AT_ONCE),
    ("tcp_reset", ""): Signs(_RECONNECTS_AT_ONCE),
}
"""(kind, role) of what happens to a process; of everything else the kind alone."""
