"""The reference gateway that forgets its egress when the session ends: the worker is left, holding the destination.

What a crash, a missing clean-up path or an exception in one leaves behind (nginx-rtmp #494 and #659, egress #143).
"""

from __future__ import annotations

from collections.abc import Sequence

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.egress import Action, EgressSupervisor

DEFECT = "does not stop the egress when the session ends; its worker is orphaned"
ROLE = "gateway"
CAUGHT_BY = "egress/publisher_gone_for_good"
CLAIM = "nothing_orphaned"


class ForgetfulSupervisor(EgressSupervisor):
    """Takes a session's end for a reason to do nothing more, the stop included."""

    @property
    def finished(self) -> bool:
        """It believes so as soon as the session is over."""
        return self._session_over

    def session_ended(self, *, reason: str, setting: str = "", now: float) -> list[Action]:
        self._session_over = True
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with the forgetful supervisor."""
    return serve(argv, GatewayParts(supervisor=ForgetfulSupervisor))


if __name__ == "__main__":
    raise SystemExit(main())
