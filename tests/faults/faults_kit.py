"""What the tests of the faults share: the hotspot with a stream on it that needs no kernel."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from harness.network.fabric import Fabric, Port
from harness.network.presets import HOTSPOT
from harness.network.topology import Topology

MS = 1_000_000
SECOND = 1_000_000_000
PHONE = "192.168.43.2"
GATEWAY = "198.18.2.2"


class Stream:
    """A phone that sends one packet every 10 ms over the hotspot, and a gateway that answers each."""

    def __init__(self, topology: Topology = HOTSPOT, *, seed: int = 1, sport: int = 40000) -> None:
        self.fabric = Fabric(topology, seed=seed)
        self.phone = self.fabric.ports["phone/wlan0"]
        self.gateway = self.fabric.ports["gateway/eth0"]
        self.now = 0
        self.at_gateway: list[tuple[int, Any]] = []
        self.at_phone: list[tuple[int, Any]] = []
        self.gateway.sink = lambda packet, now: self.at_gateway.append((now, IP(bytes(packet.to_bytes()))))
        self.phone.sink = lambda packet, now: self.at_phone.append((now, IP(bytes(packet.to_bytes()))))

    def offer(self, port: Port, packet: Any) -> None:
        """A scapy packet enters at a port."""
        port.offer(self.fabric.parse(bytes(packet)), self.now)

    def run(self, duration: int, *, sport: int = 40000, udp: bool = False, dport: int = 1935) -> None:
        """Send and answer for ``duration`` ns."""
        end = self.now + duration
        layer = UDP if udp else TCP
        while self.now < end:
            self.fabric.advance(self.now)
            self.offer(self.phone, IP(src=PHONE, dst=GATEWAY) / layer(sport=sport, dport=dport) / Raw(b"x" * 100))
            self.answer()
            self.now += 10 * MS

    def answer(self) -> None:
        """The gateway answers what has come since it last did."""
        fresh = [packet for when, packet in self.at_gateway if when > self.now - 10 * MS]
        for packet in fresh:
            layer = TCP if TCP in packet else UDP
            back = layer(sport=packet[layer].dport, dport=packet[layer].sport)
            self.offer(self.gateway, IP(src=packet.dst, dst=packet.src) / back / Raw(b"y" * 50))

    def settle(self) -> None:
        """Let everything arrive."""
        for _ in range(100_000):
            due = self.fabric.next_deadline()
            if due is None:
                return
            self.now = max(self.now, due)
            self.fabric.advance(due)
        raise AssertionError("the network never comes to rest")

    def drops(self) -> dict[str, int]:
        """Reason → packets since the last count."""
        found: dict[str, int] = {}
        for count in self.fabric.drain_counts(self.now):
            for reason, packets in count.dropped_because.items():
                found[reason] = found.get(reason, 0) + packets
        return found

    def longest_gap(self, start: int, *, at_phone: bool = False) -> int:
        """Longest time without an arrival since ``start``, the time until now included."""
        times = [when for when, _ in (self.at_phone if at_phone else self.at_gateway) if when >= start]
        return max(b - a for a, b in zip([start, *times], [*times, self.now], strict=True))
