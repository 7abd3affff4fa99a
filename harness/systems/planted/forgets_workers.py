"""The reference gateway without a memory of its workers: what a crash leaves pushes on, and the next start ignores it.

go-livepeer #3551 and nginx-rtmp's exec_push: the orphan holds the destination's stream key, its successor is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from reference_impl import program
from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.serve import serve
from reference_impl.gateway.settings import build_parser, read_settings

DEFECT = "remembers no egress worker, so that its next start does not find what a crash left"
ROLE = "gateway"
CAUGHT_BY = "process/gateway_killed_and_back"
CLAIM = "leftover_ended"


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway that keeps no records."""
    options = build_parser().parse_args(argv)
    settings = replace(read_settings(options), state=None)
    fds = {"control_fd": options.control_fd, "telemetry_fd": options.telemetry_fd}
    return asyncio.run(serve(settings, GatewayParts(), program.open_telemetry(options), **fds))


if __name__ == "__main__":
    raise SystemExit(main())
