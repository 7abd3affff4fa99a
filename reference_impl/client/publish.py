"""The publisher as a program: ``python -m reference_impl.client.publish --url rtmp://gateway.test/live/cam1?key=…``.

Streams a live source over RTMP and keeps the stream alive through whatever the network does. Control verbs:
``status``, ``ledger``, ``request_keyframe``, ``stop``. Exit code 0 when it was stopped, 1 when it was refused or gave
up, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_impl.client.parts import WATCHDOGS, PublisherParts
from reference_impl.client.publisher import Publisher, PublisherSettings
from reference_impl.durations import parse_duration
from reference_impl.machines.reconnect import ReconnectSettings
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.errors import MediaError
from reference_impl.program import Program, add_arguments, explained, open_telemetry
from reference_impl.rtmp.tcp_state import TcpOptions
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry

_RATE_UNITS = {"bit/s": 1, "kbit/s": 1_000, "Mbit/s": 1_000_000}
_BYTE_UNITS = {"B": 1, "kB": 1_000, "KiB": 1_024, "MB": 1_000_000}


def _quantity(units: Mapping[str, int], example: str) -> Callable[[str], int]:
    """A parser for a number with one of ``units``."""

    def parse(text: str) -> int:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z/]+)\s*", text)
        if match is None or match[2] not in units:
            raise argparse.ArgumentTypeError(
                f"{text!r}: write a number and one of {', '.join(units)}, for example {example!r}"
            )
        return round(float(match[1]) * units[match[2]])

    return parse


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: write width x height, for example 1280x720")
    return int(match[1]), int(match[2])


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: no such file")
    return path


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    options = argparse.ArgumentParser(prog="publish", description="Publish a live stream over RTMP and keep it alive.")
    duration, url = explained(parse_duration), explained(RtmpUrl.parse)
    options.add_argument("--url", type=url, required=True, help="rtmp://host[:port]/app/stream?key=…")
    options.add_argument("--duration", type=duration, metavar="TIME", help="stop after this time (default: never)")
    options.add_argument("--seed", type=int, default=0, help="for the jitter of the back-off (default %(default)s)")
    _add_source_options(options, duration)
    _add_reconnect_options(options, duration)
    add_arguments(options)
    return options


def _add_source_options(options: argparse.ArgumentParser, duration: Callable[[str], float]) -> None:
    group = options.add_argument_group("source")
    group.add_argument("--media", type=_file, metavar="FILE", help="a media file instead of the test picture; loops")
    group.add_argument("--size", type=_size, default=(640, 360), metavar="WxH", help="default 640x360")
    group.add_argument("--fps", type=int, default=30, help="default %(default)s")
    rate = _quantity(_RATE_UNITS, "2 Mbit/s")
    group.add_argument("--bitrate", type=rate, default="2 Mbit/s", metavar="RATE", help="default %(default)s")
    group.add_argument("--gop", type=duration, default="2 s", metavar="TIME", help="IDR interval (default %(default)s)")
    group.add_argument("--no-audio", action="store_true")


def _add_reconnect_options(options: argparse.ArgumentParser, duration: Callable[[str], float]) -> None:
    group = options.add_argument_group("watchdog and reconnect")
    names = list(WATCHDOGS)
    group.add_argument("--watchdog", choices=names, default=names[0], help="default %(default)s")
    group.add_argument("--stall-after", type=duration, default="1 s", metavar="TIME", help="default %(default)s")
    group.add_argument("--poll", type=duration, metavar="TIME", help="default 100 ms (bytes_accepted: 500 ms)")
    group.add_argument("--give-up-after", type=duration, default="300 s", metavar="TIME", help="default %(default)s")
    group.add_argument("--queue-limit", type=duration, default="2 s", metavar="TIME", help="default %(default)s")
    size = _quantity(_BYTE_UNITS, "128 kB")
    group.add_argument("--send-buffer", type=size, metavar="SIZE", help="SO_SNDBUF (default: the kernel's autotuning)")
    group.add_argument("--user-timeout", type=duration, metavar="TIME", help="TCP_USER_TIMEOUT (default: off)")


def settings_of(options: argparse.Namespace) -> PublisherSettings:
    """The settings that the options ask for; :class:`ValueError` names one that makes no sense."""
    width, height = options.size
    return PublisherSettings(
        source=SourceSettings(
            width=width,
            height=height,
            fps=options.fps,
            bitrate=options.bitrate,
            gop_s=options.gop,
            audio=not options.no_audio,
        ),
        media=options.media,
        reconnect=ReconnectSettings(give_up_after=options.give_up_after),
        watchdog=options.watchdog,
        stall_after=options.stall_after,
        poll=options.poll,
        queue_limit=options.queue_limit,
        tcp=TcpOptions(send_buffer=options.send_buffer, user_timeout=options.user_timeout),
        seed=options.seed,
    )


class PublishProgram:
    """The publisher with its control verbs and an ordered end; made in a running loop."""

    def __init__(self, options: argparse.Namespace, telemetry: Telemetry, parts: PublisherParts) -> None:
        self._options = options
        self._telemetry = telemetry
        self._failures: list[str] = []
        verbs = {"status": self._status, "ledger": self._ledger, "request_keyframe": self._request_keyframe}
        self._program = Program("publisher", telemetry, verbs=verbs)
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._crashed)
        self._publisher = Publisher(
            options.url,
            settings_of(options),
            telemetry=telemetry,
            loop=self._loop,
            on_finished=self._finished,
            parts=parts,
        )

    async def run(self) -> int:
        """Publish until the end; the exit code."""
        self._loop.call_soon(self._publisher.start)
        if self._options.duration is not None:
            self._loop.call_later(self._options.duration, self._program.stop, "duration")
        await self._program.run(
            control_fd=self._options.control_fd, detail=self._options.url.name, shut_down=self._shut_down
        )
        return 1 if self._failures else 0

    def _finished(self, reason: str, failed: bool) -> None:
        if failed:
            self._failures.append(reason)
        self._program.stop(reason)

    def _crashed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught is our own defect: better an end that is told than a publisher that hangs."""
        loop.default_exception_handler(context)
        self._finished(f"defect in the publisher: {context.get('exception') or context['message']}", True)

    async def _shut_down(self, reason: str) -> None:
        await self._publisher.stop(reason)
        for failure in self._failures:
            self._telemetry.tell("program:failed", role="publisher", error=failure)
        self._telemetry.tell("ledger:told", **self._publisher.ledger())

    async def _status(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._publisher.status()

    async def _ledger(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._publisher.ledger()

    async def _request_keyframe(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._publisher.request_keyframe("control")
        return {}


async def run(options: argparse.Namespace, telemetry: Telemetry, parts: PublisherParts) -> int:
    """Publish until the end; the exit code."""
    return await PublishProgram(options, telemetry, parts).run()


def main(argv: Sequence[str] | None = None, parts: PublisherParts | None = None) -> int:
    """The program; ``parts`` replaces what a variant does otherwise."""
    options_parser = parser()
    options = options_parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    try:
        settings_of(options)
    except ValueError as error:
        options_parser.error(str(error))
    try:
        return asyncio.run(run(options, open_telemetry(options), parts or PublisherParts()))
    except MediaError as error:
        options_parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
