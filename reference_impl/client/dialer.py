"""TCP connects, many at once, each of which can be dropped at any time; names resolved without blocking the loop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

_REFRESH_AFTER = 10.0
"""Seconds for which an address is used without asking again; a phone that changes networks may get another one."""


class UnknownHostError(OSError):
    """The name does not exist (as opposed to: nobody could be asked)."""


class Resolver:
    """The addresses of one host: last good answer first, asked again in the background, one question at a time.

    While the network is away a name server does not answer; a reconnect must not wait for it, so an address that
    was good once is used until there is a better one.
    """

    def __init__(self, host: str, port: int, *, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._port = port
        self._loop = loop
        self._literal = _is_literal(host)
        self._addresses: list[str] = [host] if self._literal else []
        self._asked_at = float("-inf")
        self._question: asyncio.Task[list[str]] | None = None

    async def addresses(self) -> list[str]:
        """Addresses in order of preference; :class:`OSError` where none is known and none can be got."""
        if not self._literal and self._loop.time() - self._asked_at > _REFRESH_AFTER:
            self._ask()
        if not self._addresses and self._question is not None:
            self._addresses = await asyncio.shield(self._question)
        return self._addresses

    def close(self) -> None:
        """Forget the question under way."""
        if self._question is not None:
            self._question.cancel()

    def _ask(self) -> None:
        if self._question is None or self._question.done():
            self._question = self._loop.create_task(self._look_up())
            self._question.add_done_callback(self._answered)

    def _answered(self, question: asyncio.Task[list[str]]) -> None:
        if question.cancelled():
            return
        error = question.exception()
        if error is None:
            self._addresses = question.result()
            self._asked_at = self._loop.time()
        elif self._addresses:
            log.warning("%s: using the last known address: %s", self._host, error)

    async def _look_up(self) -> list[str]:
        try:
            answers = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                raise UnknownHostError(f"no such host: {self._host}") from None
            raise OSError(f"cannot resolve {self._host}: {error.strerror}") from None
        return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class Outcome(Protocol):
    """Who wants to know what became of a connect; both in the loop."""

    def connected(self, number: int, transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
        """It is up."""

    def not_connected(self, number: int, error: OSError) -> None:
        """It failed; never told for a connect that was dropped."""


class Dialer:
    """Begins and drops connects to one host and port."""

    def __init__(self, host: str, port: int, outcome: Outcome, *, loop: asyncio.AbstractEventLoop) -> None:
        self._port = port
        self._outcome = outcome
        self._loop = loop
        self._resolver = Resolver(host, port, loop=loop)
        self._dials: dict[int, asyncio.Task[None]] = {}

    @property
    def under_way(self) -> int:
        """Connects that are neither up, failed nor dropped."""
        return len(self._dials)

    def dial(self, number: int, *, attempt: int, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Begin a connect on a fresh socket; attempts go through the host's addresses in turn."""
        self._dials[number] = self._loop.create_task(self._dial(number, attempt, protocol))

    def drop(self, number: int) -> bool:
        """Give up a connect and close its socket; False if it is not under way."""
        dial = self._dials.pop(number, None)
        if dial is not None:
            dial.cancel()
        return dial is not None

    async def close(self) -> None:
        """Drop everything and wait until the sockets are closed."""
        dials = list(self._dials.values())
        for number in list(self._dials):
            self.drop(number)
        self._resolver.close()
        await asyncio.gather(*dials, return_exceptions=True)

    async def _dial(self, number: int, attempt: int, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        try:
            addresses = await self._resolver.addresses()
            address = addresses[(attempt - 1) % len(addresses)]
            transport, connected = await self._loop.create_connection(protocol, address, self._port)
        except OSError as error:
            if self._dials.pop(number, None) is not None:
                self._outcome.not_connected(number, error)
            return
        if self._dials.pop(number, None) is None:
            transport.abort()
        else:
            self._outcome.connected(number, transport, connected)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
