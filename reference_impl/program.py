"""What every program of the reference has in common: telemetry, control, signals, an ordered end.

Control requests are JSON lines on an inherited socket, ``{"id": 1, "verb": "stop"}``; answers are
``{"id": 1, "ok": true, …}``. End of file on the control socket means that whoever started the program is gone, and
the program stops: nothing of a test may outlive it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reference_impl.telemetry import Telemetry, TelemetryWriter

Verb = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
Value = TypeVar("Value")


def explained(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """``parse`` as the type of an option: argparse shows the text of its own error only, of a ValueError nothing."""

    def parse_or_explain(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_or_explain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that the harness adds to every program's own."""
    parser.add_argument("--control-fd", type=int, metavar="N", help="socket for control requests (JSON lines)")
    parser.add_argument("--telemetry-fd", type=int, metavar="N", help="where events go (default: standard output)")


def open_telemetry(options: argparse.Namespace) -> TelemetryWriter:
    """The telemetry that the options ask for."""
    descriptor = options.telemetry_fd
    if descriptor is None:
        return TelemetryWriter(sys.stdout.fileno())
    os.set_inheritable(descriptor, False)
    return TelemetryWriter(descriptor)


class Program:
    """Runs until somebody asks it to stop: a signal, the control verb ``stop``, or the control socket's end."""

    def __init__(self, role: str, telemetry: Telemetry, *, verbs: Mapping[str, Verb]) -> None:
        self.role = role
        self.telemetry = telemetry
        self._verbs = {**verbs, "stop": self._stop_verb}
        self._stopping: asyncio.Future[str] | None = None

    def stop(self, reason: str) -> None:
        """Ask the program to end; the first reason given is the one that is told."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(reason)

    async def run(
        self,
        *,
        control_fd: int | None,
        detail: str,
        shut_down: Callable[[str], Awaitable[None]],
    ) -> int:
        """Tell ``program:ready``, wait for the end, shut down in order, tell ``program:stopped``; the exit code."""
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop, signal.Signals(number).name)
        control = asyncio.create_task(self._serve_control(control_fd)) if control_fd is not None else None
        self.telemetry.tell("program:ready", role=self.role, detail=detail)
        if "ledger" in self._verbs:  # what later ledgers are compared with
            self.telemetry.tell("ledger:told", **await self._verbs["ledger"]({}))
        reason = await self._stopping
        await shut_down(reason)
        self.telemetry.tell("program:stopped", role=self.role, reason=reason)
        if control is not None:
            control.cancel()
            await asyncio.gather(control, return_exceptions=True)
        return 0

    async def _stop_verb(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.stop("control")
        return {}

    async def _serve_control(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.stop("control socket closed")
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        verb = self._verbs.get(request.get("verb"))
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            return {
                "id": request.get("id"),
                "ok": False,
                "error": f"no verb {request.get('verb')!r}; known: {known}",
            }
        try:
            return {"id": request.get("id"), "ok": True, **await verb(request)}
        except Exception as error:  # the answer is how the caller learns of it
            return {"id": request.get("id"), "ok": False, "error": f"{type(error).__name__}: {error}"}


def open_descriptors() -> int:
    """How many file descriptors this process holds; -1 where /proc cannot tell."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
    except OSError:
        return -1
