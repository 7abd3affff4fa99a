"""Links: two directions, each with its own impairments, its own line and its own random streams.

Laws of a direction (each has a property test):

* every packet offered is delivered, still on its way, or dropped with a reason; duplicates are counted apart;
* packets arrive in the order in which they came, unless ``reorder_allowed`` or ``reorder`` says otherwise;
* over any window no more bits leave the line than ``rate`` allows, plus the packet that is on it;
* what happens to packet number *n* depends on the seed and the names alone (``draws.py``); a packet that a rule
  drops has its number too, so that a fault doesn't reshuffle the loss behind it;
* :meth:`Direction.change` keeps the queue: packets already accepted arrive when they would have.

The order is that of netem: rules, then loss, then the line (rate and queue), then delay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heappush
from typing import Any, Literal, Protocol

from harness.network.draws import NEVER, Bernoulli, Picks, Stream, Variation
from harness.network.impairments import DEFAULT_QUEUE_TIME, Impairments
from harness.network.packet import Packet
from harness.network.rules import Rule

Heading = Literal["up", "down"]
_BYTE_NS = 8_000_000_000  # ns for one byte at 1 bit/s
_ALWAYS = -1


class Receiver(Protocol):
    """Where a direction ends, and who answers for packets that don't fit through it."""

    def receive(self, packet: Packet, now: int) -> None:
        """A packet has come out of the direction."""

    def too_big(self, packet: Packet, direction: Direction, now: int) -> None:
        """A packet larger than the direction's MTU was offered to it."""


Drop = Callable[[Packet, str, str, int], None]
"""Called with the packet, where it was dropped, why, and when."""


class Agenda:
    """What is due when, for a whole fabric: one heap entry per busy direction, and one per packet out of order.

    Entries are ``(due, sequence, target, packet)``; without a packet it is the head of the target's queue that is
    due. The sequence makes ties fall in the order in which they were entered.
    """

    __slots__ = ("heap", "sequence")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Any, Packet | None]] = []
        self.sequence = 0

    def add(self, due: int, target: Any, packet: Packet | None) -> None:
        """Enter one packet, or the head of a queue."""
        self.sequence += 1
        heappush(self.heap, (due, self.sequence, target, packet))


class _Backlog:
    """Bytes that were waiting when the rate changed: they leave at the old pace, so they are counted apart."""

    __slots__ = ("bytes", "since", "until")

    def __init__(self, waiting: float, since: int, until: int) -> None:
        self.bytes = waiting
        self.since = since
        self.until = until

    def left(self, now: int) -> float:
        return self.bytes * max(0, self.until - now) / (self.until - self.since)


