"""The forwarding process of a lab: packets from the nodes' ports through the fabric to the nodes' ports, on time.

A process of its own, because in a thread it would starve behind the interpreter's lock (measured: seconds). One loop,
written for speed:

* waits in ``select``, whose time-out is exact to microseconds (``epoll`` rounds to milliseconds);
* offers each packet at the time at which the *kernel* received it, so that our own late waking is not added to the
  emulated delay; a stamp that cannot be (the wall clock was set) counts as now;
* sends what is due, and keeps a histogram of how late that was: a run in which the emulator was late says so;
* enters and leaves faults that were loaded beforehand at their times, before any packet is looked at.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import os
import select
import socket
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from harness.capture import spool
from harness.engines.netns import channel, syscalls
from harness.engines.netns.capturing import Batch
from harness.engines.netns.histogram import BOUNDS_NS, Histogram
from harness.engines.netns.netfaults import NetworkFaults
from harness.engines.netns.packetsocket import PacketSocket
from harness.engines.netns.plan import LabSpec
from harness.engines.netns.scheduling import take_best_class
from harness.engines.netns.selfcheck import answer_probe
from harness.errors import HarnessError
from harness.network.fabric import Fabric
from harness.network.packet import MalformedPacketError, Packet
from harness.units import MILLISECOND, SECOND

COUNT_EVERY = 100 * MILLISECOND
_AT_ONCE = 32
"""Packets read before those that are due get their turn."""
_OLDEST_STAMP = SECOND
_EVENTS_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Channels:
    """The forwarder's descriptors."""

    wire: int
    """Socket to the harness."""
    ring: int
    """Pipe on which the supervisor tells the ring's size."""
    go: int
    """Pipe that becomes readable when PID 1 has seen an echo from every port."""
    capture: int
    """Pipe to the capture's writer, or -1."""


def run(spec: LabSpec, packets: PacketSocket, channels: Channels) -> NoReturn:
    """Never returns; the harness's end of the wire closing, or PID 1, ends it."""
    end = socket.socket(fileno=channels.wire)
    try:
        syscalls.set_process_name("deadair-wire")
        syscalls.set_timer_slack(1)
        forwarder = Forwarder(spec, packets, end, channels.capture)
        gc.collect()
        gc.freeze()
        gc.disable()
        size = int.from_bytes(os.read(channels.ring, 8), "little")
        packets.listen(size, spec.ports)
        echo_probes(packets, channels.go)
        channel.send(end, ("ready", {"scheduling": take_best_class()}))
        end.setblocking(False)
        forwarder.serve()
    except channel.ChannelClosedError:
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            end.setblocking(True)
            channel.send(end, ("failed", f"the lab's forwarder failed: {error!r}", traceback.format_exc()))
    os._exit(1)


def echo_probes(packets: PacketSocket, go: int) -> None:
    """Send back every datagram of PID 1's check until PID 1 says that all ports work.

    All and not the first only: a veth end whose carrier has just come drops what is sent through it, silently, until
    the kernel's link watch has run.
    """
    watched: list[Any] = [packets, go]
    while go not in (ready := select.select(watched, [], [])[0]):
        arrived = packets.read(_AT_ONCE)
        if ready and not arrived:
            packets.clear_error()
        for _, number, packet in arrived:
            answer = answer_probe(packet)
            if answer is not None:
                packets.write(number, answer)


