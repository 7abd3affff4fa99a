"""The fabric's one packet socket: all veth ends are read from one ring that the kernel maps into the forwarder.

The ring (TPACKET_V2) gives each packet with the kernel's own receive time and without a system call per packet, in the
order of arrival over all ports, and its size does not count against ``net.core.rmem_max``, which a rootless lab could
not raise. The receive time removes the lateness of our own waking up from the emulated delay
(``facts/link-emulation.md`` section 4).

One socket and not one per port, because the kernel waits for an RCU grace period (8 ms at HZ=250, measured) whenever
a packet socket is closed, and for one more when it gets a ring, three when that goes. So the supervisor makes the ring
while PID 1 is wiring the nodes, and lets go of it when everybody else is gone already.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Sequence

from harness.engines.netns import syscalls
from harness.engines.netns.plan import FABRIC_INDEX, PortPlan

_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
_TPACKET_V2 = 1
_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0800, 0x86DD
_HEADER = struct.Struct("=IIIHHII12xi")
"""tpacket2_hdr: status, length, captured length, offsets of frame and network layer, seconds, nanoseconds; then (after
the VLAN fields and half of sockaddr_ll) the interface index."""
_STATUS = struct.Struct("=I")
_KERNEL, _USER = 0, 1
_BLOCK = 1 << 16
_FRAMES = 4096
_OVERHEAD = 96
"""Ring header, alignment and link-layer header in front of the packet."""


class PacketSocket:
    """Receives on every interface of the namespace in which it was opened; deaf until :meth:`listen`."""

    def __init__(self, *, mtu: int) -> None:
        self.unsent = 0
        """Packets that an interface did not take: it is down, or its queue is full."""
        self._lost = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        self._frame_size = max(2048, 1 << (mtu + _OVERHEAD - 1).bit_length())
        self._offset = 0
        self._size = 0
        self._ring: mmap.mmap | None = None
        self._frames: dict[int, tuple[tuple[str, int], bytes, tuple[str, int], bytes]] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def make_ring(self) -> int:
        """Ask for the ring, smaller where memory is short; its size in bytes. Takes 8 to 20 ms."""
        block = max(_BLOCK, self._frame_size)
        frames = _FRAMES
        while True:
            size = frames * self._frame_size
            try:
                request = struct.pack("IIII", block, size // block, self._frame_size, frames)
                self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
                return size
            except OSError:
                frames //= 2
                if frames * self._frame_size < block:
                    raise

    def listen(self, ring_bytes: int, ports: Sequence[PortPlan]) -> None:
        """Map the ring of that size and hear all interfaces of the namespace from now on."""
        self._size = ring_bytes
        self._ring = mmap.mmap(self._socket.fileno(), ring_bytes)
        for port in ports:
            mac = bytes.fromhex((port.mac + port.fabric_mac).replace(":", ""))
            ipv4, ipv6 = (port.fabric_name, _ETH_P_IP), (port.fabric_name, _ETH_P_IPV6)
            self._frames[port.number] = (ipv4, mac + b"\x08\x00", ipv6, mac + b"\x86\xdd")
        syscalls.bind_packet_socket(self._socket.fileno(), _ETH_P_ALL)

    def read(self, most: int) -> list[tuple[int, int, bytes]]:
        """Up to ``most`` packets that have arrived: (CLOCK_REALTIME ns of the arrival, port number, IP packet)."""
        ring, offset, size, frame_size = self._ring, self._offset, self._size, self._frame_size
        packets: list[tuple[int, int, bytes]] = []
        if ring is None:
            return packets
        while most:
            status, _, captured, start, network, seconds, nanoseconds, interface = _HEADER.unpack_from(ring, offset)
            if not status & _USER:
                break
            packet = ring[offset + network : offset + start + captured]
            packets.append((seconds * 1_000_000_000 + nanoseconds, interface - FABRIC_INDEX, packet))
            _STATUS.pack_into(ring, offset, _KERNEL)
            offset += frame_size
            if offset == size:
                offset = 0
            most -= 1
        self._offset = offset
        return packets

    def write(self, port: int, packet: bytes | bytearray) -> None:
        """Hand one IP packet to the node behind a port (by number).

        An interface that is down or full loses it, which is counted.
        """
        ipv4, ipv4_head, ipv6, ipv6_head = self._frames[port]
        try:
            if packet[0] < 0x50:
                self._socket.sendto(ipv4_head + packet, ipv4)
            else:
                self._socket.sendto(ipv6_head + packet, ipv6)
        except OSError:
            self.unsent += 1

    def clear_error(self) -> None:
        """Take the pending error of an interface that went down, so that waiting for packets works again."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def lost(self) -> int:
        """Packets for which the ring had no room, so far."""
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._lost += dropped
        return self._lost

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
        self._socket.close()
