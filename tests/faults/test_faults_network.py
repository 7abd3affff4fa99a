"""Network faults on the hotspot: what they break, what they leave alone, and that leaving heals."""

from __future__ import annotations

import pytest
from faults_kit import GATEWAY, MS, PHONE, SECOND, Stream
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from harness.faults import BlackHole, ChangeLink, FaultError, LinkFlap, NatRebind, NatStateLost, NetworkFault, TcpReset
from harness.network.presets import CGNAT


def test_a_black_hole_stops_both_directions_until_it_is_left() -> None:
    stream = Stream()
    stream.run(SECOND)
    entered = stream.now
    active = BlackHole(link="backhaul").enter(stream.fabric, stream.now)
    stream.run(4 * SECOND)
    receipt = active.leave(stream.fabric, stream.now)
    stream.run(SECOND)
    assert 3900 * MS < stream.longest_gap(entered) < 4050 * MS
    assert 3900 * MS < stream.longest_gap(entered, at_phone=True) < 4100 * MS
    assert receipt.touched == stream.drops()["black_hole"]
    assert receipt.detail["dropped"]["backhaul up"] >= 399
    assert active.leave(stream.fabric, stream.now) == receipt, "leaving twice is the same as leaving once"
    assert stream.fabric.links["backhaul"].up.rules == []


@pytest.mark.parametrize(("direction", "there", "back"), [("up", False, True), ("down", True, False)])
def test_a_one_way_black_hole_lets_the_other_way_pass(direction: str, there: bool, back: bool) -> None:
    stream = Stream()
    stream.run(SECOND)
    outside = stream.at_gateway[-1][1]
    stream.settle()
    stream.at_gateway.clear()
    stream.at_phone.clear()
    BlackHole(link="backhaul", direction=direction).enter(stream.fabric, stream.now)  # type: ignore[arg-type]
    stream.offer(stream.phone, IP(src=PHONE, dst=GATEWAY) / TCP(sport=40000, dport=1935))
    stream.offer(stream.gateway, IP(src=GATEWAY, dst=outside.src) / TCP(sport=1935, dport=outside[TCP].sport))
    stream.settle()
    assert (bool(stream.at_gateway), bool(stream.at_phone)) == (there, back)


@pytest.mark.parametrize(
    ("fault", "udp", "dport", "passes"),
    [
        (BlackHole(link="backhaul", proto="tcp"), False, 1935, False),
        (BlackHole(link="backhaul", proto="tcp"), True, 1935, True),
        (BlackHole(link="backhaul", proto="udp"), True, 1935, False),
        (BlackHole(link="backhaul", proto="udp"), False, 1935, True),
        (BlackHole(link="backhaul", port=1935), False, 1935, False),
        (BlackHole(link="backhaul", port=1935), False, 1936, True),
        (BlackHole(link="backhaul", direction="down", port=1935), False, 1935, True),
        (BlackHole(link="gateway_link", direction="down", port=1935), False, 1935, False),
    ],
)
def test_a_black_hole_takes_what_it_names_and_nothing_else(
    fault: BlackHole, udp: bool, dport: int, passes: bool
) -> None:
    stream = Stream()
    active = fault.enter(stream.fabric, 0)
    stream.run(SECOND, udp=udp, dport=dport)
    stream.settle()
    assert bool(stream.at_gateway) is passes
    touched = active.leave(stream.fabric, stream.now).touched
    assert touched == stream.drops().get("black_hole", 0)


@pytest.mark.parametrize("link", ["", "gateway_link", "wifi", "backhaul"])
def test_only_the_existing_connection_is_black_holed_and_new_ones_pass(link: str) -> None:
    """On either side of the NAT, and in both directions."""
    stream = Stream()
    stream.run(SECOND, sport=40000)
    stream.settle()
    start = stream.now
    active = BlackHole(link=link, flow="publisher.rtmp").enter(stream.fabric, start)
    stream.run(SECOND, sport=40000)
    stream.run(SECOND, sport=40001)
    stream.settle()
    fresh = {packet[TCP].dport for when, packet in stream.at_phone if when > start}
    assert fresh == {40001}
    receipt = active.leave(stream.fabric, stream.now)
    assert receipt.touched >= 100
    assert any(name.startswith("phone:40000>gateway:1935") for name in receipt.detail["flow"])
    assert any(name.startswith("gateway:1935>hotspot:") for name in receipt.detail["flow"])
    stream.run(SECOND, sport=40000)
    assert stream.at_phone[-1][1][TCP].dport == 40000


