"""The reference gateway that stops its egress twice when the session ends.

Two hooks that watch the same thing and do not know of each other (pairux #23 stopped from the page and again from the
webhook); with a platform's API in between, the second stop ends whatever was started since.
"""

from __future__ import annotations

from collections.abc import Sequence

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.egress import Action, AskStop, EgressSupervisor

DEFECT = "stops the egress twice when the session ends"
ROLE = "gateway"
CAUGHT_BY = "egress/publisher_gone_for_good"
CLAIM = "egress_stopped"


class EagerSupervisor(EgressSupervisor):
    """Hears of the session's end from two sides, and acts on both."""

    def session_ended(self, *, reason: str, setting: str = "", now: float) -> list[Action]:
        actions = super().session_ended(reason=reason, setting=setting, now=now)
        return [*actions, *(action for action in actions if isinstance(action, AskStop))]


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with the eager supervisor."""
    return serve(argv, GatewayParts(supervisor=EagerSupervisor))


if __name__ == "__main__":
    raise SystemExit(main())
