"""The whole emulated network as one object: packets in at one port, out at another, when and if it says so.

Sans-IO: no clock, no socket, no thread, no global randomness. Time is an ``int`` of ns handed in as ``now`` and may
come from any clock, as long as it is one. The same topology, seed and sequence of calls give the same fates.

How an engine drives it::

    fabric = Fabric(topology, seed=7)
    port = fabric.ports["phone/wlan0"]              # keyed by "<node>/<interface>", as Topology.interfaces() says
    packet = fabric.parse(raw)                      # raw IP packet without Ethernet header -> Packet
                                                    # MalformedPacketError (a ValueError) for what is none
    fabric.offer(port, packet, now)                 # `port` is the Port; port.offer(packet, now) is the same
    due = fabric.next_deadline()                    # ns, or None: nothing is on its way
    for port, packet in fabric.advance(now):        # everything due by `now`, in order of its due time
        write(port, packet.to_bytes())              # port.node, port.interface, port.key, port.number

* **Ports** are :class:`Port` objects, one for each node interface. ``fabric.ports`` maps their keys to them, in
  the topology's order; ``port.number`` counts them from 0.
* **Delivery**: :meth:`Fabric.advance` returns a list of ``(port, packet)``. A port whose :attr:`Port.sink` is set
  calls ``sink(packet, due)`` instead and doesn't show up in the list: equally fast, and exact in virtual time.
  ``packet.to_bytes()`` is ``bytes | bytearray``, ready for a socket's ``send``.
* **Time** inside is each packet's own due time, not ``now``: being late doesn't add up over hops. Call ``advance``
  before ``offer`` where both are due, so that state (NAT, queues) is asked in order. An offer whose ``now`` lies
  before the last one is treated as simultaneous with what stands in the queues.
* **Counters**: :meth:`Fabric.drain_counts` gives a :class:`FlowCount` for each flow that moved since the last call.
  Flows are named in the addresses that their sender uses; packets are counted at the receiving host.
* **Taps** (``fabric.taps``, a list, empty at first) are called ``tap(packet, where, fate, now)`` for each packet:
  fate ``"sent"`` (where = port key), ``"delivered"`` (where = port key), ``"injected"`` (made by a fault, at the
  port where it comes out; ``"delivered"`` follows) or ``"dropped: <reason>"`` (where = ``"backhaul up"`` or a
  router's name). A tap must not keep the packet, which is mutable: ``bytes(packet.to_bytes())`` is how it looks there.
* **Faults** act through ``fabric.links[name].up/.down`` (:class:`~harness.network.link.Direction`: ``rules``,
  ``change``, ``overlay``, ``lift``), ``fabric.routers[name]`` (``lose_nat_state``, ``rebind``) and
  :meth:`Fabric.inject`. Between entering and leaving them nothing needs to be called: what they do in between
  follows from the packets' times.
* **Drop reasons**: ``loss``, ``queue_full``, ``ttl_exceeded``, ``too_big``, ``fragmented`` (goes on in pieces),
  ``no_route``, ``no_such_host``, ``not_routable`` (multicast and the like), ``to_router``, ``answered`` (a ping to a
  router), ``nat_no_mapping``, ``nat_hairpin``, ``nat_cannot_map``, ``foreign_source``, ``fragment_without_first``, and
  those of faults: ``black_hole``, ``link_flap``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heappop, heapreplace

from harness.network.flow import PROTOCOL_NAMES, Connection, Flow, FlowTable
from harness.network.link import Agenda, Direction, Link
from harness.network.nat import Nat
from harness.network.packet import FIN, RST, SYN, Packet, PacketParser
from harness.network.router import Router
from harness.network.routes import routes_of
from harness.network.topology import (
    CORE_HOST,
    EDGE_HOST,
    Interface,
    LinkSpec,
    RouterSpec,
    Topology,
    known_name,
)

Tap = Callable[[Packet, str, str, int], None]
_CONNECTION_FLAGS = FIN | SYN | RST

APPLICATION_PORTS = {"rtmp": 1935, "rtmps": 443, "http": 80, "https": 443, "dns": 53, "srt": 9710}
"""Names for the port in ``publisher.rtmp``."""


@dataclass(frozen=True, slots=True)
class FlowCount:
    """What happened to one flow since the last count."""

    flow: str
    """``"phone:40000>gateway:1935/tcp"``, in the addresses that its sender uses."""
    packets: int
    """Delivered at the receiving host."""
    bytes: int
    dropped: int
    dropped_because: Mapping[str, int]


class Port:
    """One node's interface, where its link begins."""

    __slots__ = ("_fabric", "interface", "key", "link", "node", "number", "out", "sink", "spec")

    def __init__(self, fabric: Fabric, number: int, spec: Interface, out: Direction) -> None:
        self._fabric = fabric
        self.number = number
        self.spec = spec
        self.key = spec.port
        self.node = spec.node
        self.interface = spec.name
        self.link = spec.link
        self.out = out
        self.sink: Callable[[Packet, int], None] | None = None
        """Set to get deliveries by callback, at their due time, instead of from :meth:`Fabric.advance`."""

    def offer(self, packet: Packet, now: int) -> None:
        """The node sends a packet."""
        flow = packet.flow
        flow.seen = now
        flow.offered = packet
        if packet.flags & _CONNECTION_FLAGS:
            flow.connection.closed = not packet.flags & SYN
        fabric = self._fabric
        fabric.offered += 1
        if fabric.taps:
            fabric.tell(packet, self.key, "sent", now)
        self.out.offer(packet, now)

    def receive(self, packet: Packet, now: int) -> None:
        """A packet reaches the node."""
        fabric = self._fabric
        flow = packet.origin
        if not flow.packets and flow.drops is None:
            fabric.moved.append(flow)
        flow.packets += 1
        flow.bytes += packet.length
        flow.delivered = packet
        fabric.delivered += 1
        if fabric.taps:
            fabric.tell(packet, self.key, "delivered", now)
        if self.sink is not None:
            self.sink(packet, now)
        else:
            fabric.arrivals.append((self, packet))

    def too_big(self, packet: Packet, direction: Direction, now: int) -> None:
        """Never asked: the router at the other end of a node's link answers for it."""
        raise AssertionError(f"{packet} on {direction.name}: a node's link is refused by its router")

    def __repr__(self) -> str:
        return f"<Port {self.key}>"