@pytest.mark.parametrize("fault", [BlackHole(flow="publisher.rtmp"), TcpReset(flow="publisher.rtmp")])
def test_a_fault_of_a_flow_that_does_not_exist_touches_nothing_and_says_so(fault: NetworkFault) -> None:
    stream = Stream()
    active = fault.enter(stream.fabric, 0)
    stream.run(SECOND)
    stream.settle()
    receipt = active.leave(stream.fabric, stream.now)
    assert (receipt.touched, receipt.detail["flow"]) == (0, [])
    assert stream.at_gateway


def test_a_fault_with_a_wrong_name_is_refused_on_entering() -> None:
    with pytest.raises(FaultError, match="did you mean 'backhaul'"):
        BlackHole(link="backhual").enter(Stream().fabric, 0)


def test_overlapping_black_holes_each_take_back_only_their_own() -> None:
    stream = Stream()
    first = BlackHole(link="backhaul").enter(stream.fabric, 0)
    second = BlackHole(link="backhaul").enter(stream.fabric, 0)
    stream.run(SECOND)
    of_first = first.leave(stream.fabric, stream.now).touched
    stream.run(SECOND)
    assert stream.at_gateway == []
    of_second = second.leave(stream.fabric, stream.now).touched
    assert min(of_first, of_second) > 90
    assert of_first + of_second == stream.drops()["black_hole"]
    stream.run(SECOND)
    assert stream.at_gateway


def test_a_flap_is_dead_in_its_windows_and_alive_between_them() -> None:
    stream = Stream()
    stream.run(SECOND)
    stream.settle()
    start = stream.now
    active = LinkFlap(link="gateway_link", direction="down", off_ns=300 * MS, on_ns=200 * MS).enter(
        stream.fabric, start
    )
    stream.run(2 * SECOND)
    receipt = active.leave(stream.fabric, stream.now)
    assert receipt.detail["outages"] == 4
    assert receipt.detail["windows_ns"] == [[n * 500 * MS, n * 500 * MS + 300 * MS] for n in range(4)]
    assert receipt.touched == stream.drops()["link_flap"]
    gone = [when - start for when, _ in stream.at_gateway if when > start]
    assert all(offset % (500 * MS) >= 300 * MS or offset % (500 * MS) < 3 * MS for offset in gone)
    assert len(gone) > 70
    before = len(stream.at_gateway)
    stream.run(SECOND)
    assert len(stream.at_gateway) - before >= 95


def test_a_changed_link_is_slower_and_then_as_before() -> None:
    def transits(*, broken: bool) -> list[int]:
        stream = Stream()
        stream.run(SECOND)
        stream.settle()
        if broken:
            active = ChangeLink(link="backhaul", delay_ns=300 * MS, loss_share=0.3).enter(stream.fabric, stream.now)
            stream.run(SECOND)
            stream.settle()
            receipt = active.leave(stream.fabric, stream.now)
            assert receipt.touched > 150
            assert 0 < stream.drops()["loss"] < 150
            assert stream.at_gateway[-1][0] - stream.now > -400 * MS
        else:
            stream.run(SECOND)
            stream.settle()
        stream.now = 10 * SECOND
        stream.at_gateway.clear()
        stream.run(SECOND)
        return [when for when, _ in stream.at_gateway]

    healed, never = transits(broken=True), transits(broken=False)
    # the delay (25 ms, with its jitter) is back; ordinals differ by what the loss took from the hotspot's answers
    assert len(healed) == len(never)
    assert max(abs(a - b) for a, b in zip(healed, never, strict=True)) < 30 * MS


