"""What a lab is made of, derived once from the topology, so that PID 1 only executes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.network.topology import DOMAIN, Interface, Topology

FABRIC_INDEX = 100
"""Interface index of the first fabric-side veth end in the fabric's namespace; the node's end has ``NODE_INDEX``."""
NODE_INDEX = 2


@dataclass(frozen=True, slots=True)
class PortPlan:
    """One interface of one node: the near end of a veth pair whose far end the forwarder reads and writes."""

    key: str
    """How the fabric calls this port: ``"phone/wlan0"``."""
    number: int
    """Counts ports from 0 over the whole lab."""
    node: str
    interface: str
    node_index: int
    """Interface index inside the node's namespace."""
    addresses: tuple[tuple[str, int], ...]
    """(address, prefix length), IPv4 and IPv6."""
    mtu: int
    link: str
    """Name of the link that this interface is attached to."""
    metric: int = 100
    """Of its default routes."""

    @property
    def fabric_name(self) -> str:
        return f"port{self.number}"

    @property
    def fabric_index(self) -> int:
        return FABRIC_INDEX + self.number

    @property
    def mac(self) -> str:
        """The node's end; locally administered."""
        return f"02:da:00:00:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def fabric_mac(self) -> str:
        return f"02:da:01:00:{self.number >> 8:02x}:{self.number & 255:02x}"


@dataclass(frozen=True, slots=True)
class LabSpec:
    """Everything PID 1 and the forwarder need to know; pickled to the forge."""

    topology: Topology
    seed: int
    ports: tuple[PortPlan, ...]
    nodes: tuple[str, ...]
    hosts: Mapping[str, Mapping[str, str]]
    """Per node: file of the node's view (``/etc/hosts``) -> the file in the run's directory that is mounted there."""
    capture: bool = False

    def ports_of(self, node: str) -> Sequence[PortPlan]:
        return [port for port in self.ports if port.node == node]


MARKER = "DEADAIR_HARNESS"
"""Environment variable that the forge and all its descendants carry; its value names the harness process."""


@dataclass(frozen=True, slots=True)
class LabOrder:
    """One lab to make. With it come PID 1's orders, the forwarder's wire, the ``gone`` pipe and the spool file."""

    spec: LabSpec
    rootless: bool | None = None
    """True makes a user namespace, False needs CAP_SYS_ADMIN, None decides by what the forge may do."""


def plan_ports(topology: Topology) -> tuple[PortPlan, ...]:
    """Every interface of every node, numbered."""
    interfaces = [(place, one) for node in topology.nodes for place, one in enumerate(topology.interfaces(node.name))]
    return tuple(_port(number, place, interface) for number, (place, interface) in enumerate(interfaces))


def _port(number: int, place: int, interface: Interface) -> PortPlan:
    v4, v6 = interface.ipv4, interface.ipv6
    return PortPlan(
        key=interface.port,
        number=number,
        node=interface.node,
        interface=interface.name,
        node_index=NODE_INDEX + place,
        addresses=((str(v4.ip), v4.network.prefixlen), (str(v6.ip), v6.network.prefixlen)),
        mtu=interface.mtu,
        link=interface.link,
        metric=interface.metric,
    )


RESOLVER_FILES = {
    "/etc/resolv.conf": "# names of the lab are in /etc/hosts; there is no name server\noptions timeout:1 attempts:1\n",
    "/etc/nsswitch.conf": "hosts: files\npasswd: files\ngroup: files\n",
}
"""What a node sees besides its hosts file, so that no name is asked for anywhere else."""


def hosts_file(topology: Topology, node: str) -> str:
    """The ``/etc/hosts`` of one node: itself, localhost and all names of the topology."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    for address, names in topology.hosts():
        own = [node] if f"{node}.{DOMAIN}" in names else []
        lines.append(" ".join([address, *names, *own]))
    return "\n".join(lines) + "\n"
