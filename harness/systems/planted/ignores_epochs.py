"""The reference gateway that does not ask whose connection was closed: the old one's close ends the new one.

go-livepeer #3503: a stale publish with the same key killed the fresh one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.session import Action, Lost, SessionMachine

DEFECT = "takes the late close of an old connection for the loss of the new one"
ROLE = "gateway"
CAUGHT_BY = "tcp/one_connection_blackholed"
CLAIM = "no_stale_harm"


class OneForAll(SessionMachine):
    """Every close counts for the session, whichever connection it is of."""

    def connection_closed(self, epoch: int, *, reason: str, now: float) -> Sequence[Action]:
        actions = super().connection_closed(self.epoch, reason=reason, now=now)
        return [replace(action, epoch=epoch) if isinstance(action, Lost) else action for action in actions]


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with sessions that have no epochs."""
    return serve(argv, GatewayParts(session=OneForAll))


if __name__ == "__main__":
    raise SystemExit(main())
