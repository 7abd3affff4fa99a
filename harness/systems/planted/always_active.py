"""The reference gateway whose egress says ACTIVE for as long as its connection is open, whether a byte moves or not.

LiveKit's egress is active through any silence of its source until it fails (S17): whoever watches the state learns
nothing of the outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from reference_impl import program
from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import serve
from reference_impl.gateway.settings import build_parser, read_settings

DEFECT = "calls its egress active while no byte moves"
ROLE = "gateway"
CAUGHT_BY = "hotspot/backhaul_drop_4s"
CLAIM = "honest_status"

NEVER = 86_400.0
"""Seconds of silence after which it would say HOLDING."""


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway that never says HOLDING."""
    options = build_parser().parse_args(argv)
    settings = read_settings(options)
    settings = replace(settings, push=replace(settings.push, hold_after=NEVER))
    fds = {"control_fd": options.control_fd, "telemetry_fd": options.telemetry_fd}
    return asyncio.run(serve(settings, GatewayParts(), program.open_telemetry(options), **fds))


if __name__ == "__main__":
    raise SystemExit(main())
