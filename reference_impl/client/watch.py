"""The viewer as a program: ``python -m reference_impl.client.watch --url rtmp://gateway.test/live/cam1``.

Plays a stream over RTMP, decodes it, and tells what a person would see: the first picture, freezes, gaps, the delay.
Control verbs: ``status``, ``ledger``, ``stop``. Exit code 0 when it was stopped, 1 after a defect of its
own, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_impl.client.player import Player, PlayerSettings
from reference_impl.durations import parse_duration
from reference_impl.machines.backoff import Backoff
from reference_impl.media.live_watch import decoding_watcher
from reference_impl.media.watcher import MediaWatcher, WatcherSettings
from reference_impl.program import Program, add_arguments, explained, open_telemetry
from reference_impl.rtmp.endpoint import PlayConnection, PlayListener
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry


def make_backoff(seed: int) -> Backoff:
    """Quick and never far away: somebody is waiting in front of the screen."""
    return Backoff(random.Random(seed), start=0.25, factor=1.5, cap=2.0)


def make_connection(url: RtmpUrl, listener: PlayListener) -> PlayConnection:
    """One RTMP connection, not started."""
    return PlayConnection(url, listener)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchParts:
    """Factories; replace one to get a variant of the viewer."""

    backoff: Callable[[int], Backoff] = make_backoff
    connection: Callable[[RtmpUrl, PlayListener], PlayConnection] = make_connection
    watcher: Callable[[Telemetry, WatcherSettings, Path | None], MediaWatcher] = decoding_watcher
    player: Callable[..., Player] = Player


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    options = argparse.ArgumentParser(prog="watch", description="Play a stream over RTMP and tell what is seen.")
    duration, url = explained(parse_duration), explained(RtmpUrl.parse)
    add = options.add_argument
    add("--url", type=url, required=True, help="rtmp://host[:port]/app/stream")
    add("--pictures", type=Path, metavar="DIR", help="save pictures here: the first, the last before a freeze, …")
    add("--freeze-after", type=duration, default="500 ms", metavar="TIME", help="default %(default)s")
    add("--connect-within", type=duration, default="3 s", metavar="TIME", help="default %(default)s")
    add("--idle-limit", type=duration, default="90 s", metavar="TIME", help="default %(default)s")
    add("--duration", type=duration, metavar="TIME", help="stop after this time (default: never)")
    add("--seed", type=int, default=0, help="for the jitter of the back-off (default %(default)s)")
    add_arguments(options)
    return options


async def run(options: argparse.Namespace, telemetry: Telemetry, parts: WatchParts) -> int:
    """Watch until the end; the exit code."""
    loop = asyncio.get_running_loop()
    failures: list[str] = []
    watching = WatcherSettings(freeze_after=options.freeze_after)
    player = parts.player(
        options.url,
        parts.watcher(telemetry, watching, options.pictures),
        parts.backoff(options.seed),
        telemetry,
        settings=PlayerSettings(connect_within=options.connect_within, idle_limit=options.idle_limit),
        connection=parts.connection,
        loop=loop,
    )

    async def status(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        return player.status()

    async def ledger(_request: Mapping[str, Any]) -> Mapping[str, Any]:
        return player.ledger()

    async def shut_down(reason: str) -> None:
        await player.stop(reason)
        for failure in failures:
            telemetry.tell("program:failed", role="viewer", error=failure)
        telemetry.tell("ledger:told", **player.ledger())

    def crashed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        failures.append(f"defect in the viewer: {context.get('exception') or context['message']}")
        program.stop("defect")

    loop.set_exception_handler(crashed)
    program = Program("viewer", telemetry, verbs={"status": status, "ledger": ledger})
    loop.call_soon(player.start)
    if options.duration is not None:
        loop.call_later(options.duration, program.stop, "duration")
    await program.run(control_fd=options.control_fd, detail=options.url.name, shut_down=shut_down)
    return 1 if failures else 0


def main(argv: Sequence[str] | None = None, parts: WatchParts | None = None) -> int:
    """The program; ``parts`` replaces what a variant does otherwise."""
    options = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    return asyncio.run(run(options, open_telemetry(options), parts or WatchParts()))


if __name__ == "__main__":
    sys.exit(main())
