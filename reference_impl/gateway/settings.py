"""What a gateway can be told, on its command line or by a program that holds one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from reference_impl import program
from reference_impl.durations import parse_duration
from reference_impl.machines.egress import EgressSettings, SourceLost
from reference_impl.machines.keyframe_gate import GateSettings
from reference_impl.machines.push import PushSettings
from reference_impl.machines.session import SessionSettings
from reference_impl.rtmp.url import DEFAULT_PORT, RtmpUrl

Value = TypeVar("Value")
_OUTPUT = re.compile(r"(?:(?P<stream>[^=:]+)=)?(?P<url>rtmp://[^#]+)(?:#source_lost=(?P<lost>stop|hold))?")


@dataclass(frozen=True, slots=True)
class Output:
    """One destination: where to, of which stream, and what becomes of it while the publisher is away."""

    url: str
    stream: str = ""
    """``app/name``; empty: of every stream."""
    source_lost: SourceLost = "hold"

    @classmethod
    def parse(cls, text: str) -> Output:
        """``[APP/NAME=]rtmp://host/app/key[#source_lost=stop|hold]``. Raises :class:`ValueError`."""
        match = _OUTPUT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no output; write [APP/NAME=]rtmp://host/app/key[#source_lost=stop|hold]")
        # Written in one way, so that one destination is not pushed to twice under two spellings.
        return cls(
            str(RtmpUrl.parse(match["url"])), match["stream"] or "", "stop" if match["lost"] == "stop" else "hold"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerSettings:
    """How much a viewer may lag behind."""

    queue_bytes: int = 2 * 1024 * 1024
    """More than this in its queue: it is skipped to the next IDR (8 s at 2 Mbit/s)."""
    give_up_after: float = 30.0
    """So many seconds without taking anything from a full queue: it is disconnected."""

    def __post_init__(self) -> None:
        if self.queue_bytes <= 0 or self.give_up_after <= 0:
            raise ValueError(f"a viewer's limits must be more than 0: {self.queue_bytes=}, {self.give_up_after=}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Everything a gateway is told."""

    streams: Mapping[str, str]
    """``app/name`` to its key; no other stream may be published."""
    host: str | None = None
    """Address to listen on; ``None``: all of them, IPv4 and IPv6."""
    port: int = DEFAULT_PORT
    outputs: Sequence[Output] = ()
    state: Path | None = None
    session: SessionSettings = field(default_factory=SessionSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    viewer: ViewerSettings = field(default_factory=ViewerSettings)
    egress: EgressSettings = field(default_factory=EgressSettings)
    push: PushSettings = field(default_factory=PushSettings)


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``python -m reference_impl.gateway.serve``."""
    session, egress, push = SessionSettings(), EgressSettings(), PushSettings()
    parser = argparse.ArgumentParser(
        prog="gateway", description="RTMP gateway: one publisher in, viewers and pushes out."
    )
    add = parser.add_argument
    add("--listen", default=f":{DEFAULT_PORT}", metavar="[HOST]:PORT", help="where to listen (default :1935)")
    add("--stream", action="append", default=[], metavar="APP/NAME=KEY", help="a stream that may be published; repeat")
    add("--stream-file", type=Path, metavar="FILE", help="the same, one per line: a command line shows keys to `ps`")
    add(
        "--egress",
        action="append",
        default=[],
        type=program.explained(Output.parse),
        metavar="[APP/NAME=]URL[#source_lost=stop|hold]",
        help="push the stream (every stream) to this RTMP URL while it is live; repeat",
    )
    add("--egress-file", type=Path, metavar="FILE", help="the same, one per line: a command line shows keys to `ps`")
    add("--state", type=Path, metavar="DIR", help="where to remember egress workers, so that a restart ends leftovers")
    _duration(parser, "--reconnect-window", session.reconnect_window, "how long a lost publisher may return")
    _duration(parser, "--stall-after", session.stall_after, "silence that makes a stream stalled")
    _duration(parser, "--idle-reap", session.idle_reap, "silence after which a connection is given up")
    _duration(parser, "--takeover-silence", session.takeover_silence, "silence that lets another connection take over")
    _duration(parser, "--linger", session.linger, "the window after an unpublish with --unpublish-ends linger")
    add("--unpublish-ends", choices=("immediate", "linger", "never"), default=session.unpublish_ends)
    _duration(parser, "--egress-ask-for", egress.ask_for, "how long a worker has to end in order before SIGTERM")
    _duration(parser, "--egress-terminate-for", egress.terminate_for, "how long after SIGTERM before SIGKILL")
    _duration(parser, "--egress-connect-within", push.connect_within, "how long a destination has to accept a push")
    _duration(parser, "--egress-stall-after", push.stall_after, "no progress at a destination: connect anew")
    _duration(parser, "--egress-retry-window", push.retry_window, "no progress at a destination: give it up")
    program.add_arguments(parser)
    return parser


def read_settings(options: argparse.Namespace) -> GatewaySettings:
    """The settings that a parsed command line asks for. Raises :class:`ValueError` for what makes no sense together."""
    host, _, port = options.listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--listen {options.listen!r}: write [HOST]:PORT, for example :1935")
    session = SessionSettings(
        reconnect_window=options.reconnect_window,
        stall_after=options.stall_after,
        idle_reap=options.idle_reap,
        takeover_silence=options.takeover_silence,
        unpublish_ends=options.unpublish_ends,
        linger=options.linger,
    )
    return GatewaySettings(
        host=host.strip("[]") or None,
        port=int(port),
        streams=dict([*map(_stream, options.stream), *_from_file("--stream-file", options.stream_file, _stream)]),
        outputs=(*options.egress, *_from_file("--egress-file", options.egress_file, Output.parse)),
        state=options.state,
        session=session,
        egress=EgressSettings(ask_for=options.egress_ask_for, terminate_for=options.egress_terminate_for),
        push=PushSettings(
            connect_within=options.egress_connect_within,
            stall_after=options.egress_stall_after,
            retry_window=options.egress_retry_window,
        ),
    )


def _from_file(option: str, path: Path | None, parse: Callable[[str], Value]) -> Iterator[Value]:
    """Each line but empty ones and those that begin with ``#``. An error doesn't repeat the line: it may hold a key."""
    if path is None:
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{option} {path} cannot be read: {error}") from None
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line and not line.startswith("#"):
            try:
                yield parse(line)
            except ValueError:
                raise ValueError(
                    f"{option} {path}, line {number}: write it as for {option[:-5]} (see --help)"
                ) from None


def redacted(url: str) -> str:
    """An output's URL without its stream key, fit for telemetry and logs: ``rtmp://platform.test:1935/live/***``."""
    return f"{RtmpUrl.parse(url).tc_url}/***"


def _stream(text: str) -> tuple[str, str]:
    name, _, key = text.partition("=")
    app, _, stream = name.rpartition("/")
    if not (app and stream and key):
        raise ValueError(f"--stream {text!r}: write APP/NAME=KEY, for example live/cam1=secret")
    return name, key


def _duration(parser: argparse.ArgumentParser, option: str, default: float, text: str) -> None:
    parser.add_argument(
        option,
        type=program.explained(parse_duration),
        default=default,
        metavar="TIME",
        help=f"{text} (default {default:g}s)",
    )
