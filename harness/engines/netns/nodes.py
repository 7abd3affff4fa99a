"""Network namespaces of a lab: one per node, anonymous, joined to the fabric's namespace by veth pairs.

Runs in PID 1, single-threaded, which sits in the fabric's namespace and steps into a node's only for single calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from harness.engines.netns import netlink, syscalls
from harness.engines.netns.plan import LabSpec, PortPlan

CONGESTION_CONTROL = "cubic"
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_LOOPBACK = 1
_TABLES = ("tcp", "tcp6", "udp", "udp6")
_TCP_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "NEW_SYN_RECV",
}
_SETTINGS = {
    "net/ipv6/conf/all/keep_addr_on_down": "1",
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv4/ping_group_range": "0 0",
}
"""Best effort: read-only /proc/sys in a container is no reason to fail, and nothing depends on them."""

T = TypeVar("T")


class Node:
    """One node's network namespace, held by its descriptor."""

    def __init__(self, name: str, home: int) -> None:
        self.name = name
        self._home = home
        syscalls.unshare(syscalls.CLONE_NEWNET)
        self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.rtnl = netlink.Rtnl()
        self._ioctl = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        _write_settings()

    def inside(self, action: Callable[[], T]) -> T:
        """Do ``action`` in this node's namespace and come back to the fabric's."""
        syscalls.setns(self.namespace, syscalls.CLONE_NEWNET)
        try:
            return action()
        finally:
            syscalls.setns(self._home, syscalls.CLONE_NEWNET)

    def configure(self, ports: Sequence[PortPlan]) -> None:
        """Loopback up; each interface with its addresses and routes; no offload that leaves a checksum unfinished."""
        batch = netlink.Batch()
        batch.link(index=_LOOPBACK, up=True)
        for port in ports:
            batch.no_link_local(index=port.node_index)
            batch.link(index=port.node_index, up=True, noarp=True, mtu=port.mtu)
        self.rtnl.commit(batch)
        for port in ports:
            self.address(port)
            self.offload_off(port.interface)

    def address(self, port: PortPlan) -> None:
        """Addresses and routes of one interface that is up; idempotent, so it also restores what a fault took."""
        batch = netlink.Batch()
        for address, prefix in port.addresses:
            batch.address(index=port.node_index, address=address, prefix=prefix)
        for address, _ in port.addresses:
            batch.route(index=port.node_index, source=address, metric=port.metric, congestion=CONGESTION_CONTROL)
        self.rtnl.commit(batch)

    def sockets(self) -> list[dict[str, str]]:
        """All TCP and UDP sockets of this node, also those of other processes and those nobody holds any more."""
        return self.inside(_read_sockets)

    def offload_off(self, interface: str) -> None:
        """TX checksum off stops TSO and UDP segmentation too: the packet socket sees whole, finished packets."""
        value = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, 0))
        fcntl.ioctl(self._ioctl, _SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(value)))


class Network:
    """The fabric's namespace (where PID 1 is) and all nodes."""

    def __init__(self, spec: LabSpec) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._rtnl = netlink.Rtnl()
        self.ports: Mapping[str, list[PortPlan]] = {name: list(spec.ports_of(name)) for name in spec.nodes}
        self.nodes: dict[str, Node] = {}
        _write_settings()
        for name in spec.nodes:
            self.nodes[name] = Node(name, self._home)
            syscalls.setns(self._home, syscalls.CLONE_NEWNET)
        self._wire(spec.ports)
        for name, node in self.nodes.items():
            node.configure(self.ports[name])

    def set_carrier(self, port: PortPlan, up: bool) -> None:
        """Take the far end of ``port``'s veth down or up: the node sees NO-CARRIER, as with an access point gone."""
        batch = netlink.Batch()
        batch.link(index=port.fabric_index, up=up)
        self._rtnl.commit(batch)
        if up:
            self._restore(port)

    def set_interface(self, port: PortPlan, up: bool) -> None:
        """Take the node's own interface down or up (airplane mode): addresses and routes go, and are put back."""
        batch = netlink.Batch()
        batch.link(index=port.node_index, up=up)
        self.nodes[port.node].rtnl.commit(batch)
        if up:
            self._restore(port)

    def link_state(self, port: PortPlan) -> tuple[bool, bool]:
        """(administratively up, carrier) as the node's kernel sees it."""
        return self.nodes[port.node].rtnl.link_state(port.node_index)

    def _restore(self, port: PortPlan) -> None:
        if self.link_state(port)[0]:
            self.nodes[port.node].address(port)

    def _wire(self, ports: Sequence[PortPlan]) -> None:
        batch = netlink.Batch()
        for port in ports:
            batch.veth(
                name=port.fabric_name,
                index=port.fabric_index,
                mac=port.fabric_mac,
                peer_name=port.interface,
                peer_index=port.node_index,
                peer_mac=port.mac,
                peer_ns=self.nodes[port.node].namespace,
            )
            batch.no_link_local(index=port.fabric_index)
            batch.link(index=port.fabric_index, up=True, noarp=True, mtu=port.mtu)
        batch.link(index=_LOOPBACK, up=True)
        self._rtnl.commit(batch)


def _write_settings() -> None:
    for path, value in _SETTINGS.items():
        with contextlib.suppress(OSError), open(f"/proc/sys/{path}", "w") as file:
            file.write(value)


def _read_sockets() -> list[dict[str, str]]:
    return [entry for protocol in _TABLES for entry in _read_table(protocol)]


def _read_table(protocol: str) -> Iterator[dict[str, str]]:
    try:
        with open(f"/proc/thread-self/net/{protocol}") as file:
            lines = file.read().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        _, local, remote, state, *_ = line.split()
        name = _TCP_STATES.get(int(state, 16), state) if protocol.startswith("tcp") else "open"
        yield {"protocol": protocol, "local": _endpoint(local), "remote": _endpoint(remote), "state": name}


def _endpoint(text: str) -> str:
    """``address:port`` of the kernel's hexadecimal form (32-bit words in host order)."""
    host, port = text.split(":")
    words = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
    family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    name = socket.inet_ntop(family, words)
    return f"{name}:{int(port, 16)}" if family == socket.AF_INET else f"[{name}]:{int(port, 16)}"