class Direction:
    """One direction of a link. Sans-IO: :meth:`offer` enters what is to happen into the fabric's agenda."""

    __slots__ = (
        "_agenda",
        "_backlog",
        "_base",
        "_base_loss_start",
        "_corrupt",
        "_delay",
        "_drop",
        "_duplicate",
        "_free",
        "_heap",
        "_jitter",
        "_last_due",
        "_limit",
        "_loss",
        "_mtu",
        "_overlays",
        "_rare",
        "_rate",
        "_refuse",
        "_reorder",
        "_seed",
        "_special",
        "deliver",
        "dropped",
        "duplicated",
        "heading",
        "impairments",
        "link",
        "name",
        "offered",
        "queue",
        "rules",
        "strays",
    )

    deliver: Callable[[Packet, int], None]
    """Where packets come out; the fabric's loop calls it with the packet and when it was due."""
    _refuse: Callable[[Packet, Direction, int], None]

    def __init__(
        self, link: str, heading: Heading, impairments: Impairments, *, seed: int, agenda: Agenda, drop: Drop
    ) -> None:
        self.link = link
        self.heading: Heading = heading
        self.name = f"{link} {heading}"
        self.rules: list[Rule] = []
        """Faults at the entrance; empty when nothing is broken."""
        self.offered = 0
        """Packets offered so far; also the number of the next one."""
        self.duplicated = 0
        self.dropped = 0
        self.queue: deque[tuple[int, Packet]] = deque()
        """(due, packet) of the packets on their way in order; the first is in the agenda."""
        self.strays = 0
        """Packets on their way out of order, each in the agenda by itself."""
        self._seed = seed
        self._agenda = agenda
        self._heap = agenda.heap
        self._drop = drop
        self._free = 0
        self._last_due = 0
        self._rate = 0
        self._backlog: _Backlog | None = None
        self._overlays: dict[object, tuple[Mapping[str, Any], int]] = {}
        self._base = self.impairments = impairments
        self._base_loss_start = 0
        self._apply(impairments, 0)

    def attach(self, *, end: Receiver, refuse: Receiver) -> None:
        """``end`` gets what comes out, ``refuse`` what is too big to go in."""
        self.deliver = end.receive
        self._refuse = refuse.too_big

    # --- packets ---------------------------------------------------------------------------------------------

    def offer(self, packet: Packet, now: int) -> None:
        """A packet enters. Nothing is returned: it comes out by the agenda, or is told as dropped."""
        length = packet.length
        if length > self._mtu:
            self._refuse(packet, self, now)
            return
        number = self.offered
        self.offered = number + 1
        if self.rules and self._ruled_out(packet, now):
            return
        if number >= self._special:
            self._offer_special(packet, number, now)
            return
        rate = self._rate
        if rate:
            free = self._free
            if free > now:
                free -= -length * _BYTE_NS // rate
                if free - now > self._limit:
                    self._lose(packet, "queue_full", now)
                    return
            else:
                free = now - -length * _BYTE_NS // rate
            self._free = free
            due = free + self._delay
        else:
            due = now + self._delay
        if due < self._last_due:
            due = self._last_due
        else:
            self._last_due = due
        queue = self.queue
        if not queue:
            agenda = self._agenda
            agenda.sequence = sequence = agenda.sequence + 1
            heappush(self._heap, (due, sequence, self, None))
        queue.append((due, packet))

    def receive(self, packet: Packet, now: int) -> None:
        """A packet that was under way out of order has come to the end."""
        self.strays -= 1
        self.deliver(packet, now)

    @property
    def in_flight(self) -> int:
        """Packets accepted and not yet delivered."""
        return len(self.queue) + self.strays

    @property
    def delivered(self) -> int:
        """Packets that came out at the end."""
        return self.offered + self.duplicated - self.dropped - self.in_flight

    def _ruled_out(self, packet: Packet, now: int) -> bool:
        for rule in self.rules:
            reason = rule.judge(packet, now)
            if reason is not None:
                self._lose(packet, reason, now)
                return True
        return False

    def _offer_special(self, packet: Packet, number: int, now: int) -> None:
        """As the end of :meth:`offer`, for packets that something random happens to, or may."""
        if self._backlog is not None and now >= self._backlog.until:
            self._backlog = None
            self._plan_specials()
        delay = self._delay
        if self._jitter is not None:
            delay += round(self.impairments.jitter * self._jitter.at(number))
        if number >= self._rare:
            self._offer_rare(packet, number, delay, now)
        else:
            self._send(packet, delay, now, held=False)

    def _offer_rare(self, packet: Packet, number: int, delay: int, now: int) -> None:
        """A packet that is picked for something, or the first of a block whose picks aren't known yet."""
        lost = self._loss.hit(number)
        doubled, held, damaged = self._duplicate.hit(number), self._reorder.hit(number), self._corrupt.hit(number)
        self._plan_specials()
        if lost:
            self._lose(packet, "loss", now)
            return
        twin = packet.copy() if doubled else None
        if damaged:
            packet.flip_bit(self._stream("corrupt").draw(number))
        self._send(packet, delay, now, held=held)
        if twin is not None:
            self.duplicated += 1
            self._send(twin, delay, now, held=held)

    def _send(self, packet: Packet, delay: int, now: int, *, held: bool) -> None:
        """Through the line and on its way; ``held`` packets are overtaken."""
        leaves = self._through_line(packet.length, now)
        if leaves is None:
            self._lose(packet, "queue_full", now)
            return
        due = leaves + delay
        if held or (due < self._last_due and self.impairments.reorder_allowed):
            self.strays += 1
            self._agenda.add(due + (self.impairments.reorder_by if held else 0), self, packet)
            return
        due = self._last_due = max(due, self._last_due)
        if not self.queue:
            self._agenda.add(due, self, None)
        self.queue.append((due, packet))

    def _through_line(self, length: int, now: int) -> int | None:
        """When the packet has left the line; None where the queue is full."""
        if not self._rate:
            return now
        leaves = max(self._free, now) - -length * _BYTE_NS // self._rate
        if self._free > now:
            limit = self.impairments.queue_bytes
            if self._backlog is not None and limit is not None:
                full = self._waiting(now) + length > limit
            else:
                full = leaves - now > self._limit
            if full:
                return None
        self._free = leaves
        return leaves

    def _waiting(self, now: int) -> float:
        """Bytes that have not yet left the line."""
        if self._backlog is None:
            return max(0, self._free - now) * self._rate / _BYTE_NS
        own = max(0, self._free - max(self._backlog.until, now)) * self._rate / _BYTE_NS
        return self._backlog.left(now) + own

    def _lose(self, packet: Packet, reason: str, now: int) -> None:
        self.dropped += 1
        self._drop(packet, self.name, reason, now)

    # --- changes ---------------------------------------------------------------------------------------------

    def change(self, impairments: Impairments, now: int) -> None:
        """Replace the impairments in place. Packets already on their way keep their due time and can't be overtaken
        (unless ``reorder_allowed``); the queue stays. Changes by faults stay on top."""
        if impairments.loss != self._base.loss:
            self._base_loss_start = self.offered
        self._base = impairments
        self._settle(now)

    def overlay(self, key: object, changes: Mapping[str, Any], now: int) -> None:
        """Lay changed fields over the impairments until :meth:`lift` with the same key; the latest is on top."""
        self._overlays[key] = (changes, self.offered)
        self._settle(now)

    def lift(self, key: object, now: int) -> None:
        """Take one overlay away; what lies under it, and what other faults changed, shows again."""
        self._overlays.pop(key, None)
        self._settle(now)

    def _settle(self, now: int) -> None:
        """The impairments now in force: the base with every overlay in the order in which they came."""
        result, loss_start = self._base, self._base_loss_start
        for changes, start in self._overlays.values():
            result = _laid_over(result, changes)
            loss_start = start if "loss" in changes else loss_start
        if self._rate and self._free > now:
            self._backlog = _Backlog(self._waiting(now), now, self._free)
        self.impairments = result
        self._apply(result, loss_start)

    def _apply(self, impairments: Impairments, loss_start: int) -> None:
        """Unpack the value into what :meth:`offer` reads."""
        self._mtu = impairments.mtu
        self._delay = impairments.delay
        self._rate = impairments.rate or 0
        self._limit = _limit_ns(impairments)
        loss, start = impairments.loss, self.offered
        self._loss = loss.picks(self._stream("loss"), start=loss_start) if loss is not None else _nothing()
        self._duplicate = Bernoulli(self._stream("duplicate"), impairments.duplicate, start=start)
        self._reorder = Bernoulli(self._stream("reorder"), impairments.reorder, start=start)
        self._corrupt = Bernoulli(self._stream("corrupt"), impairments.corrupt, start=start)
        correlation = impairments.jitter_correlation
        self._jitter = Variation(self._stream("jitter"), correlation) if impairments.jitter else None
        self._plan_specials()

    def _plan_specials(self) -> None:
        """Find the number of the next packet that is picked for something, and that the fast path can't take."""
        self._rare = min(self._loss.next, self._duplicate.next, self._reorder.next, self._corrupt.next)
        always = self._jitter is not None or self._backlog is not None or self.impairments.reorder_allowed
        self._special = _ALWAYS if always else self._rare

    def _stream(self, purpose: str) -> Stream:
        return Stream(f"{self._seed}/{self.link}/{self.heading}/{purpose}")


