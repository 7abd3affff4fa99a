"""Messages between the harness and its lab processes: pickled tuples over a sequenced-packet socket pair.

Both ends are this package, forked or executed from the same tree, so pickle is safe and keeps faults and topologies
as they are. A sequenced-packet socket keeps message boundaries, tells the end of the other side as an empty read and
carries file descriptors. A message must fit the send buffer (:data:`LIMIT`), which the senders of batches observe.
"""

from __future__ import annotations

import array
import contextlib
import pickle
import socket
from collections.abc import Sequence
from typing import Any

LIMIT = 120_000
"""Bytes of one pickled message that surely pass; the kernel's default send buffer holds about 212 kB with overhead."""
_MOST_DESCRIPTORS = 64


class ChannelClosedError(ConnectionError):
    """The other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (near, far):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return near, far


def send(end: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Raises :class:`ChannelClosedError`, or :class:`BlockingIOError` where the socket is non-blocking and full."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        end.sendmsg([data], rights)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosedError(str(error)) from error


def receive(end: socket.socket) -> tuple[Any, list[int]]:
    """One message and the descriptors that came with it; raises :class:`ChannelClosedError` at the end."""
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
    try:
        data, ancillary, _, _ = end.recvmsg(1 << 20, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise ChannelClosedError(str(error)) from error
    if not data:
        raise ChannelClosedError("the other end is gone")
    descriptors = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(rights[: len(rights) - len(rights) % descriptors.itemsize])
    return pickle.loads(data), list(descriptors)
