"""``python -m reference_impl.gateway.egress_worker``: pushes one session to one destination, in a process of its own.

Started by the gateway, which holds the other end of ``--feed-fd``. It may outlive its gateway (that is why it is a
process), but not for ever: without its gateway it ends by itself after ``--orphan-limit``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from reference_impl import program
from reference_impl.durations import parse_duration
from reference_impl.gateway.feed import (
    EXIT_COMPLETE,
    EXIT_FAILED,
    FeedError,
    FrameKind,
    FrameReader,
    MediaFrame,
    TextFrame,
    pack_text,
)
from reference_impl.gateway.pusher import Pusher
from reference_impl.machines.push import PushSettings, PushState
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry

BEGIN_WITHIN = 10.0
"""Seconds that a new worker waits for its instructions."""
_FINAL = (PushState.COMPLETE, PushState.FAILED, PushState.ABORTED)


class EgressWorker(asyncio.Protocol):
    """The feed's end in the worker: reads frames, reports states, decides when the process is over."""

    def __init__(self, telemetry: Telemetry, *, orphan_limit: float) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Exit code."""
        self._telemetry = telemetry
        self._orphan_limit = orphan_limit
        self._reader = FrameReader()
        self._pusher: Pusher | None = None
        self._feed: asyncio.WriteTransport | None = None
        self._idle = asyncio.get_running_loop().call_later(BEGIN_WITHIN, self._finish, EXIT_COMPLETE)

    def stop(self, reason: str) -> None:
        """End the push in order, then the process."""
        if self._pusher is None:
            self._finish(EXIT_COMPLETE)
        else:
            self._pusher.stop(reason)

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._feed = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.read(data):
                if isinstance(frame, MediaFrame):
                    self._media(frame)
                else:
                    self._instructed(frame)
        except FeedError as error:
            self.stop(f"the feed is broken: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed = None
        if self._pusher is None:
            self._finish(EXIT_COMPLETE)
        elif not self.done.done():
            # The destination's connection is kept for a gateway that comes back to end it, but not for ever.
            loop = asyncio.get_running_loop()
            loop.call_later(self._orphan_limit, self.stop, f"orphaned for {self._orphan_limit:g} s")

    # --- inside ----------------------------------------------------------------------------------------------------

    def _media(self, frame: MediaFrame) -> None:
        if self._pusher is not None:
            self._pusher.media(frame)

    def _instructed(self, frame: TextFrame) -> None:
        if frame.kind is FrameKind.BEGIN and self._pusher is None:
            self._idle.cancel()
            self._pusher = self._make_pusher(frame.data)
            self._pusher.begin()
        elif frame.kind is FrameKind.STOP:
            self.stop(str(frame.data.get("reason", "")))

    def _make_pusher(self, data: Mapping[str, Any]) -> Pusher:
        settings = PushSettings(**data["push"])
        return Pusher(str(data["egress"]), RtmpUrl.parse(str(data["url"])), settings, self._telemetry, self)

    def push_changed(self, state: PushState, reason: str) -> None:
        """The push says where it stands."""
        if self._feed is not None:
            self._feed.write(pack_text(FrameKind.STATE, {"state": state.value, "reason": reason}))
        if state in _FINAL:
            self._finish(EXIT_FAILED if state is PushState.FAILED else EXIT_COMPLETE)

    def _finish(self, code: int) -> None:
        self._idle.cancel()
        if not self.done.done():
            self.done.set_result(code)


async def _run(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    worker = EgressWorker(program.open_telemetry(options), orphan_limit=options.orphan_limit)
    feed = socket.socket(fileno=options.feed_fd)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, worker.stop, signal.Signals(number).name)
    transport, _ = await loop.create_unix_connection(lambda: worker, sock=feed)
    code = await worker.done
    transport.close()
    # One turn of the loop, so that the last report and the resets of connections go out.
    await asyncio.sleep(0)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the push has come to its end; 0 completed or aborted, 3 the destination failed."""
    parser = argparse.ArgumentParser(prog="egress_worker", description="Pushes one stream to one RTMP destination.")
    parser.add_argument("--feed-fd", type=int, required=True, metavar="N", help="socket to the gateway")
    parser.add_argument(
        "--orphan-limit", type=parse_duration, default=30.0, metavar="TIME", help="how long to live without a gateway"
    )
    program.add_arguments(parser)
    options = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_run(options))
    return 130


if __name__ == "__main__":
    raise SystemExit(main())