class _Injection:
    """A packet that a fault made, on its way to a port."""

    __slots__ = ("_fabric", "_port")

    def __init__(self, fabric: Fabric, port: Port) -> None:
        self._fabric = fabric
        self._port = port

    def receive(self, packet: Packet, now: int) -> None:
        self._fabric.injecting -= 1
        self._fabric.tell(packet, self._port.key, "injected", now)
        self._port.receive(packet, now)


class Fabric:
    """Links, routers and ports of one topology; see the module for how it is used."""

    def __init__(self, topology: Topology, *, seed: int) -> None:
        self.topology = topology
        self.seed = seed
        self.flows = FlowTable()
        self.parser = PacketParser(self.flows)
        self.parse: Callable[[bytes], Packet] = self.parser.parse
        """Raw IP packet → :class:`Packet`, flows interned here."""
        self.taps: list[Tap] = []
        self.offered = 0
        self.injected = 0
        self.injecting = 0
        self.delivered = 0
        self.dropped = 0
        self.moved: list[Flow] = []
        """Flows with something to count since the last :meth:`drain_counts`."""
        self.arrivals: list[tuple[Port, Packet]] = []
        self._agenda = Agenda()
        self._names = topology.address_names()
        self.links: dict[str, Link] = {link.name: self._link(link) for link in topology.links}
        self.routers: dict[str, Router] = {spec.name: self._router(spec) for spec in topology.routers}
        self.ports: dict[str, Port] = self._ports()
        self._join()

    # --- packets ---------------------------------------------------------------------------------------------

    def offer(self, port: Port, packet: Packet, now: int) -> None:
        """The node at ``port`` sends a packet."""
        port.offer(packet, now)

    def next_deadline(self) -> int | None:
        """When :meth:`advance` next has something to do, ns."""
        heap = self._agenda.heap
        return heap[0][0] if heap else None

    def advance(self, now: int) -> list[tuple[Port, Packet]]:
        """Move everything that is due by ``now``; what reached a node's port, in order."""
        agenda = self._agenda
        heap = agenda.heap
        while heap and heap[0][0] <= now:
            due, _, target, packet = heap[0]
            if packet is None:
                queue = target.queue
                packet = queue.popleft()[1]
                if queue:
                    agenda.sequence = sequence = agenda.sequence + 1
                    heapreplace(heap, (queue[0][0], sequence, target, None))
                else:
                    heappop(heap)
                target.deliver(packet, due)
            else:
                heappop(heap)
                target.receive(packet, due)
        arrivals = self.arrivals
        if arrivals:
            self.arrivals = []
        return arrivals

    def inject(self, raw: bytes, port: Port, now: int) -> Packet:
        """A packet of a fault's making comes out at ``port`` with the next :meth:`advance`."""
        packet = self.parse(raw)
        self.injected += 1
        self.injecting += 1
        self._agenda.add(now, _Injection(self, port), packet)
        return packet

    # --- counting --------------------------------------------------------------------------------------------

    def drain_counts(self, now: int) -> list[FlowCount]:
        """What each flow did since the last call; ``now`` is when the caller counts (for symmetry, not used up)."""
        counts = [self._count(flow) for flow in self.moved]
        self.moved = []
        return counts

    def tell(self, packet: Packet, where: str, fate: str, now: int) -> None:
        """Show a packet to every tap."""
        for tap in self.taps:
            tap(packet, where, fate, now)

    @property
    def in_flight(self) -> int:
        """Packets on their way."""
        directions = (direction for link in self.links.values() for direction in (link.up, link.down))
        return self.injecting + sum(direction.in_flight for direction in directions)

    @property
    def made(self) -> int:
        """Packets that came into being inside: duplicates, ICMP, fragments, injections."""
        links = sum(link.up.duplicated + link.down.duplicated for link in self.links.values())
        return self.injected + links + sum(router.made for router in self.routers.values())

    def _count(self, flow: Flow) -> FlowCount:
        drops = flow.drops or {}
        count = FlowCount(self.name_of(flow), flow.packets, flow.bytes, sum(drops.values()), drops)
        flow.packets = flow.bytes = 0
        flow.drops = None
        return count

    def _drop(self, packet: Packet, where: str, reason: str, now: int) -> None:
        flow = packet.origin
        drops = flow.drops
        if drops is None:
            if not flow.packets:
                self.moved.append(flow)
            drops = flow.drops = {}
        drops[reason] = drops.get(reason, 0) + 1
        self.dropped += 1
        if self.taps:
            self.tell(packet, where, f"dropped: {reason}", now)

    # --- flows -----------------------------------------------------------------------------------------------

    def name_of(self, flow: Flow) -> str:
        """``"phone:40000>gateway:1935/tcp"``."""
        return flow.named(self._names)

    def resolve_flow(self, node: str, port: int, *, proto: str | None = None) -> Connection | None:
        """The live connection between ``node`` (or the node of a role) and anyone's ``port`` with the latest traffic.

        Live means that packets have been delivered and no FIN or RST was the last word; connections for which
        nothing was ever answered come after those. None where there is no connection at all.
        """
        mine = self._addresses(self.topology.node_of(node))
        answered = {flow.connection for flow in self.flows if flow.delivered is not None and flow.src not in mine}
        found = [
            flow
            for flow in self.flows
            if flow.seen >= 0
            and flow.src in mine
            and port in (flow.dport, flow.sport)
            and (proto is None or PROTOCOL_NAMES.get(flow.proto) == proto)
        ]
        if not found:
            return None
        return max(
            found, key=lambda flow: (flow.connection in answered and not flow.connection.closed, flow.seen)
        ).connection

    def resolve(self, name: str) -> Connection | None:
        """:meth:`resolve_flow` of ``"publisher.rtmp"`` or ``"phone:1935"``."""
        return self.resolve_flow(*split_flow_name(name))

    def hosts_flows(self, connection: Connection) -> list[Flow]:
        """The connection's flows as its hosts send them (one for each host that has sent), latest traffic first."""
        mine = [flow for flow in self.flows if flow.connection is connection and flow.seen >= 0]
        return sorted(mine, key=lambda flow: -flow.seen)

    def _addresses(self, node: str) -> set[bytes]:
        interfaces = self.topology.interfaces(node)
        return {i.ipv4.ip.packed for i in interfaces} | {i.ipv6.ip.packed for i in interfaces}

    def port_of(self, address: bytes) -> Port | None:
        """The port whose node has this address."""
        for port in self.ports.values():
            if address in (port.spec.ipv4.ip.packed, port.spec.ipv6.ip.packed):
                return port
        return None

    # --- building --------------------------------------------------------------------------------------------

    def _link(self, spec: LinkSpec) -> Link:
        up = Direction(spec.name, "up", spec.up, seed=self.seed, agenda=self._agenda, drop=self._drop)
        down = Direction(spec.name, "down", spec.down, seed=self.seed, agenda=self._agenda, drop=self._drop)
        return Link(spec.name, up=up, down=down)

    def _router(self, spec: RouterSpec) -> Router:
        nat = None
        if spec.nat is not None:
            address = self.topology.ipv4(spec.outside, EDGE_HOST).ip.packed
            nat = Nat(spec.nat, address, self.flows, name=spec.name, seed=self.seed)
        return Router(
            spec.name,
            flows=self.flows,
            parser=self.parser,
            drop=self._drop,
            nat=nat,
            pmtu_black_hole=spec.pmtu_black_hole,
        )

    def _ports(self) -> dict[str, Port]:
        interfaces = [i for node in self.topology.nodes for i in self.topology.interfaces(node.name)]
        return {i.port: Port(self, number, i, self.links[i.link].up) for number, i in enumerate(interfaces)}

    def _join(self) -> None:
        """Connect the ends of all links, and give the routers their addresses and routes."""
        ports = {port.link: port for port in self.ports.values()}
        for spec in self.topology.links:
            link = self.links[spec.name]
            core = self.routers[spec.b]
            edge = self.routers.get(spec.a)
            link.up.attach(end=core, refuse=edge or core)
            link.down.attach(end=edge or ports[spec.name], refuse=core)
            self._address(core, spec, link.down, CORE_HOST)
            if edge is not None:
                self._address(edge, spec, link.up, EDGE_HOST)
        for router in self.routers.values():
            router.set_routes(routes_of(self.topology, router.name, self._leading_away))

    def _address(self, router: Router, spec: LinkSpec, out: Direction, host: int) -> None:
        outside = router.nat is not None and self.topology.router(router.name).outside == spec.name
        ipv4, ipv6 = self.topology.ipv4(spec.name, host).ip.packed, self.topology.ipv6(spec.name, host).ip.packed
        router.attach(out, ipv4=ipv4, ipv6=ipv6, outside=outside)

    def _leading_away(self, link: LinkSpec, end: str) -> Direction:
        return self.links[link.name].up if link.a == end else self.links[link.name].down


def split_flow_name(name: str) -> tuple[str, int]:
    """Role or node and port of ``"publisher.rtmp"`` or ``"phone:1935"``; ValueError says what is wrong."""
    for separator in (".", ":"):
        node, found, port = name.rpartition(separator)
        if found and node:
            if port.isdigit():
                if 0 < int(port) < 65536:
                    return node, int(port)
                raise ValueError(f"{name!r}: a port lies between 1 and 65535")
            known_name("application protocol", port, list(APPLICATION_PORTS))
            return node, APPLICATION_PORTS[port]
    raise ValueError(f"{name!r} names no flow; write for example 'publisher.rtmp' or 'phone:1935'")
