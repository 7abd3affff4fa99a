"""A program on a node, as the harness holds it: control requests, telemetry lines, its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engines.netns.processes import Exit, StartOrder
from harness.errors import HarnessError
from reference_impl.telemetry import UnknownEventError

_CHUNK = 1 << 16
_REAPED_WITHIN_S = 5.0
_QUOTED = 120
"""Characters of a line that makes no sense, in the sentence about it."""
EventSink = Callable[[int, str, str, str, Mapping[str, Any]], None]
"""``(t_ns absolute, node, source, name, data)``."""
Signaller = Callable[[int, int], Awaitable[bool]]
"""``(pid, signal number)``; False when that process is gone."""
Told = Callable[[int, str, Mapping[str, Any]], None]


class TelemetryPipe:
    """Reads what one program tells and hands every line on, with the program's own time.

    What is no event becomes one ``program:failed`` of ``role``; without a role (a third-party program, which may write
    there what it likes) it is passed over.
    """

    def __init__(self, descriptor: int, told: Told, *, role: str | None = None) -> None:
        self._descriptor = descriptor
        self._told = told
        self._role = role
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self.read_available)

    def read_available(self) -> None:
        """Hand on all lines that are in the pipe now; the pipe is closed at its end."""
        while self._descriptor >= 0:
            try:
                data = os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._tell(line)

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self.ended.set()

    def _tell(self, line: bytes) -> None:
        try:
            self._told(*_event(line))
        except (ValueError, UnknownEventError) as error:
            if self._role is not None:
                data = {"role": self._role, "error": f"telemetry line {_quoted(line)} is not an event: {error}"}
                self._role = None  # once is enough to fail the run
                self._told(time.monotonic_ns(), "program:failed", data)


def _event(line: bytes) -> tuple[int, str, Mapping[str, Any]]:
    """``(t_ns, name, data)``; :class:`ValueError` when the line is not that."""
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")
    t_ns, name, data = (event.get(field) for field in ("t_ns", "name", "data"))
    if type(t_ns) is not int or not isinstance(name, str) or not isinstance(data, dict):
        raise ValueError("t_ns must be an integer, name a string and data an object")
    return t_ns, name, data


def _quoted(line: bytes) -> str:
    return repr(line.decode(errors="replace")[:_QUOTED])


class ControlSocket:
    """JSON requests and answers over the inherited socket."""

    def __init__(self, end: socket.socket, source: str) -> None:
        self._source = source
        self._end = end
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._rest = b""
        self._garbled = ""
        """What came instead of an answer, for the sentence about the answer that did not come."""
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    async def request(self, verb: str, *, within_ns: int, **arguments: Any) -> dict[str, Any]:
        """The answer without ``id`` and ``ok``; :class:`HarnessError` when refused, late or impossible."""
        if self._end.fileno() < 0:
            raise HarnessError(f"{self._source} cannot be asked to {verb!r}: its control socket is closed")
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[number] = future
        line = json.dumps({**arguments, "id": number, "verb": verb}).encode() + b"\n"
        try:
            async with asyncio.timeout(within_ns / 1e9):
                await self._loop.sock_sendall(self._end, line)
                answer = await future
        except TimeoutError:
            what = f"{self._source} did not answer {verb!r} within {within_ns / 1e9:.3g} s{self._garbled}"
            raise HarnessError(what, cure="its log in the run's logs folder may say why") from None
        except OSError as error:
            raise HarnessError(f"{self._source} cannot be asked to {verb!r}: {error.strerror}") from error
        finally:
            self._waiting.pop(number, None)
        if not answer.pop("ok", False):
            raise HarnessError(f"{self._source} refused {verb!r}: {answer.get('error', 'no reason given')}")
        answer.pop("id", None)
        return answer

    def close(self) -> None:
        """End of file for the program, which makes a program of the reference stop. Idempotent."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._end.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(HarnessError(f"{self._source} is gone without an answer"))

    def _readable(self) -> None:
        try:
            data = self._end.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or type(answer.get("id")) is not int:
            self._garbled = f"; it sent {_quoted(line)}, which is no answer"
            return
        future = self._waiting.get(answer["id"])
        if future is not None and not future.done():
            future.set_result(answer)