class Forwarder:
    """The fabric between the nodes' ports."""

    def __init__(self, spec: LabSpec, packets: PacketSocket, end: socket.socket, capture_pipe: int) -> None:
        self._packets = packets
        self._end = end
        self._late = Histogram()
        self._fabric = Fabric(spec.topology, seed=spec.seed)
        self._offers = {plan.number: self._fabric.ports[plan.key].offer for plan in spec.ports}
        for plan in spec.ports:
            self._fabric.ports[plan.key].sink = self._sink(plan.number)
        self._outbox: list[Any] = []
        self._timers: list[tuple[int, int, Callable[[int], None]]] = []
        self._timer_count = 0
        self._next_timer = 0
        self._malformed = 0
        self._batch = Batch(capture_pipe)
        self._faults = NetworkFaults(self._fabric, tell=self._tell, at=self.at)
        self._verbs: Mapping[str, Callable[..., Any]] = {
            "fault": self._faults.schedule,
            "heal": self._faults.heal,
            "measure": self._measure,
            "finish": self._finish,
        }
        if capture_pipe >= 0:
            self._fabric.taps.append(self._capture)
        self.at(time.monotonic_ns() + COUNT_EVERY, self._count)

    def at(self, t_ns: int, action: Callable[[int], None]) -> None:
        """Call ``action(now)`` at an absolute time, before any packet of that time is looked at."""
        self._timer_count += 1
        heapq.heappush(self._timers, (t_ns, self._timer_count, action))
        self._next_timer = self._timers[0][0]

    def serve(self) -> None:
        """The hot loop."""
        fabric, end, packets, offers = self._fabric, self._end, self._packets, self._offers
        parse, next_deadline, advance, read = fabric.parse, fabric.next_deadline, fabric.advance, packets.read
        watched: list[Any] = [packets, end]
        monotonic, realtime, wait = time.monotonic_ns, time.time_ns, select.select
        while True:
            deadline = next_deadline()
            if deadline is None or deadline > self._next_timer:
                deadline = self._next_timer
            pause = (deadline - monotonic()) / 1e9
            ready, _, _ = wait(watched, (), (), pause if pause > 0 else 0)
            now = monotonic()
            if now >= self._next_timer:
                self._run_timers(now)
            advance(now)
            if not ready:
                continue
            if end in ready:
                self._take_orders()
            if packets in ready:
                shift = now - realtime()
                oldest = now - _OLDEST_STAMP
                arrivals = read(_AT_ONCE)
                if not arrivals:
                    packets.clear_error()
                for stamp, number, raw in arrivals:
                    arrived = stamp + shift
                    try:
                        offers[number](parse(raw), arrived if oldest < arrived < now else now)
                    except MalformedPacketError:
                        self._malformed += 1
            advance(monotonic())

    def _sink(self, number: int) -> Callable[[Packet, int], None]:
        """Writes to one port what the fabric delivers there, and notes how late that was."""
        write, late, bounds, monotonic = self._packets.write, self._late, BOUNDS_NS, time.monotonic_ns
        counts = late.counts

        def deliver(packet: Packet, due: int) -> None:
            write(number, packet.to_bytes())
            lateness = monotonic() - due
            counts[bisect_left(bounds, lateness)] += 1
            if lateness > late.greatest:
                late.greatest = lateness

        return deliver

    def _run_timers(self, now: int) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)
        self._next_timer = self._timers[0][0] if self._timers else now + COUNT_EVERY
        self._flush()

    def _take_orders(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                (verb, number, *arguments), _ = channel.receive(self._end)
                try:
                    self._outbox.append(("reply", number, self._verbs[verb](*arguments)))
                except HarnessError as error:
                    self._outbox.append(("refused", number, error.what, error.cure))
                except (ValueError, LookupError) as error:
                    self._outbox.append(("refused", number, f"{verb}: {error}", ""))
                self._flush()

    def _tell(self, t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        self._outbox.append(("events", [(t_ns, node, source, name, dict(data))]))

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._outbox:
                channel.send(self._end, self._outbox[0])
                del self._outbox[0]

    def _count(self, now: int) -> None:
        """Flow counters to the harness, and the capture's batch to its writer."""
        self._tell_counts(now)
        self._batch.flush()
        self.at(now + COUNT_EVERY, self._count)

    def _tell_counts(self, now: int) -> None:
        events = [(now, "-", "network", "flow:counted", asdict(count)) for count in self._fabric.drain_counts(now)]
        for first in range(0, len(events), _EVENTS_AT_ONCE):
            self._outbox.append(("events", events[first : first + _EVENTS_AT_ONCE]))
        self._flush()

    def _capture(self, packet: Packet, where: str, fate: str, now: int) -> None:
        self._batch.add(spool.encode(spool.SpooledPacket(now, where, bytes(packet.to_bytes()), fate)))

    def _measure(self) -> dict[str, Any]:
        """The data of ``emulator:measured`` as it stands."""
        return {
            "packets": self._late.total,
            "late_p50_us": self._late.quantile_us(0.5),
            "late_p99_us": self._late.quantile_us(0.99),
            "late_max_us": self._late.greatest / 1000,
            "histogram": self._late.to_json(),
            "ring_lost": self._packets.lost(),
            "unsent": self._packets.unsent,
            "malformed": self._malformed,
            "left_out": self._batch.left_out,
        }

    def _finish(self) -> None:
        """Heal everything, count a last time, end the capture; tell what was late, or lost here."""
        now = time.monotonic_ns()
        self._faults.heal_all(now)
        self._tell_counts(now)
        self._batch.close()
        self._tell(now, "-", "network", "emulator:measured", self._measure())
