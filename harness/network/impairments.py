"""What a link does to packets in one direction, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from harness.network.loss import LossModel, check_share, loss_from_json
from harness.units import MILLISECOND, format_duration, format_rate, format_size

DEFAULT_QUEUE_TIME = 200 * MILLISECOND
"""Queue of a link with a rate and no limit of its own: deep enough to show as delay, as mobile uplinks do."""
DEFAULT_MTU = 1500
_SMALLEST_MTU = 576  # every IPv4 host must take this much (RFC 791 3.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairments:
    """One direction of a link. All zero: delivered at once, unchanged, without limit.

    A packet is first lost or not, then waits for the line (``rate``), then travels (``delay`` and ``jitter``).
    """

    delay: int = 0
    """One-way propagation delay, ns."""
    jitter: int = 0
    """Half width of a uniform variation around ``delay``, ns; at most ``delay``."""
    jitter_correlation: float = 0.0
    """Weight of the packet before in each packet's jitter, 0..1 (as in netem: first-order recursion)."""
    reorder_allowed: bool = False
    """Whether a packet with less delay may overtake; otherwise it arrives right behind the one before."""
    rate: int | None = None
    """Bits per second of IP packets; None = without limit."""
    queue_bytes: int | None = None
    """Drop-tail limit: bytes that wait for the line or are being sent; the line when idle takes any packet."""
    queue_time: int | None = None
    """The same limit as time, ns: a packet that would take longer to have left is dropped."""
    loss: LossModel | None = None
    duplicate: float = 0.0
    """Share of packets sent twice; the copy takes its own time on the line."""
    reorder: float = 0.0
    """Share of packets held back by ``reorder_by`` and so overtaken, whatever ``reorder_allowed`` says."""
    reorder_by: int = 5 * MILLISECOND
    corrupt: float = 0.0
    """Share of packets in which one bit is flipped behind the IP header; the receiver's checksum drops them."""
    mtu: int = DEFAULT_MTU
    """Bytes of the largest IP packet."""

    def __post_init__(self) -> None:
        for name in ("delay", "jitter", "reorder_by"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)} ns; it can't be negative")
        if self.jitter > self.delay:
            raise ValueError(
                f"jitter {format_duration(self.jitter)} is more than delay {format_duration(self.delay)}: "
                "packets would arrive before they were sent"
            )
        for name in ("duplicate", "reorder", "corrupt", "jitter_correlation"):
            check_share(name, getattr(self, name))
        self._check_line()

    def _check_line(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"rate is {self.rate} bit/s; for nothing at all use a black hole")
        if self.queue_bytes is not None and self.queue_time is not None:
            raise ValueError("queue_bytes and queue_time are both given; a queue has one limit")
        if self.rate is None and (self.queue_bytes is not None or self.queue_time is not None):
            raise ValueError("a queue limit needs a rate: without one nothing waits")
        if (self.queue_bytes or 1) < 0 or (self.queue_time or 1) < 0:
            raise ValueError("a queue limit can't be negative")
        if self.mtu < _SMALLEST_MTU:
            raise ValueError(f"mtu is {self.mtu} bytes; the least that IPv4 works with is {_SMALLEST_MTU}")

    def changed(self, **changes: Any) -> Impairments:
        """These impairments with some fields replaced.

        Naming one queue limit removes the other, and a delay below the jitter takes the jitter down with it.
        """
        if "delay" in changes and "jitter" not in changes:
            changes["jitter"] = min(self.jitter, changes["delay"])
        if changes.get("queue_bytes") is not None:
            changes.setdefault("queue_time", None)
        if changes.get("queue_time") is not None:
            changes.setdefault("queue_bytes", None)
        return replace(self, **changes)

    def describe(self) -> str:
        """``"delay 25.0 ms ± 8.00 ms, 10.0 Mbit/s, loss 0.5 %"``; ``"unimpaired"`` where it is."""
        words = [*self._describe_time(), *self._describe_damage()]
        return ", ".join(words) or "unimpaired"

    def _describe_time(self) -> list[str]:
        words = []
        if self.delay:
            jitter = f" ± {format_duration(self.jitter)}" if self.jitter else ""
            words.append(f"delay {format_duration(self.delay)}{jitter}")
        if self.rate is not None:
            words.append(format_rate(self.rate))
        if self.queue_bytes is not None:
            words.append(f"queue {format_size(self.queue_bytes)}")
        if self.queue_time is not None:
            words.append(f"queue {format_duration(self.queue_time)}")
        return words

    def _describe_damage(self) -> list[str]:
        words = [self.loss.describe()] if self.loss is not None else []
        words += [
            f"{name} {getattr(self, name):.3g}" for name in ("duplicate", "reorder", "corrupt") if getattr(self, name)
        ]
        if self.reorder_allowed:
            words.append("reordering allowed")
        if self.mtu != DEFAULT_MTU:
            words.append(f"MTU {self.mtu}")
        return words

    def to_json(self) -> dict[str, Any]:
        """Only what differs from an unimpaired direction; times in ns, rates in bit/s, sizes in bytes."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if self.loss is not None:
            values["loss"] = self.loss.to_json()
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Impairments:
        """The value that :meth:`to_json` told."""
        values = dict(data)
        if values.get("loss") is not None:
            values["loss"] = loss_from_json(values["loss"])
        return cls(**values)


UNIMPAIRED = Impairments()
