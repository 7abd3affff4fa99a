"""The reference gateway without its keyframe gate: a new connection is forwarded from wherever it happens to be.

A publisher that begins in the middle of a GOP (its partner here, ``reference-no-idr``) then reaches the receivers with
pictures that refer to others they never saw: grey or torn until the next IDR (strom #693, livekit #436). With the gate
they wait for it instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.keyframe_gate import GateOpened, GateSettings, JoinGate, PacketKind, Passed, Withheld

DEFECT = "forwards a new connection from the middle of a GOP, without an IDR"
ROLE = "gateway"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "gate_held"
WITH = {"publisher": "reference-no-idr"}

_MEDIA = (PacketKind.IDR, PacketKind.PICTURE, PacketKind.AUDIO)


class OpenGate:
    """Lets every packet pass with its own time stamp; headers wait for the first picture or sound, as everywhere."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._open = False

    def new_epoch(self, *, now: float) -> bool:
        """Nothing closes; only the headers of the new connection are sent anew."""
        was_open, self._open = self._open, False
        return was_open

    def offer(self, kind: PacketKind, timestamp: int, *, parameter_sets: bool = False, now: float) -> Passed | Withheld:
        """Pass, whatever it is."""
        if self._open:
            return Passed(timestamp)
        if kind not in _MEDIA:
            return Withheld()
        self._open = True
        return Passed(timestamp, GateOpened(0, 0.0, 0))


class OpenJoinGate(JoinGate):
    """Lets every packet pass to a receiver that has just joined."""

    def passes(self, kind: PacketKind, *, has_video: bool = True) -> bool:
        return True


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with both gates open."""
    return serve(argv, GatewayParts(gate=OpenGate, join_gate=OpenJoinGate))


if __name__ == "__main__":
    raise SystemExit(main())
