"""The reference gateway without its keyframe gate: a new connection is forwarded from wherever it happens to be.

Its outputs are attached to a new connection a moment after it begins to deliver, as wherever a source is swapped
while authorisation, a process or another thread is still on its way (strom #693, livekit #436). With a gate that
costs a wait for the next IDR; without one the receivers get pictures that refer to others they never saw: grey or
torn until the next IDR.
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

ATTACHED_AFTER = 0.1
"""Seconds from a connection's first picture or sound to the moment when the outputs are attached to it."""
_MEDIA = (PacketKind.IDR, PacketKind.PICTURE, PacketKind.AUDIO)


class OpenGate:
    """Lets every packet pass with its own time stamp, once the outputs are attached."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._began: float | None = None
        self._attached = False
        self._missed = 0

    def new_epoch(self, *, now: float) -> bool:
        """Nothing closes; the outputs have to be attached anew."""
        was_attached, self._attached = self._attached, False
        self._began, self._missed = None, 0
        return was_attached

    def offer(self, kind: PacketKind, timestamp: int, *, parameter_sets: bool = False, now: float) -> Passed | Withheld:
        """Pass, whatever it is."""
        if self._attached:
            return Passed(timestamp)
        if kind not in _MEDIA:
            return Withheld()
        self._began = now if self._began is None else self._began
        waited = now - self._began
        if waited < ATTACHED_AFTER:
            self._missed += 1
            return Withheld()
        self._attached = True
        return Passed(timestamp, GateOpened(self._missed, waited, 0))


class OpenJoinGate(JoinGate):
    """Lets every packet pass to a receiver that has just joined."""

    def passes(self, kind: PacketKind, *, has_video: bool = True) -> bool:
        return True


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with both gates open."""
    return serve(argv, GatewayParts(gate=OpenGate, join_gate=OpenJoinGate))


if __name__ == "__main__":
    raise SystemExit(main())