@dataclass(slots=True)
class Channels:
    """The harness's ends of one program's channels."""

    control: ControlSocket
    telemetry: TelemetryPipe


class NodeProcess:
    """A program on a node. Times are nanoseconds."""

    def __init__(self, order: StartOrder, pid: int, channels: Channels, signaller: Signaller, sink: EventSink) -> None:
        self.order = order
        self.pid = pid
        """In the lab's PID namespace, as the program itself sees it."""
        self.exited = asyncio.Event()
        self.exit: Exit | None = None
        self.expected = False
        """Whether somebody asked for its end by force (a kill by the playbook, the lab's end), so that it is no news.

        :meth:`stop` asks for an end in good order, and how the program ends decides whether that was what was asked.
        """
        self._asked = False
        self._terminated = False
        """:meth:`stop` has asked, and has sent SIGTERM."""
        self._channels = channels
        self._signaller = signaller
        self._sink = sink

    @property
    def source(self) -> str:
        return self.order.source

    @property
    def incarnation(self) -> int:
        return self.order.incarnation

    @property
    def argv(self) -> Sequence[str]:
        return self.order.argv

    async def request(self, verb: str, *, within_ns: int = 5_000_000_000, **arguments: Any) -> Mapping[str, Any]:
        """One control request; raises :class:`HarnessError` without a good answer in time."""
        return await self._channels.control.request(verb, within_ns=within_ns, **arguments)

    async def signal(self, number: int) -> bool:
        """Send a signal; False when the process is gone already."""
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            self.expected = True
        return await self._signaller(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL now."""
        await self.signal(signal.SIGKILL)

    async def stop(self, *, within_ns: int = 5_000_000_000) -> None:
        """Ask it to end, in stages: the control verb, after half of the time SIGTERM, after all of it SIGKILL.

        A third-party program gets SIGTERM at once. What had to be killed here is told with ``expected`` false, as is a
        program of the reference that ends with another code than 0. Raises :class:`HarnessError` when the lab is gone,
        or when the process is still there five seconds after SIGKILL.
        """
        if self.exited.is_set():
            return
        self._asked = True
        deadline = asyncio.get_running_loop().time() + within_ns / 1e9
        if self.order.harnessed and await self._ends_when_asked(within_ns // 2):
            return
        self._terminated = True
        await self._signaller(self.pid, signal.SIGTERM)
        if await self._ends_by(deadline):
            return
        await self._signaller(self.pid, signal.SIGKILL)
        if not await self._ends_by(asyncio.get_running_loop().time() + _REAPED_WITHIN_S):
            raise HarnessError(
                f"{self.source} (pid {self.pid} in the lab) is still there {_REAPED_WITHIN_S:.0f} s after SIGKILL",
                cure="look for processes in state D with `ps`",
            )

    async def _ends_when_asked(self, within_ns: int) -> bool:
        deadline = asyncio.get_running_loop().time() + within_ns / 1e9
        try:
            await self.request("stop", within_ns=within_ns)
        except HarnessError:
            return self.exited.is_set()
        return await self._ends_by(deadline)

    async def _ends_by(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self.exited.wait()
        except TimeoutError:
            return self.exited.is_set()
        return True

    def _as_asked(self, how: Exit) -> bool:
        """Whether this is an end that :meth:`stop` asked for. Third-party programs have codes of their own for it."""
        if how.signal:
            return self._terminated and how.signal == signal.SIGTERM
        return self._asked and (how.code == 0 or not self.order.harnessed)

    def ended(self, how: Exit) -> None:
        """PID 1 reaped it: drain what it still told, tell the exit, close the channels."""
        self.exit = how
        self._channels.telemetry.read_available()
        data = {
            "pid": self.pid,
            "program": self.order.program,
            "incarnation": self.order.incarnation,
            "code": how.code,
            "signal": how.signal,
            "expected": self.expected or self._as_asked(how),
        }
        self._sink(how.t_ns, self.order.node, self.source, "process:exited", data)
        self._channels.control.close()
        self.exited.set()

    def release(self) -> None:
        """Close the channels. A child of the program may hold the telemetry pipe open; it is not waited for.

        Nobody is left waiting for the program either: without its lab it is gone.
        """
        self.exited.set()
        self._channels.control.close()
        self._channels.telemetry.read_available()
        self._channels.telemetry.close()
