"""The seam to the kernel's TCP: the only place that reads its state, sets its options or resets a connection.

A transport that is not a kernel socket (the simulator's) offers the same through its extra info:

| ``get_extra_info(…)`` | a callable | in place of |
|---|---|---|
| ``"tcp_state"`` | ``() -> TcpState`` | TCP_INFO, SIOCOUTQ, SIOCOUTQNSD |
| ``"abort"`` | ``() -> None`` | SO_LINGER 0 and close |
| ``"tcp_options"`` | ``(TcpOptions) -> None`` | setsockopt |
| ``"tcp_error"`` | ``() -> OSError or None`` | SO_ERROR and TCP_INFO's state at the end of the stream |

The layout of ``struct tcp_info`` is Linux's (include/uapi/linux/tcp.h); it only ever grows at its end, so each field
counts as present when the kernel's answer is long enough.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

SIOCOUTQ = 0x5411
SIOCOUTQNSD = 0x894B
TCP_USER_TIMEOUT = 18
TCP_NOTSENT_LOWAT = 25
TCP_CLOSE = 7
_INFO_BYTES = 256
_STATE_AT, _BACKOFF_AT, _RTO_AT, _LAST_ACK_AT, _SRTT_AT, _ACKED_AT = 0, 4, 8, 56, 68, 120


@dataclass(frozen=True, slots=True)
class TcpState:
    """One reading of a connection's sending side."""

    acked_bytes: int
    """Since the connection began; goes on growing."""
    outstanding_bytes: int
    """Not acknowledged, *including* what has not been sent: a peer with a zero window has nothing in flight."""
    unsent_bytes: int
    """Of the outstanding: not yet sent for the first time."""
    last_ack_age: float
    """Seconds since the last acknowledgement came in (also one that acknowledged nothing new)."""
    rto: float
    """Seconds; doubled already by the back-off."""
    srtt: float
    """Seconds; 0 before the first measurement."""
    backoff: int
    """Consecutive retransmission time-outs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpOptions:
    """What a connection may want of its socket; None leaves the kernel's default."""

    user_timeout: float | None = None
    """Seconds that data may stay unacknowledged before ETIMEDOUT (TCP_USER_TIMEOUT)."""
    send_buffer: int | None = None
    """Bytes (SO_SNDBUF); the kernel doubles it and stops tuning it."""
    unsent_limit: int | None = None
    """Bytes not yet sent from which on the socket counts as not writable (TCP_NOTSENT_LOWAT)."""


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """The fields of ``struct tcp_info`` that we use; None where this kernel's answer is too short for them."""

    state: int
    backoff: int | None
    rto: float | None
    last_ack_age: float | None
    srtt: float | None
    acked_bytes: int | None

    @classmethod
    def parse(cls, data: bytes) -> TcpInfo:
        """From what ``getsockopt(TCP_INFO)`` returned (at least one byte)."""
        return cls(
            state=data[_STATE_AT],
            backoff=data[_BACKOFF_AT] if len(data) > _BACKOFF_AT else None,
            rto=_seconds(_field(data, _RTO_AT, "=I"), 1e-6),
            last_ack_age=_seconds(_field(data, _LAST_ACK_AT, "=I"), 1e-3),
            srtt=_seconds(_field(data, _SRTT_AT, "=I"), 1e-6),
            acked_bytes=_field(data, _ACKED_AT, "=Q"),
        )


def tcp_state(transport: asyncio.BaseTransport) -> TcpState | None:
    """The connection's state now; None for a closed connection, one that is not TCP, and kernels before 4.1."""
    if (hook := transport.get_extra_info("tcp_state")) is not None:
        simulated: TcpState | None = hook()
        return simulated
    connection = _socket_of(transport)
    if connection is None:
        return None
    try:
        info = TcpInfo.parse(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
        outstanding, unsent = _queued(connection, SIOCOUTQ), _queued(connection, SIOCOUTQNSD)
    except OSError:
        return None
    if info.acked_bytes is None or info.srtt is None or info.last_ack_age is None or info.rto is None:
        return None
    return TcpState(
        acked_bytes=info.acked_bytes,
        outstanding_bytes=outstanding,
        unsent_bytes=unsent,
        last_ack_age=info.last_ack_age,
        rto=info.rto,
        srtt=info.srtt,
        backoff=info.backoff or 0,
    )


def abort(transport: asyncio.BaseTransport) -> None:
    """Reset the connection: what is queued is thrown away and the peer gets a RST (if the path carries it)."""
    if (hook := transport.get_extra_info("abort")) is not None:
        hook()
        return
    if (connection := _socket_of(transport)) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def set_options(transport: asyncio.BaseTransport, options: TcpOptions) -> None:
    """Apply ``options``; raises :class:`OSError` if the kernel will not have one of them."""
    if (hook := transport.get_extra_info("tcp_options")) is not None:
        hook(options)
        return
    connection = _socket_of(transport)
    if connection is None:
        return
    if options.user_timeout is not None:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, round(options.user_timeout * 1000))
    if options.send_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options.send_buffer)
    if options.unsent_limit is not None:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, options.unsent_limit)


def error_at_end(transport: asyncio.BaseTransport) -> OSError | None:
    """Why reading came to an end, None if the peer closed in order; to be asked only while our direction is open.

    After ETIMEDOUT or a RST the first system call gets the error and the next read only an end of file; but then the
    kernel has left the connection in CLOSE, not in CLOSE_WAIT where a FIN puts it.
    """
    if (hook := transport.get_extra_info("tcp_error")) is not None:
        simulated: OSError | None = hook()
        return simulated
    connection = _socket_of(transport)
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return OSError(number, os.strerror(number))
    info = TcpInfo.parse(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
    if info.state == TCP_CLOSE:
        return OSError(errno.ECONNABORTED, "connection failed, the kernel no longer says why (no FIN came)")
    return None


def _socket_of(transport: asyncio.BaseTransport) -> socket.socket | None:
    connection: socket.socket | None = transport.get_extra_info("socket")
    return connection if connection is not None and connection.fileno() >= 0 else None


def _queued(connection: socket.socket, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(connection.fileno(), request, bytes(4)))[0])


def _field(data: bytes, at: int, form: str) -> int | None:
    end = at + struct.calcsize(form)
    return int(struct.unpack_from(form, data, at)[0]) if len(data) >= end else None


def _seconds(value: int | None, unit: float) -> float | None:
    return None if value is None else value * unit
