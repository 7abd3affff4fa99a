"""The reference gateway that lets a session live on for half its window again: an egress that somebody pays for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.session import SessionMachine, SessionSettings

DEFECT = "ends a session long after its reconnect window has run out"
ROLE = "gateway"
CAUGHT_BY = "egress/publisher_gone_for_good"
CLAIM = "session_ended"


def _session(settings: SessionSettings) -> SessionMachine:
    return SessionMachine(replace(settings, reconnect_window=1.5 * settings.reconnect_window))


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with the longer window."""
    return serve(argv, GatewayParts(session=_session))


if __name__ == "__main__":
    raise SystemExit(main())
