"""What a fault puts at the entrance of a link direction: packet in, reason to drop it (or None) out."""

from __future__ import annotations

from typing import Protocol

from harness.network.packet import Packet


class Rule(Protocol):
    """One rule; the first of a direction's rules that gives a reason decides."""

    def judge(self, packet: Packet, now: int) -> str | None:
        """Why this packet is dropped here, as one word for the counters, or None to let it pass."""
