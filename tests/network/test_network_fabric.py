"""The fabric as a whole: nothing is lost without a reason, and the same calls give the same fates."""

from __future__ import annotations

import json
from dataclasses import asdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_kit import MS, SECOND, World, judged, ping, tcp, two_hosts, udp
from scapy.layers.inet import IP, TCP

from harness.network.fabric import Fabric, Port, split_flow_name
from harness.network.impairments import Impairments
from harness.network.loss import BernoulliLoss
from harness.network.nat_settings import NatSettings
from harness.network.packet import Packet
from harness.network.presets import CATALOGUE, HOTSPOT, PRESETS

ROUGH = Impairments(
    delay=5 * MS,
    jitter=3 * MS,
    rate=3_000_000,
    queue_bytes=6_000,
    loss=BernoulliLoss(0.1),
    duplicate=0.1,
    reorder=0.1,
    corrupt=0.05,
    mtu=1200,
)
kinds = st.sampled_from(["tcp", "udp", "big", "ping", "ttl", "multicast", "nowhere", "router", "six", "back", "noise"])
traffic = st.lists(st.tuples(kinds, st.integers(0, 4 * MS)), max_size=50)


def packet_of(kind: str, w: World) -> tuple[Port, bytes]:
    left, right = w.left_address, w.right_address
    raw = {
        "tcp": lambda: tcp(left, right, 4000, 1935, size=300),
        "udp": lambda: udp(left, right, 4000, 5000, size=300),
        "big": lambda: bytes(IP(src=left, dst=right, id=7) / TCP(sport=1, dport=2) / (b"b" * 1400)),
        "ping": lambda: ping(left, right),
        "ttl": lambda: bytes(IP(src=left, dst=right, ttl=2) / TCP(sport=1, dport=2)),
        "multicast": lambda: udp(left, "224.0.0.251", 5353, 5353),
        "nowhere": lambda: udp(left, "203.0.113.1", 1, 2),
        "router": lambda: ping(left, "198.18.1.1"),
        "six": lambda: tcp("2001:db8::2", "2001:db8:0:2::2", 4000, 1935, size=1300),
        "back": lambda: udp(right, "198.18.1.2", 5000, 4000),
        "noise": lambda: bytes(IP(src=left, dst=right, proto=132) / (b"n" * 50)),
    }[kind]()
    return (w.right if kind == "back" else w.left), raw


def play(w: World, script: list[tuple[str, int]]) -> list[tuple[str, str, str, int]]:
    """Send the script's packets; every fate that the taps saw."""
    fates: list[tuple[str, str, str, int]] = []
    w.fabric.taps.append(lambda p, where, fate, now: fates.append((bytes(p.to_bytes()).hex(), where, fate, now)))
    for kind, pause in script:
        w.now += pause
        w.fabric.advance(w.now)
        w.send(*packet_of(kind, w))
    return fates


@settings(max_examples=60)
@given(traffic, st.sampled_from([None, NatSettings()]))
def test_every_packet_is_delivered_on_its_way_or_dropped_with_a_reason(
    script: list[tuple[str, int]], nat: NatSettings | None
) -> None:
    w = World(two_hosts(ROUGH, nat=nat, down=ROUGH, second=ROUGH))
    fates = play(w, script)
    fabric = w.fabric
    assert fabric.offered == len(script)
    assert fabric.offered + fabric.made == fabric.delivered + fabric.dropped + fabric.in_flight
    w.settle()
    assert fabric.in_flight == 0
    assert fabric.offered + fabric.made == fabric.delivered + fabric.dropped
    counts = fabric.drain_counts(w.now)
    assert sum(count.packets for count in counts) == fabric.delivered
    assert sum(count.dropped for count in counts) == fabric.dropped
    assert all(count.dropped == sum(count.dropped_because.values()) for count in counts)
    assert sum(fate == "delivered" for _, _, fate, _ in fates) == fabric.delivered
    assert sum(fate.startswith("dropped: ") for _, _, fate, _ in fates) == fabric.dropped
    assert fabric.drain_counts(w.now) == []


@settings(max_examples=30)
@given(traffic, st.integers(0, 5))
def test_the_same_seed_and_calls_give_the_same_fates(script: list[tuple[str, int]], seed: int) -> None:
    histories = []
    for _ in range(2):
        w = World(two_hosts(ROUGH, nat=NatSettings(), second=ROUGH), seed=seed)
        fates = play(w, script)
        w.settle()
        histories.append(fates)
    assert histories[0] == histories[1]


def test_every_packet_on_the_hotspot_path_arrives_with_right_checksums() -> None:
    fabric = Fabric(HOTSPOT, seed=3)
    phone, gateway = fabric.ports["phone/wlan0"], fabric.ports["gateway/eth0"]
    rng = Random(1)
    sent, now = 0, 0
    for number in range(300):
        now += 4 * MS
        make = tcp if number % 2 else udp
        size = rng.randrange(1400)
        phone.offer(fabric.parse(make("192.168.43.2", "198.18.2.2", 4000 + number % 3, 1935, size=size)), now)
        sent += 1
    arrived = fabric.advance(now + SECOND)
    assert [port for port, _ in arrived] == [gateway] * sent
    for _, packet in arrived:
        judged(packet.to_bytes())