def test_overlapping_changes_of_one_link_nest() -> None:
    stream = Stream()
    up = stream.fabric.links["backhaul"].up
    before = up.impairments
    slow = ChangeLink(link="backhaul", delay_ns=500 * MS).enter(stream.fabric, 0)
    lossy = ChangeLink(link="backhaul", loss_share=0.5, direction="up").enter(stream.fabric, 0)
    slow.leave(stream.fabric, 0)
    assert (up.impairments.delay, up.impairments.loss is None) == (before.delay, False)
    lossy.leave(stream.fabric, 0)
    assert up.impairments == before


def test_exactly_the_listed_packets_are_lost_counted_from_entering() -> None:
    stream = Stream()
    stream.run(SECOND)
    stream.settle()
    stream.drops()
    ChangeLink(link="wifi", direction="up", lose_packets=(0, 2)).enter(stream.fabric, stream.now)
    start = len(stream.at_gateway)
    for number in range(4):
        packet = IP(src=PHONE, dst=GATEWAY) / UDP(sport=1, dport=2) / Raw(bytes([number]))
        stream.offer(stream.phone, packet)
    stream.settle()
    assert [bytes(packet[UDP].payload) for _, packet in stream.at_gateway[start:]] == [b"\x01", b"\x03"]


def test_lost_nat_state_makes_a_stranger_of_the_connection() -> None:
    stream = Stream()
    stream.run(SECOND)
    port = stream.at_gateway[-1][1][TCP].sport
    active = NatStateLost(router="hotspot").enter(stream.fabric, stream.now)
    stream.run(SECOND)
    receipt = active.leave(stream.fabric, stream.now)
    assert (receipt.touched, receipt.detail) == (1, {"mappings": 1})
    assert stream.at_gateway[-1][1][TCP].sport != port
    assert stream.drops()["nat_no_mapping"] > 0


def test_lost_nat_state_without_mappings_touches_nothing() -> None:
    stream = Stream()
    assert NatStateLost(router="hotspot").enter(stream.fabric, 0).leave(stream.fabric, 0).touched == 0


@pytest.mark.parametrize("address", [None, "198.18.1.77"])
def test_a_rebound_nat_speaks_from_another_address(address: str | None) -> None:
    stream = Stream()
    stream.run(SECOND)
    receipt = (
        NatRebind(router="hotspot", address=address).enter(stream.fabric, stream.now).leave(stream.fabric, stream.now)
    )
    stream.run(SECOND)
    assert stream.at_gateway[-1][1].src == (address or "198.18.1.3")
    assert receipt.detail == {"mappings": 1, "old_address": "198.18.1.2", "address": address or "198.18.1.3"}
    assert stream.at_phone[-1][0] > stream.now - 100 * MS, "answers to the new address come back"


def test_a_hotspot_behind_a_carrier_can_be_rebound_too() -> None:
    stream = Stream(CGNAT)
    assert stream.fabric.ports["gateway/eth0"].spec.ipv4.ip.exploded == "198.18.3.2"
    receipt = NatRebind(router="hotspot").enter(stream.fabric, 0).leave(stream.fabric, 0)
    assert receipt.detail["address"] == "192.168.44.3"


