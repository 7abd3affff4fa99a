"""``python -m reference_impl.gateway.serve``: the RTMP gateway as a program.

    python -m reference_impl.gateway.serve --stream live/cam1=secret --egress rtmp://platform.test/live/key --state DIR

Publish to ``rtmp://HOST/live/cam1?key=secret``, watch ``rtmp://HOST/live/cam1``.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import sys
from collections.abc import Sequence

from reference_impl import program
from reference_impl.gateway.gateway import Gateway
from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.settings import GatewaySettings, build_parser, read_settings
from reference_impl.telemetry import Telemetry


async def serve(
    settings: GatewaySettings,
    parts: GatewayParts,
    telemetry: Telemetry,
    *,
    control_fd: int | None = None,
    telemetry_fd: int | None = None,
) -> int:
    """Run a gateway until it is asked to stop; the program's exit code."""
    try:
        gateway = Gateway(settings, parts, telemetry, telemetry_fd=telemetry_fd)
        await gateway.start()
    except OSError as error:
        telemetry.tell("program:failed", role="gateway", error=str(error))
        cure = "choose another --listen" if error.errno == errno.EADDRINUSE else "check --listen and --state"
        print(f"gateway: {error}; {cure}", file=sys.stderr)
        return 1
    verbs = {
        "status": gateway.status,
        "ledger": gateway.ledger,
        "start_egress": gateway.start_egress,
        "stop_egress": gateway.stop_egress,
        "end_session": gateway.end_session,
    }
    runner = program.Program("gateway", telemetry, verbs=verbs)
    return await runner.run(control_fd=control_fd, detail=f"port {gateway.port}", shut_down=gateway.stop)


def main(argv: Sequence[str] | None = None, parts: GatewayParts | None = None) -> int:
    """The program; 0 after an ordered stop, 1 if it could not listen, 2 for a wrong command line."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        settings = read_settings(options)
    except ValueError as error:
        parser.error(str(error))
    if settings.outputs and settings.state is None:
        print("gateway: without --state DIR, workers that a crash leaves are not found again", file=sys.stderr)
    return _run(options, settings, parts if parts is not None else GatewayParts())


def _run(options: argparse.Namespace, settings: GatewaySettings, parts: GatewayParts) -> int:
    telemetry = program.open_telemetry(options)
    running = serve(settings, parts, telemetry, control_fd=options.control_fd, telemetry_fd=options.telemetry_fd)
    try:
        return asyncio.run(running)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
