"""What the tests of the network share: packets made by scapy, an independent judge of bytes, and a clock to turn."""

from __future__ import annotations

from heapq import heappop
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from harness.network.fabric import Fabric, Port
from harness.network.flow import FlowTable
from harness.network.impairments import Impairments
from harness.network.link import Agenda, Direction
from harness.network.nat_settings import NatSettings
from harness.network.packet import Packet, PacketParser
from harness.network.topology import LinkSpec, Node, RouterSpec, Topology

MS = 1_000_000
SECOND = 1_000_000_000


def tcp(src: str, dst: str, sport: int, dport: int, flags: str = "A", size: int = 0, **fields: Any) -> bytes:
    """One TCP packet over IPv4 or IPv6."""
    return _bytes(src, dst, TCP(sport=sport, dport=dport, flags=flags, **fields), size)


def udp(src: str, dst: str, sport: int, dport: int, size: int = 0) -> bytes:
    """One UDP packet over IPv4 or IPv6."""
    return _bytes(src, dst, UDP(sport=sport, dport=dport), size)


def ping(src: str, dst: str, identifier: int = 7) -> bytes:
    """One ICMP echo request over IPv4."""
    return _bytes(src, dst, ICMP(type=8, id=identifier), 8)


def _bytes(src: str, dst: str, segment: Any, size: int) -> bytes:
    ip = IPv6(src=src, dst=dst) if ":" in src else IP(src=src, dst=dst, flags="DF")
    return bytes(ip / segment / Raw(b"\xa5" * size))


def judged(raw: bytes | bytearray) -> Any:
    """The packet as scapy reads it, once scapy has found every checksum in it right."""
    raw = bytes(raw)
    read = IP(raw) if raw[0] >> 4 == 4 else IPv6(raw)
    again = read.copy()
    layer: Any = again
    while layer and not isinstance(layer, Raw):
        for name in ("chksum", "cksum"):
            if name in layer.fields and not (isinstance(layer, UDP) and layer.fields[name] == 0):
                delattr(layer, name)  # not `del layer.fields[…]`: scapy would give back the bytes it has read
        if "in ICMP" in layer.name or (isinstance(layer, ICMP) and layer.type in (3, 11)):
            break
        layer = layer.payload
    assert bytes(again) == raw, f"scapy makes {bytes(again).hex()} of {raw.hex()}"
    return read


def two_hosts(
    up: Impairments | None = None,
    *,
    nat: NatSettings | None = None,
    down: Impairments | None = None,
    second: Impairments | None = None,
    pmtu_black_hole: bool = False,
) -> Topology:
    """``left ─ inner ─ nat ─ outer ─ core ─ far ─ right``; without settings the router in the middle only routes."""
    fine = Impairments()
    return Topology(
        name="two_hosts",
        why="tests",
        nodes=(Node(name="left"), Node(name="right")),
        routers=(
            RouterSpec(
                name="nat", nat=nat, outside="outer" if nat is not None else "", pmtu_black_hole=pmtu_black_hole
            ),
            RouterSpec(name="core"),
        ),
        links=(
            LinkSpec(name="inner", a="left", b="nat", up=up or fine, down=down or fine),
            LinkSpec(name="outer", a="nat", b="core", up=second or fine),
            LinkSpec(name="far", a="right", b="core"),
        ),
        roles={"publisher": "left", "gateway": "right"},
        picture="left - nat - core - right",
    )


class World:
    """A fabric of two hosts, driven to its end."""

    def __init__(self, topology: Topology, *, seed: int = 1) -> None:
        self.fabric = Fabric(topology, seed=seed)
        self.left = self.fabric.ports["left/eth0"]
        self.right = self.fabric.ports["right/eth0"]
        self.left_address = str(self.left.spec.ipv4.ip)
        self.right_address = str(self.right.spec.ipv4.ip)
        self.now = 0

    def send(self, port: Port, raw: bytes, now: int | None = None) -> Packet:
        """The node at ``port`` sends."""
        self.now = self.now if now is None else now
        packet = self.fabric.parse(raw)
        port.offer(packet, self.now)
        return packet

    def settle(self) -> list[tuple[Port, bytes]]:
        """Run until nothing is on its way; what arrived where."""
        arrived: list[tuple[Port, bytes]] = []
        for _ in range(1_000_000):
            due = self.fabric.next_deadline()
            if due is None:
                return arrived
            self.now = max(self.now, due)
            arrived += [(port, bytes(packet.to_bytes())) for port, packet in self.fabric.advance(due)]
        raise AssertionError("the network never comes to rest")

    def there(self, raw: bytes) -> bytes:
        """What comes out at the right when the left sends; exactly one packet."""
        self.send(self.left, raw)
        [(port, out)] = self.settle()
        assert port is self.right
        return out

    def back(self, raw: bytes) -> bytes:
        """What comes out at the left when the right sends; exactly one packet."""
        self.send(self.right, raw)
        [(port, out)] = self.settle()
        assert port is self.left
        return out

    def drops(self) -> dict[str, int]:
        """Reason → packets since the last count."""
        found: dict[str, int] = {}
        for count in self.fabric.drain_counts(self.now):
            for reason, packets in count.dropped_because.items():
                found[reason] = found.get(reason, 0) + packets
        return found


class Line:
    """One direction by itself, with what comes out of it and what it drops."""

    def __init__(self, impairments: Impairments, *, seed: int = 1, name: str = "line") -> None:
        self.agenda = Agenda()
        self.dropped: list[tuple[Packet, str]] = []
        self.arrived: list[tuple[int, Packet]] = []
        self.refused: list[Packet] = []
        self.direction = Direction(
            name,
            "up",
            impairments,
            seed=seed,
            agenda=self.agenda,
            drop=lambda p, _w, why, _n: self.dropped.append((p, why)),
        )
        self.direction.attach(end=self, refuse=self)
        self._parser = PacketParser(FlowTable())
        self.sent: list[Packet] = []

    def receive(self, packet: Packet, now: int) -> None:
        """The direction's end."""
        self.arrived.append((now, packet))

    def too_big(self, packet: Packet, direction: Direction, now: int) -> None:
        """The direction's refusal."""
        self.refused.append(packet)

    def send(self, size: int, now: int) -> Packet:
        """A UDP packet of ``size`` bytes in all (at least 28)."""
        packet = self._parser.parse(_udp_of(size))
        self.sent.append(packet)
        self.direction.offer(packet, now)
        return packet

    def run(self, until: int | None = None) -> None:
        """Deliver everything due by ``until``."""
        heap = self.agenda.heap
        while heap and (until is None or heap[0][0] <= until):
            due, _, target, packet = heappop(heap)
            if packet is not None:
                target.receive(packet, due)
                continue
            packet = target.queue.popleft()[1]
            if target.queue:
                self.agenda.add(target.queue[0][0], target, None)
            target.deliver(packet, due)

    def fates(self) -> list[str]:
        """For each packet sent: dropped why, or arrived when (duplicates joined), as text."""
        why = {id(packet): reason for packet, reason in self.dropped}
        when: dict[int, list[str]] = {}
        for due, packet in self.arrived:
            when.setdefault(id(packet), []).append(str(due))
        return [why.get(id(packet), "+".join(when.get(id(packet), []))) for packet in self.sent]


_TEMPLATES: dict[int, bytes] = {}


def _udp_of(size: int) -> bytes:
    if size not in _TEMPLATES:
        _TEMPLATES[size] = udp("192.0.2.1", "192.0.2.2", 4000, 5000, size - 28)
    return _TEMPLATES[size]