class Handshake:
    """A TCP connection through the hotspot with known sequence numbers."""

    def __init__(self) -> None:
        self.stream = Stream()
        s = self.stream
        self.tcp("phone", "S", seq=1000)
        self.outside = s.at_gateway[-1][1]
        self.tcp("gateway", "SA", seq=5000, ack=1001)
        self.tcp("phone", "A", seq=1001, ack=5001)
        self.tcp("phone", "PA", seq=1001, ack=5001, size=200)
        self.tcp("gateway", "PA", seq=5001, ack=1201, size=50)
        s.at_gateway.clear()
        s.at_phone.clear()

    def tcp(self, side: str, flags: str, *, seq: int, ack: int = 0, size: int = 0) -> None:
        s = self.stream
        s.now += MS
        if side == "phone":
            ip, segment = IP(src=PHONE, dst=GATEWAY), TCP(sport=40000, dport=1935, flags=flags, seq=seq, ack=ack)
        else:
            ip = IP(src=GATEWAY, dst=self.outside.src)
            segment = TCP(sport=1935, dport=self.outside[TCP].sport, flags=flags, seq=seq, ack=ack)
        s.offer(s.phone if side == "phone" else s.gateway, ip / segment / Raw(b"d" * size))
        s.settle()

    def resets(self) -> tuple[list[int], list[int]]:
        """Sequence numbers of the RSTs at phone and gateway."""
        self.stream.settle()
        found = [
            [packet[TCP].seq for _, packet in arrived if packet[TCP].flags.R]
            for arrived in (self.stream.at_phone, self.stream.at_gateway)
        ]
        return found[0], found[1]


@pytest.mark.parametrize(("side", "phone", "gateway"), [("both", 1, 1), ("client", 1, 0), ("server", 0, 1)])
def test_a_reset_has_the_number_that_each_end_expects_next(side: str, phone: int, gateway: int) -> None:
    h = Handshake()
    active = TcpReset(flow="publisher.rtmp", side=side).enter(h.stream.fabric, h.stream.now)  # type: ignore[arg-type]
    at_phone, at_gateway = h.resets()
    # the phone last acknowledged 5001 and has been given 50 bytes more: both numbers are tried, 5051 is the right one
    assert at_phone == [5001, 5051] * phone
    assert at_gateway == [1201] * gateway
    receipt = active.leave(h.stream.fabric, h.stream.now)
    assert receipt.touched == phone + gateway
    assert len(receipt.detail["sent_to"]) == phone + gateway


def test_resets_carry_the_addresses_that_each_end_knows() -> None:
    h = Handshake()
    TcpReset(flow="publisher.rtmp").enter(h.stream.fabric, h.stream.now)
    h.resets()
    to_phone, to_gateway = h.stream.at_phone[0][1], h.stream.at_gateway[0][1]
    assert (to_phone.src, to_phone.dst, to_phone[TCP].dport) == (GATEWAY, PHONE, 40000)
    assert (to_gateway.src, to_gateway[TCP].sport) == (h.outside.src, h.outside[TCP].sport)
    for packet in (to_phone, to_gateway):
        again = packet.copy()
        del again[IP].chksum, again[TCP].chksum
        assert bytes(again) == bytes(packet)


def test_a_challenged_reset_is_followed_by_one_that_fits_until_the_fault_is_left() -> None:
    """RFC 5961: an end that expected another number answers with an ACK that says which."""
    h = Handshake()
    active = TcpReset(flow="publisher.rtmp", side="client").enter(h.stream.fabric, h.stream.now)
    h.resets()
    h.tcp("phone", "A", seq=1201, ack=5777)
    assert h.resets()[0][-1] == 5777
    active.leave(h.stream.fabric, h.stream.now)
    before = len(h.resets()[0])
    h.tcp("phone", "A", seq=1201, ack=5888)
    assert len(h.resets()[0]) == before


def test_leaving_any_fault_leaves_no_trace_on_the_network() -> None:
    faults: list[NetworkFault] = [
        BlackHole(link="wifi"),
        BlackHole(flow="publisher.rtmp"),
        LinkFlap(link="wifi", off_ns=SECOND, on_ns=SECOND),
        ChangeLink(link="wifi", delay_ns=MS, rate_bps=1_000_000, queue_bytes=9_000, mtu=1400),
        TcpReset(flow="publisher.rtmp"),
        NatStateLost(router="hotspot"),
    ]
    for fault in faults:
        stream = Stream()
        stream.run(SECOND)
        links = stream.fabric.links.values()
        before = [(d.impairments, list(d.rules)) for link in links for d in (link.up, link.down)]
        fault.enter(stream.fabric, stream.now).leave(stream.fabric, stream.now)
        assert [(d.impairments, list(d.rules)) for link in links for d in (link.up, link.down)] == before, fault