def test_a_sink_gets_packets_at_their_due_time_instead_of_the_list() -> None:
    w = World(two_hosts(Impairments(delay=7 * MS)))
    got: list[tuple[Packet, int]] = []
    w.right.sink = lambda packet, due: got.append((packet, due))
    w.send(w.left, udp(w.left_address, w.right_address, 1, 2))
    assert w.fabric.advance(SECOND) == []
    assert [due for _, due in got] == [7 * MS]


def test_being_late_does_not_add_up_over_hops() -> None:
    w = World(two_hosts(Impairments(delay=10 * MS), second=Impairments(delay=10 * MS)))
    w.send(w.left, udp(w.left_address, w.right_address, 1, 2))
    due: list[int] = []
    w.right.sink = lambda packet, when: due.append(when)
    w.fabric.advance(500 * MS)
    assert due == [20 * MS]
    assert w.fabric.next_deadline() is None


def test_flows_are_counted_at_the_receiver_in_the_senders_addresses() -> None:
    w = World(two_hosts(nat=NatSettings(), second=Impairments(rate=8_000_000, queue_bytes=1_000)))
    for _ in range(3):
        w.send(w.left, tcp(w.left_address, w.right_address, 40000, 1935, size=560))
    w.settle()
    [count] = w.fabric.drain_counts(w.now)
    assert asdict(count) == {
        "flow": "left:40000>right:1935/tcp",
        "packets": 1,
        "bytes": 600,
        "dropped": 2,
        "dropped_because": {"queue_full": 2},
    }


def test_a_flow_name_is_resolved_to_the_live_connection_with_the_latest_traffic() -> None:
    w = World(two_hosts(nat=NatSettings()))
    fabric = w.fabric
    assert fabric.resolve("publisher.rtmp") is None

    def connect(sport: int, *, answered: bool) -> object:
        w.now += MS
        seen = IP(w.there(tcp(w.left_address, w.right_address, sport, 1935, "S")))
        if answered:
            w.back(tcp(w.right_address, seen.src, 1935, seen[TCP].sport, "SA"))
        return fabric.parse(tcp(w.left_address, w.right_address, sport, 1935)).flow.connection

    first = connect(4000, answered=True)
    assert fabric.resolve("publisher.rtmp") is first
    connect(4001, answered=False)
    assert fabric.resolve("publisher.rtmp") is first, "an attempt that nobody answers is not live"
    third = connect(4002, answered=True)
    assert fabric.resolve("left:1935") is third
    w.now += MS
    w.there(tcp(w.left_address, w.right_address, 4000, 1935))
    assert fabric.resolve("publisher.rtmp") is first
    w.there(tcp(w.left_address, w.right_address, 4000, 1935, "FA"))
    assert fabric.resolve("publisher.rtmp") is third, "a closed connection is not live"
    assert fabric.resolve_flow("left", 1936) is None
    assert fabric.resolve("gateway.rtmp") is third, "the other end's name means the same connection"


@pytest.mark.parametrize(
    ("name", "message"),
    [("publisher", "publisher.rtmp"), ("publisher.rtpm", "did you mean 'rtmp'"), ("a:99999", "65535")],
)
def test_a_wrong_flow_name_is_refused_with_an_example(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_flow_name(name)


def test_an_injected_packet_comes_out_and_is_told_as_such() -> None:
    w = World(two_hosts())
    seen: list[str] = []
    w.fabric.taps.append(lambda packet, where, fate, now: seen.append(f"{where} {fate}"))
    raw = tcp(w.left_address, w.right_address, 1, 2, "R")
    w.fabric.inject(raw, w.right, 5)
    assert w.fabric.next_deadline() == 5
    assert w.settle() == [(w.right, raw)]
    assert seen == ["right/eth0 injected", "right/eth0 delivered"]


@pytest.mark.parametrize("topology", PRESETS.values(), ids=list(PRESETS))
@pytest.mark.parametrize("version", [4, 6])
def test_every_preset_connects_everyone_with_everyone(topology: object, version: int) -> None:
    fabric = Fabric(topology, seed=1)  # type: ignore[arg-type]
    address = {key: str((port.spec.ipv4 if version == 4 else port.spec.ipv6).ip) for key, port in fabric.ports.items()}
    private = {port.key for port in fabric.ports.values() if version == 4 and port.spec.ipv4.ip.packed[0] == 192}
    now = 0
    for src in fabric.ports.values():
        for dst in fabric.ports.values():
            if src.node == dst.node or dst.key in private:
                continue
            now += 10 * SECOND
            src.offer(fabric.parse(udp(address[src.key], address[dst.key], 1000, 2000)), now)
            [(arrived, packet)] = fabric.advance(now + 5 * SECOND)
            assert arrived is dst
            request = judged(packet.to_bytes())
            dst.offer(fabric.parse(udp(address[dst.key], request.src, 2000, request.payload.sport)), now + 5 * SECOND)
            [(back, _)] = fabric.advance(now + 10 * SECOND)
            assert back is src


def test_an_uplink_of_every_preset_carries_a_live_stream_with_room_to_catch_up() -> None:
    for topology in {id(t): t for t in [*PRESETS.values(), *CATALOGUE.values()]}.values():
        for link in topology.links:
            assert link.up.rate is None or link.up.rate >= 2 * 2_500_000
            assert link.profile


def test_a_fabric_can_be_described_in_json() -> None:
    for topology in PRESETS.values():
        for link in topology.links:
            text = json.dumps([link.up.to_json(), link.down.to_json()])
            assert Impairments.from_json(json.loads(text)[0]) == link.up
