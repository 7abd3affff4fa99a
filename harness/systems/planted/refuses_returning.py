"""The reference gateway that refuses a stream key while any connection holds it: the ghost locks its owner out.

The usual behaviour of ingest servers (nginx-rtmp #1152 and #1689, NMS #331, srs #2472, mediamtx #5242, PeerTube
#6884): a connection that died without a word keeps the key until an idle timer finds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import main as serve
from reference_impl.machines.session import Incumbent, SessionMachine, SessionSettings

DEFECT = "refuses the returning publisher until the idle timer has found its dead connection"
ROLE = "gateway"
CAUGHT_BY = "tcp/one_connection_blackholed"
CLAIM = "never_refused"


def refuse_until_idle(incumbent: Incumbent, settings: SessionSettings) -> str | None:
    """Nobody takes over, however silent the old connection is."""
    return None


def _session(settings: SessionSettings) -> SessionMachine:
    return SessionMachine(settings, takeover=refuse_until_idle)


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway that lets nobody take over."""
    return serve(argv, GatewayParts(session=_session))


if __name__ == "__main__":
    raise SystemExit(main())
