"""The destination as a program: ``python -m reference_impl.destination.serve --key live/secret``.

An RTMP platform that accepts pushes, decodes them, and tells what its audience would see. Control verbs: ``status``,
``ledger``, ``stall`` (stop reading), ``resume`` (read again), ``stop``. Exit code 0 when it was stopped, 1 if it could
not listen or after a defect of its own, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from reference_impl.destination.platform import BadKey, Platform, PlatformSettings, SameKey
from reference_impl.durations import parse_duration
from reference_impl.media.live_watch import decoding_watcher
from reference_impl.media.watcher import MediaWatcher, WatcherSettings
from reference_impl.program import Program, add_arguments, explained, open_telemetry
from reference_impl.rtmp.endpoint import ServerConnection, ServerListener
from reference_impl.telemetry import Telemetry


def make_connection(listener: ServerListener) -> ServerConnection:
    """One accepted connection."""
    return ServerConnection(listener)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationParts:
    """Factories; replace one to get a variant of the destination."""

    connection: Callable[[ServerListener], ServerConnection] = make_connection
    watcher: Callable[[Telemetry, WatcherSettings, Path | None], MediaWatcher] = decoding_watcher
    platform: Callable[..., Platform] = Platform


_duration = explained(parse_duration)


def _address(text: str) -> tuple[str | None, int]:
    """Host (None: every address) and port."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: write [HOST]:PORT, for example :1935")
    return host.strip("[]") or None, int(port)


def _key(text: str) -> str:
    if "/" not in text.strip("/"):
        raise argparse.ArgumentTypeError(f"{text!r}: write application and stream key, for example live/secret")
    return text.strip("/")


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    options = argparse.ArgumentParser(prog="destination", description="Accept RTMP pushes and tell what they show.")
    add = options.add_argument
    help_ = "where to listen (default %(default)s; port 0: a free one, told in program:ready)"
    add("--listen", type=_address, default=":1935", metavar="[HOST]:PORT", help=help_)
    add("--key", type=_key, action="append", default=[], metavar="APP/KEY", help="accept only these (default: any)")
    add("--bad-key", choices=get_args(BadKey), default="close", help="after refusing one (default %(default)s)")
    add("--same-key", choices=get_args(SameKey), default="refuse", help="a key in use (default %(default)s)")
    add("--idle-limit", type=_duration, metavar="TIME", help="end a push that is silent for so long (default: never)")
    add("--stall-after", type=_duration, metavar="TIME", help="stop reading after the first push (default: never)")
    add("--freeze-after", type=_duration, default="500 ms", metavar="TIME", help="default %(default)s")
    add("--pictures", type=Path, metavar="DIR", help="save pictures here: the first, the last before a freeze, …")
    add_arguments(options)
    return options


def settings_of(options: argparse.Namespace) -> PlatformSettings:
    """The settings that the options ask for."""
    return PlatformSettings(
        keys=frozenset(options.key),
        bad_key=options.bad_key,
        same_key=options.same_key,
        idle_limit=options.idle_limit,
        stall_after=options.stall_after,
    )


async def run(options: argparse.Namespace, telemetry: Telemetry, parts: DestinationParts) -> int:
    """Serve until the end; the exit code."""
    watching = WatcherSettings(freeze_after=options.freeze_after)
    platform = parts.platform(
        settings_of(options),
        telemetry,
        connection=parts.connection,
        watcher=lambda _key: parts.watcher(telemetry, watching, options.pictures),
        loop=asyncio.get_running_loop(),
    )
    try:
        await platform.start(*options.listen)
    except OSError as error:
        telemetry.tell("program:failed", role="destination", error=str(error))
        print(f"destination: cannot listen on port {options.listen[1]}: {error}", file=sys.stderr)
        return 1

    failures: list[str] = []

    async def shut_down(reason: str) -> None:
        await platform.stop(reason)
        for failure in failures:
            telemetry.tell("program:failed", role="destination", error=failure)
        telemetry.tell("ledger:told", **platform.ledger())

    def crashed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        failures.append(f"defect in the destination: {context.get('exception') or context['message']}")
        program.stop("defect")

    asyncio.get_running_loop().set_exception_handler(crashed)
    program = Program("destination", telemetry, verbs=_verbs(platform))
    detail = f"port {platform.port}, {', '.join(options.key) or 'any key'}"
    await program.run(control_fd=options.control_fd, detail=detail, shut_down=shut_down)
    return 1 if failures else 0


def _verbs(platform: Platform) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    async def status(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        return platform.status()

    async def ledger(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        return platform.ledger()

    async def stall(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        platform.stall()
        return {}

    async def resume(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        platform.resume()
        return {}

    return {"status": status, "ledger": ledger, "stall": stall, "resume": resume}


def main(argv: Sequence[str] | None = None, parts: DestinationParts | None = None) -> int:
    """The program; ``parts`` replaces what a variant does otherwise."""
    options = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    return asyncio.run(run(options, open_telemetry(options), parts or DestinationParts()))


if __name__ == "__main__":
    sys.exit(main())
