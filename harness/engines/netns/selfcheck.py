"""Proof that the plumbing works before anything is started on it: one packet echoed at every port, and across.

A datagram from each node must come out of the port's packet socket whole, and come back with its addresses swapped;
the swap leaves the checksum valid, so a checksum that the node's device had left unfinished (offload still on) makes
the node's kernel drop the echo: the mistake that otherwise shows as "ping works, TCP and UDP vanish".
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence

from harness.engines.netns.nodes import Network
from harness.engines.netns.plan import PortPlan
from harness.errors import HarnessError

_PORT = 9
_TEXT = b"deadair: first packet"
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8:ffff::1"}
"""Documentation addresses: nothing of a lab has them, so the datagram leaves by the default route."""
_WITHIN_S = 5.0
_AGAIN_S = 0.003


def check_ports(network: Network, ports: Sequence[PortPlan]) -> None:
    """One datagram out of each port, which the forwarder sends back; :class:`HarnessError` names a port that failed.

    Sent again every few milliseconds, as the forwarder may not be listening yet.
    """
    with contextlib.ExitStack() as stack:
        waiting = {stack.enter_context(_probe_socket(network, port)): port for port in ports}
        deadline = time.monotonic() + _WITHIN_S
        while waiting and time.monotonic() < deadline:
            for asking in waiting:
                asking.send(_TEXT)
            _collect(waiting)
        if waiting:
            failed = ", ".join(f"{port.interface} of {port.node}" for port in waiting.values())
            what = f"the first packet was not echoed within {_WITHIN_S:.0f} s at: {failed}"
            raise HarnessError(what, cure="run `deadair doctor`: it checks packet sockets and offload settings")


def _collect(waiting: dict[socket.socket, PortPlan]) -> None:
    """Take the sockets that were answered out of ``waiting``, until it is time to ask again."""
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], _AGAIN_S)
        if not ready:
            return
        for answered in ready:
            answered.recv(64)
            del waiting[answered]


def answer_probe(packet: bytes) -> bytes | None:
    """What the forwarder sends back while it waits for the first datagram of each port; None for other packets."""
    return _swapped(packet) if packet.endswith(_TEXT) else None


def _probe_socket(network: Network, port: PortPlan) -> socket.socket:
    address = port.addresses[0][0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asking = _datagram_socket(network, port.node, family)
    asking.bind((address, 0))
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, port.interface.encode())
    asking.connect((_ELSEWHERE[family], _PORT))
    return asking


def _swapped(packet: bytes) -> bytes:
    """An IP packet with UDP or TCP sent back to where it came from: addresses and ports change places."""
    if packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        head = packet[:12] + packet[16:20] + packet[12:16] + packet[20:start]
    else:
        start = 40
        head = packet[:8] + packet[24:40] + packet[8:24]
    return head + packet[start + 2 : start + 4] + packet[start : start + 2] + packet[start + 4 :]


def echo(network: Network, near: str, far: str, count: int, within_ns: int) -> list[int]:
    """Round-trip times (ns) of ``count`` datagrams from one node to another and back, through the forwarder.

    Sent one after the other; one that is not back ``within_ns`` is missing in the answer.
    """
    address = network.ports[far][0].addresses[0][0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with _datagram_socket(network, near, family) as asking, _datagram_socket(network, far, family) as answering:
        answering.bind((address, 0))
        asking.connect(answering.getsockname()[:2])
        trips = [_round_trip(asking, answering, number, within_ns) for number in range(count)]
    return [trip for trip in trips if trip is not None]


def _round_trip(asking: socket.socket, answering: socket.socket, number: int, within_ns: int) -> int | None:
    begun = time.monotonic_ns()
    asking.send(number.to_bytes(8, "big"))
    while (rest := begun + within_ns - time.monotonic_ns()) > 0:
        ready, _, _ = select.select([asking, answering], [], [], rest / 1e9)
        if answering in ready:
            answering.sendto(*answering.recvfrom(64))
        if asking in ready and int.from_bytes(asking.recv(64), "big") == number:
            return time.monotonic_ns() - begun
    return None


def _datagram_socket(network: Network, node: str, family: int) -> socket.socket:
    return network.nodes[node].inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
