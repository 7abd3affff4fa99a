"""Curves of a run: bitrate per flow, the publisher's TCP figures, media delay at the receivers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.history.events import Event
from harness.units import MILLISECOND, SECOND

COUNT_INTERVAL_NS = 100 * MILLISECOND
"""How often flows are counted (``flow:counted`` in harness/history/events.py)."""
_MOST_FLOWS = 8
_SMALL_SHARE = 0.05
# A dynamic port says nothing to a reader; the service's port names the flow.
_FIRST_DYNAMIC_PORT = 10_000
_FLOW = re.compile(r"(?P<src>.+):(?P<sport>\d+)>(?P<dst>.+):(?P<dport>\d+)/(?P<proto>\w+)")

Point = tuple[int, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve; a value of None is a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One small chart under the timeline."""

    title: str
    group: Literal["bitrate", "tcp", "delay"]
    unit: Literal["bit/s", "B", "ms"]
    kind: Literal["area", "line"]
    series: Sequence[Series]
    dropped: Sequence[tuple[int, int]] = field(default=())
    """(time, packets) of drops in this flow."""
    note: str = ""

    @property
    def peak(self) -> float:
        """The highest value of all curves."""
        return max((value for s in self.series for _, value in s.points if value is not None), default=0.0)


def derive_charts(events: Sequence[Event]) -> list[Chart]:
    """All charts of a run in the order in which they are drawn."""
    return [*bitrate_charts(events), *tcp_charts(events), *delay_charts(events)]


# --- bitrate -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Flow:
    sent: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    @property
    def total(self) -> int:
        return sum(self.sent.values())


def flow_title(flow: str) -> str:
    """``"phone → gateway:1935"`` of ``"phone:40000>gateway:1935/tcp"``: all connections of a pair share it.

    Other protocols than TCP are named: ``"phone → gateway:8000/udp"``.
    """
    match = _FLOW.fullmatch(flow)
    if match is None:
        return flow
    src, dst = (_end(match[host], int(match[port])) for host, port in (("src", "sport"), ("dst", "dport")))
    return f"{src} → {dst}" + ("" if match["proto"] == "tcp" else f"/{match['proto']}")


def _end(host: str, port: int) -> str:
    return f"{host}:{port}" if port < _FIRST_DYNAMIC_PORT else host


def bitrate_charts(events: Iterable[Event]) -> list[Chart]:
    """Bits per second at the receiving host, per pair of hosts and service, busiest first.

    Flows under 5 % of the busiest (acknowledgements mostly) are left out unless the network dropped some of them.
    """
    flows: dict[str, _Flow] = {}
    for event in events:
        if event.name == "flow:counted":
            _count(flows.setdefault(flow_title(event.data["flow"]), _Flow()), event)
    busiest = max((flow.total for flow in flows.values()), default=0)
    shown = [(title, flow) for title, flow in flows.items() if flow.total and flow.total >= busiest * _SMALL_SHARE]
    shown.sort(key=lambda item: -item[1].total)
    return [_bitrate_chart(title, flow) for title, flow in shown[:_MOST_FLOWS]]


def _count(flow: _Flow, event: Event) -> None:
    # A count told at t covers the interval that ends at t.
    bucket = (event.t_ns - 1) // COUNT_INTERVAL_NS
    flow.sent[bucket] = flow.sent.get(bucket, 0) + event.data["bytes"]
    if event.data["dropped"]:
        flow.dropped[bucket] = flow.dropped.get(bucket, 0) + event.data["dropped"]
    flow.names.add(event.data["flow"])


def _bitrate_chart(title: str, flow: _Flow) -> Chart:
    scale = 8 * SECOND / COUNT_INTERVAL_NS
    first, last = min(flow.sent), max(flow.sent)
    points: list[Point] = [
        (bucket * COUNT_INTERVAL_NS, flow.sent.get(bucket, 0) * scale) for bucket in range(first, last + 1)
    ]
    points.append(((last + 1) * COUNT_INTERVAL_NS, 0.0))
    return Chart(
        title=title,
        group="bitrate",
        unit="bit/s",
        kind="area",
        series=[Series(name=title, points=points)],
        dropped=[(bucket * COUNT_INTERVAL_NS, count) for bucket, count in sorted(flow.dropped.items())],
        note=f"{len(flow.names)} connections" if len(flow.names) > 1 else "",
    )


# --- TCP ---------------------------------------------------------------------------------------------------------

_TCP_CHARTS: Mapping[str, tuple[Literal["B", "ms"], Mapping[str, str]]] = {
    "outstanding": ("B", {"outstanding_bytes": "outstanding"}),
    "last ACK, RTO": ("ms", {"last_ack_age_ms": "ACK age", "rto_ms": "RTO"}),
}


def tcp_charts(events: Iterable[Event]) -> list[Chart]:
    """Outstanding bytes, age of the last acknowledgement and RTO as each sender's kernel told them.

    A new connection starts a new piece of the curve.
    """
    sampled: dict[str, list[Event]] = {}
    for event in events:
        if event.name == "tcp:sampled":
            sampled.setdefault(event.source, []).append(event)
    return [_tcp_chart(source, title, samples) for source, samples in sampled.items() for title in _TCP_CHARTS]


def _tcp_chart(source: str, title: str, samples: Sequence[Event]) -> Chart:
    unit, fields = _TCP_CHARTS[title]
    series = [Series(name=name, points=_newest_connection(samples, key)) for key, name in fields.items()]
    return Chart(title=f"{source} {title}", group="tcp", unit=unit, kind="line", series=series)


def _newest_connection(samples: Sequence[Event], key: str) -> list[Point]:
    """The curve of the newest connection at each moment, broken where it changes."""
    points: list[Point] = []
    newest = 0
    for event in samples:
        connection = event.data["connection"]
        if connection < newest:
            continue
        if connection > newest and points:
            points.append((event.t_ns, None))
        newest = connection
        points.append((event.t_ns, float(event.data[key])))
    return points


# --- delay -------------------------------------------------------------------------------------------------------


def delay_charts(events: Iterable[Event]) -> list[Chart]:
    """Capture-to-arrival delay of the media at each receiver; a gap where nothing arrived."""
    told: dict[str, list[Point]] = {}
    for event in events:
        if event.name == "media:progressed":
            told.setdefault(event.source, []).append((event.t_ns, event.data["delay_ms"]))
    return [
        Chart(
            title=f"{source} media delay",
            group="delay",
            unit="ms",
            kind="line",
            series=[Series(name="delay", points=points)],
        )
        for source, points in told.items()
        if any(value is not None for _, value in points)
    ]