class Link:
    """Both directions of one link."""

    __slots__ = ("down", "name", "up")

    def __init__(self, name: str, *, up: Direction, down: Direction) -> None:
        self.name = name
        self.up = up
        """From the link's end a (the edge) towards the core."""
        self.down = down

    def directions(self, which: str) -> tuple[Direction, ...]:
        """The directions that ``both``, ``up`` or ``down`` means."""
        return {"both": (self.up, self.down), "up": (self.up,), "down": (self.down,)}[which]


def _laid_over(below: Impairments, changes: Mapping[str, Any]) -> Impairments:
    """``below`` with changed fields; a queue limit whose rate another fault has taken back goes with it."""
    if changes.get("rate", below.rate) is None:
        changes = {name: value for name, value in changes.items() if name not in ("queue_bytes", "queue_time")}
    return below.changed(**changes)


def _limit_ns(impairments: Impairments) -> int:
    """Queue limit as the time until a packet has left the line."""
    if impairments.rate is None:
        return NEVER
    if impairments.queue_bytes is not None:
        return -(-impairments.queue_bytes * _BYTE_NS // impairments.rate)
    return impairments.queue_time if impairments.queue_time is not None else DEFAULT_QUEUE_TIME


def _nothing() -> Picks:
    return Bernoulli(Stream(""), 0.0, start=0)
