"""Joins the packets that the forwarding process spooled with the events of the history into one capture.

This happens after the run, so that the hot loop only ever appends bytes to a spool.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.capture.fates import one_row_each
from harness.capture.pcapng import CaptureWriter
from harness.capture.spool import SpooledPacket, read_packets
from harness.history.events import Event

# Told per flow ten times a second: the packets themselves show it better.
_NOT_ROWS = frozenset({"flow:counted"})
_REORDER_WINDOW = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSummary:
    """What a written capture holds."""

    path: Path
    packets: int
    events: int
    left_out: int
    """Packets that the size limit kept out."""


def write_capture(
    spool: Path,
    events: Iterable[Event],
    out: Path,
    *,
    zero_monotonic_ns: int,
    zero_wall_ns: int,
    comment: str = "",
    max_bytes: int | None = None,
) -> CaptureSummary:
    """Write ``out`` from the spool and the events, in order of time.

    ``zero_monotonic_ns`` and ``zero_wall_ns`` are the two clocks at the run's zero. ``comment`` becomes the capture's
    own comment: verdict, seed, replay line. Raises :class:`harness.errors.HarnessError` where ``out`` cannot be written
    and OSError where the spool cannot be read.
    """
    packets = one_row_each(_in_order(read_packets(spool)))
    rows = sorted((event for event in events if event.name not in _NOT_ROWS), key=lambda event: event.t_ns)
    with CaptureWriter(out, zero_ns=zero_wall_ns, comment=comment, max_bytes=max_bytes) as writer:
        _write_merged(writer, packets, rows, zero_monotonic_ns)
    return CaptureSummary(path=out, packets=writer.packets, events=len(rows), left_out=writer.left_out)


def _write_merged(
    writer: CaptureWriter, packets: Iterator[SpooledPacket], events: list[Event], zero_monotonic_ns: int
) -> None:
    waiting = iter(events)
    event = next(waiting, None)
    for absolute_ns, interface, raw, fate in packets:
        t_ns = absolute_ns - zero_monotonic_ns
        while event is not None and event.t_ns <= t_ns:
            writer.event(event.t_ns, event.node, event.source, event.name, event.data)
            event = next(waiting, None)
        writer.packet(t_ns, interface, raw, fate)
    while event is not None:
        writer.event(event.t_ns, event.node, event.source, event.name, event.data)
        event = next(waiting, None)


def _in_order(packets: Iterable[SpooledPacket]) -> Iterator[SpooledPacket]:
    """Packets sorted by time as far as a bounded window allows: a spool is nearly in order, and may be huge."""
    window: list[tuple[int, int, SpooledPacket]] = []
    for place, packet in enumerate(packets):
        entry = (packet.t_ns, place, packet)
        if len(window) < _REORDER_WINDOW:
            heapq.heappush(window, entry)
        else:
            yield heapq.heappushpop(window, entry)[2]
    while window:
        yield heapq.heappop(window)[2]
