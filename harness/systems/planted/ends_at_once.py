"""The reference gateway without grace: the first loss of the publisher ends the session, its viewers and its egress.

PeerTube's behaviour (#5587, open since 2023) and most servers' default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.session import SessionMachine, SessionSettings

DEFECT = "ends the session at the publisher's first loss, without a window to return in"
ROLE = "gateway"
CAUGHT_BY = "process/publisher_killed_and_back"
CLAIM = "session_kept"


def _session(settings: SessionSettings) -> SessionMachine:
    return SessionMachine(replace(settings, reconnect_window=0.0))


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway without a reconnect window."""
    return serve(argv, GatewayParts(session=_session))


if __name__ == "__main__":
    raise SystemExit(main())
