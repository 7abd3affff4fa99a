"""The seam to the kernel's TCP, against the kernel and against a transport that has hooks instead of a socket."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rtmp_stage import until

from reference_impl.rtmp import tcp_state as seam
from reference_impl.rtmp.tcp_state import TcpInfo, TcpOptions, TcpState, tcp_state


class Side(asyncio.Protocol):
    """Records how its connection ends."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = 0
        self.made = asyncio.Event()
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        self.error_at_end: OSError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def eof_received(self) -> None:
        self.error_at_end = seam.error_at_end(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()


@pytest.fixture(params=["127.0.0.1", "::1"])
async def sides(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Side, Side]]:
    """Client and server of one loopback connection."""
    loop = asyncio.get_running_loop()
    there = Side()
    try:
        server = await loop.create_server(lambda: there, request.param, 0)
    except OSError as error:
        pytest.skip(f"no {request.param} on this machine: {error}")
    _, here = await loop.create_connection(Side, request.param, server.sockets[0].getsockname()[1])
    await asyncio.wait_for(there.made.wait(), 5)
    yield here, there
    for side in (here, there):
        side.transport.abort()
    server.close()
    await asyncio.sleep(0)


def state_of(side: Side) -> TcpState:
    state = tcp_state(side.transport)
    assert state is not None
    return state


async def test_acknowledged_bytes_grow_with_what_the_peer_took(sides: tuple[Side, Side]) -> None:
    here, there = sides
    before = state_of(here)
    here.transport.write(bytes(100_000))
    await until(lambda: there.received == 100_000 and state_of(here).outstanding_bytes == 0)
    after = state_of(here)
    assert after.acked_bytes - before.acked_bytes == 100_000
    assert after.unsent_bytes == 0
    assert 0 < after.srtt < 1
    assert 0.1 < after.rto < 10
    assert 0 <= after.last_ack_age < 5
    assert after.backoff == 0


async def test_what_a_peer_that_does_not_read_leaves_is_outstanding_and_unsent(sides: tuple[Side, Side]) -> None:
    here, there = sides
    there.transport.pause_reading()
    here.transport.write(bytes(20_000_000))
    await until(lambda: state_of(here).unsent_bytes > 0)
    state = state_of(here)
    assert state.outstanding_bytes >= state.unsent_bytes
    acked = state.acked_bytes
    there.transport.resume_reading()
    await until(lambda: state_of(here).acked_bytes > acked)


async def test_abort_sends_a_reset_and_throws_away_what_waits(sides: tuple[Side, Side]) -> None:
    here, there = sides
    there.transport.pause_reading()
    here.transport.write(bytes(20_000_000))
    await asyncio.sleep(0.01)
    seam.abort(here.transport)
    there.transport.resume_reading()
    await asyncio.wait_for(there.lost.wait(), 5)
    assert isinstance(there.error or there.error_at_end, ConnectionResetError)
    assert tcp_state(here.transport) is None
    seam.abort(here.transport)


async def test_an_orderly_end_has_no_error(sides: tuple[Side, Side]) -> None:
    here, there = sides
    here.transport.close()
    await asyncio.wait_for(there.lost.wait(), 5)
    assert there.error is None
    assert there.error_at_end is None


async def test_the_error_is_found_although_reading_only_saw_the_end(sides: tuple[Side, Side]) -> None:
    here, there = sides
    there.transport.pause_reading()
    seam.abort(here.transport)
    await until(lambda: _is_closed(there.transport))
    first = seam.error_at_end(there.transport)
    assert isinstance(first, ConnectionResetError)
    # That took the error from the socket; what is left shows that no FIN came.
    second = seam.error_at_end(there.transport)
    assert second is not None
    assert second.errno == errno.ECONNABORTED


def _is_closed(transport: asyncio.Transport) -> bool:
    raw = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return TcpInfo.parse(raw).state == seam.TCP_CLOSE


async def test_options_reach_the_socket(sides: tuple[Side, Side]) -> None:
    here, _ = sides
    seam.set_options(here.transport, TcpOptions(user_timeout=5.5, send_buffer=100_000, unsent_limit=16_384))
    sock = here.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, seam.TCP_USER_TIMEOUT) == 5500
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 200_000
    assert sock.getsockopt(socket.IPPROTO_TCP, seam.TCP_NOTSENT_LOWAT) == 16_384


def test_only_fields_that_the_kernels_answer_is_long_enough_for_are_read() -> None:
    answer = bytearray(232)
    answer[0], answer[4] = 1, 3
    struct.pack_into("=I", answer, 8, 1_632_000)
    struct.pack_into("=I", answer, 56, 1020)
    struct.pack_into("=I", answer, 68, 40_000)
    struct.pack_into("=Q", answer, 120, 5_000_000_000)
    assert TcpInfo.parse(bytes(answer)) == TcpInfo(1, 3, 1.632, 1.02, 0.04, 5_000_000_000)
    assert TcpInfo.parse(bytes(answer[:104])).acked_bytes is None
    assert TcpInfo.parse(bytes(answer[:104])).srtt == 0.04
    assert TcpInfo.parse(bytes(answer[:1])) == TcpInfo(1, None, None, None, None, None)


class Simulated(asyncio.Transport):
    """A transport without a socket, as the simulator offers it."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.state = TcpState(1, 2, 3, 0.4, 0.5, 0.6, 7)
        super().__init__(
            extra={
                "tcp_state": lambda: self.state,
                "abort": lambda: self.asked.append("abort"),
                "tcp_options": self.asked.append,
                "tcp_error": lambda: OSError(errno.ETIMEDOUT, "timed out"),
            }
        )


def test_a_transport_may_bring_all_of_it_itself() -> None:
    transport, options = Simulated(), TcpOptions(user_timeout=1.0)
    assert tcp_state(transport) == transport.state
    seam.abort(transport)
    seam.set_options(transport, options)
    assert transport.asked == ["abort", options]
    error = seam.error_at_end(transport)
    assert error is not None
    assert error.errno == errno.ETIMEDOUT


def test_a_transport_that_has_neither_tells_nothing() -> None:
    class Bare(asyncio.Transport):
        aborted = False

        def abort(self) -> None:
            self.aborted = True

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

    transport = Bare()
    assert tcp_state(transport) is None
    assert seam.error_at_end(transport) is None
    seam.set_options(transport, TcpOptions(user_timeout=1.0))
    seam.abort(transport)
    assert transport.aborted
