"""Connects over loopback: many at once, dropped at any time, names resolved without waiting for a dead name server."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from reference_impl.client.dialer import Dialer, Resolver, UnknownHostError


class Outcomes:
    """Keeps what became of the connects."""

    def __init__(self) -> None:
        self.up: dict[int, asyncio.Transport] = {}
        self.failed: dict[int, OSError] = {}
        self.news = asyncio.Event()

    def connected(self, number: int, transport: asyncio.Transport, _protocol: asyncio.BaseProtocol) -> None:
        self.up[number] = transport
        self.news.set()

    def not_connected(self, number: int, error: OSError) -> None:
        self.failed[number] = error
        self.news.set()


async def listening() -> tuple[asyncio.Server, int]:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_a_connect_that_is_up_is_handed_over_with_its_number() -> None:
    server, port = await listening()
    outcomes = Outcomes()
    dialer = Dialer("127.0.0.1", port, outcomes, loop=asyncio.get_running_loop())
    dialer.dial(7, attempt=1, protocol=asyncio.Protocol)
    await asyncio.wait_for(outcomes.news.wait(), 5)
    assert list(outcomes.up) == [7]
    assert dialer.under_way == 0
    outcomes.up[7].abort()
    server.close()


async def test_a_refused_connect_says_so() -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    outcomes = Outcomes()
    dialer = Dialer("127.0.0.1", port, outcomes, loop=asyncio.get_running_loop())
    dialer.dial(1, attempt=1, protocol=asyncio.Protocol)
    await asyncio.wait_for(outcomes.news.wait(), 5)
    assert isinstance(outcomes.failed[1], ConnectionRefusedError)


async def test_a_dropped_connect_is_never_heard_of_again_and_leaves_no_socket() -> None:
    """The listener's queue is full, so that the kernel answers no further SYN: a connect that hangs, on loopback."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = full.getsockname()[1]
    fillers = [socket.socket() for _ in range(2)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    outcomes = Outcomes()
    dialer = Dialer("127.0.0.1", port, outcomes, loop=asyncio.get_running_loop())
    for number in range(1, 6):
        dialer.dial(number, attempt=number, protocol=asyncio.Protocol)
    await asyncio.sleep(0.05)
    assert dialer.under_way == 5
    assert dialer.drop(2)
    assert not dialer.drop(2)
    await asyncio.wait_for(dialer.close(), 1)
    assert (outcomes.up, outcomes.failed, dialer.under_way) == ({}, {}, 0)
    for sock in (full, *fillers):
        sock.close()


class NameServer:
    """Stands in for the loop: answers questions when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.answer: list[str] | OSError = ["192.0.2.1"]
        self.answering = asyncio.Event()
        self.answering.set()
        self.create_task = asyncio.get_running_loop().create_task

    def time(self) -> float:
        return self.now

    async def getaddrinfo(self, _host: str, port: int, **_hints: Any) -> list[Any]:
        self.asked += 1
        await self.answering.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.answer]


async def test_a_literal_address_is_never_asked_for() -> None:
    names = NameServer()
    resolver = Resolver("192.0.2.9", 1935, loop=names)  # type: ignore[arg-type]
    assert await resolver.addresses() == ["192.0.2.9"]
    assert names.asked == 0


async def test_a_known_address_is_used_while_the_name_server_is_silent() -> None:
    names = NameServer()
    resolver = Resolver("gateway.test", 1935, loop=names)  # type: ignore[arg-type]
    assert await resolver.addresses() == ["192.0.2.1"]
    names.now, names.answer = 100.0, ["192.0.2.2"]
    names.answering.clear()
    assert await asyncio.wait_for(resolver.addresses(), 1) == ["192.0.2.1"]
    assert await asyncio.wait_for(resolver.addresses(), 1) == ["192.0.2.1"]
    await asyncio.sleep(0)
    assert names.asked == 2
    names.answering.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert await resolver.addresses() == ["192.0.2.2"]


async def test_a_name_that_does_not_exist_is_told_from_a_server_that_cannot_be_asked() -> None:
    names = NameServer()
    resolver = Resolver("gatway.test", 1935, loop=names)  # type: ignore[arg-type]
    names.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(UnknownHostError, match=r"gatway\.test"):
        await resolver.addresses()
    names.answer = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    with pytest.raises(OSError, match="Temporary failure") as raised:
        await resolver.addresses()
    assert not isinstance(raised.value, UnknownHostError)
    names.answer = ["192.0.2.3"]
    assert await resolver.addresses() == ["192.0.2.3"]
