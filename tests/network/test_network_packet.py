"""Bytes to packets and back; scapy judges every byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_kit import judged, ping, tcp, udp
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment, in4_chksum
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Raw

from harness.network import segments
from harness.network.checksum import checksum, corrected, word_sum
from harness.network.flow import FlowTable
from harness.network.packet import ACK, SYN, MalformedPacketError, Packet, PacketParser

ports = st.integers(0, 65535)
v4 = st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
v6 = st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))


def packet_from_ip(raw: bytes) -> Packet:
    """With flows of its own."""
    return PacketParser(FlowTable()).parse(raw)


@given(st.binary(min_size=2, max_size=60), st.binary(min_size=2, max_size=2), st.integers(0, 28))
def test_a_corrected_checksum_is_the_one_computed_anew(data: bytes, new: bytes, place: int) -> None:
    data = data + b"\x01" * (len(data) % 2) + b"\x01\x01"
    place = min(place * 2, len(data) - 2)
    changed = data[:place] + new + data[place + 2 :]
    delta = word_sum(new) - word_sum(data[place : place + 2])
    assert corrected(checksum(data), delta) == checksum(changed)


@given(st.binary(max_size=80))
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    data += b"\x00" * (len(data) % 2)
    assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@given(st.data(), st.integers(0, 70), st.integers(1, 254))
def test_any_translation_leaves_right_checksums(kind: str, data: st.DataObject, size: int, ttl: int) -> None:
    address = data.draw(st.sampled_from([v4, v6]))
    make = tcp if kind == "tcp" else udp
    src, dst = data.draw(address), data.draw(address)
    raw = make(src, dst, data.draw(ports), data.draw(ports), size=size)
    flows = FlowTable()
    packet = PacketParser(flows).parse(raw)
    new_src, new_dst = ip_address(data.draw(address)).packed, ip_address(data.draw(address)).packed
    new_ends = (new_src, data.draw(ports), new_dst, data.draw(ports))
    packet.flow = flows.flow(packet.flow.proto, *new_ends)
    packet.ttl = ttl
    out = judged(packet.to_bytes())
    layer = out[TCP if kind == "tcp" else UDP]
    assert (ip_address(out.src).packed, layer.sport, ip_address(out.dst).packed, layer.dport) == new_ends
    assert bytes(layer.payload) == b"\xa5" * size
    assert ttl in (getattr(out, "ttl", None), getattr(out, "hlim", None))


@pytest.mark.parametrize("place", [1, 11, 25, 37, 45])
def test_the_judge_notices_a_damaged_packet(place: int) -> None:
    raw = bytearray(tcp("192.0.2.1", "192.0.2.2", 4000, 1935, size=20))
    judged(raw)
    raw[place] ^= 4
    with pytest.raises(AssertionError):
        judged(raw)


def test_a_packet_that_nothing_happened_to_is_the_same_bytes() -> None:
    raw = tcp("192.0.2.1", "192.0.2.2", 1, 2, size=10)
    assert packet_from_ip(raw).to_bytes() is raw


def test_flows_are_interned_and_know_their_opposite() -> None:
    parser = PacketParser(FlowTable())
    there = parser.parse(tcp("192.0.2.1", "192.0.2.2", 4000, 1935)).flow
    again = parser.parse(tcp("192.0.2.1", "192.0.2.2", 4000, 1935, size=900)).flow
    back = parser.parse(tcp("192.0.2.2", "192.0.2.1", 1935, 4000)).flow
    other = parser.parse(tcp("192.0.2.1", "192.0.2.2", 4001, 1935)).flow
    assert there is again
    assert there.reverse is back and back.reverse is there
    assert there.connection is back.connection
    assert other.connection is not there.connection
    assert str(there) == "192.0.2.1:4000>192.0.2.2:1935/tcp"


@pytest.mark.parametrize(("src", "dst"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_tcp_headers_tell_sequence_numbers_and_flags(src: str, dst: str) -> None:
    parser = PacketParser(FlowTable())
    raw = tcp(src, dst, 4000, 1935, "SA", seq=0xFFFFFFFF, ack=77, options=[("MSS", 1400)])
    for _ in range(2):  # the second time through the flow cache
        packet = parser.parse(raw)
        header = packet.tcp()
        assert header is not None
        assert (header.seq, header.ack, header.flags, header.payload) == (0xFFFFFFFF, 77, SYN | ACK, 0)
        assert header.end == 0
        assert packet.flags == SYN | ACK
    assert parser.parse(udp(src, dst, 4000, 1935)).tcp() is None


def test_ethernet_padding_is_cut_off() -> None:
    raw = udp("192.0.2.1", "192.0.2.2", 1, 2, size=3)
    packet = packet_from_ip(raw + b"\x00" * (46 - len(raw)))
    assert packet.length == len(raw)
    assert packet.to_bytes() == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x45" + b"\x00" * 10,
        b"\x45" + b"\x00" * 30,
        b"\x55" * 40,
        b"\x60" + b"\x00" * 20,
        udp("192.0.2.1", "192.0.2.2", 1, 2, size=100)[:60],
        b"\x41" + udp("192.0.2.1", "192.0.2.2", 1, 2)[1:],
    ],
)
def test_what_is_no_packet_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedPacketError):
        packet_from_ip(raw)


@given(st.binary(max_size=120))
def test_no_bytes_make_the_parser_fail_in_any_other_way(noise: bytes) -> None:
    for first in (b"", b"\x45", b"\x46", b"\x60"):
        try:
            packet = packet_from_ip(first + noise)
        except MalformedPacketError:
            continue
        assert len(packet.to_bytes()) == packet.length


def test_a_udp_packet_without_checksum_stays_without() -> None:
    raw = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2, chksum=0) / Raw(b"x" * 40))
    flows = FlowTable()
    packet = PacketParser(flows).parse(raw)
    packet.flow = flows.flow(17, bytes([9, 9, 9, 9]), 8, packet.flow.dst, 2)
    assert IP(bytes(packet.to_bytes()))[UDP].chksum == 0


def test_a_udp_checksum_that_becomes_zero_is_written_as_all_ones() -> None:
    flows = FlowTable()
    parser = PacketParser(flows)
    packet = parser.parse(udp("192.0.2.1", "192.0.2.2", 4000, 5000, size=30))
    for port in range(65536):  # one of the ports makes the sum come out at zero
        packet.flow = flows.flow(17, packet.flow.src, port, packet.flow.dst, 5000)
        out = bytes(packet.to_bytes())
        assert out[26:28] != b"\x00\x00"
        if out[26:28] == b"\xff\xff":
            segment = bytearray(out[20:])
            segment[6:8] = b"\x00\x00"
            assert in4_chksum(17, IP(out), bytes(segment)) == 0
            return
    raise AssertionError("no port gave a zero checksum")


def test_options_and_extension_headers_don_t_hide_the_ports() -> None:
    flows = FlowTable()
    parser = PacketParser(flows)
    four = bytes(
        IP(src="192.0.2.1", dst="192.0.2.2", options=[IPOption_NOP()] * 4) / TCP(sport=7, dport=8) / Raw(b"abc")
    )
    six = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt() / UDP(sport=7, dport=8) / Raw(b"abc"))
    for raw in (four, six):
        packet = parser.parse(raw)
        assert (packet.flow.sport, packet.flow.dport) == (7, 8)
        flow = packet.flow
        packet.flow = flows.flow(flow.proto, flow.src, 99, flow.dst, 8)
        packet.ttl -= 1
        out = judged(packet.to_bytes())
        assert out[TCP if raw is four else UDP].sport == 99


def cut(whole: Any) -> list[Any]:
    """Fragments of 1000 bytes, by scapy."""
    return list(fragment(whole, fragsize=1000))  # type: ignore[no-untyped-call]


def test_fragments_follow_their_first_one_and_fit_together_after_translation() -> None:
    flows = FlowTable()
    parser = PacketParser(flows)
    whole = IP(src="192.0.2.1", dst="192.0.2.2", id=77) / UDP(sport=7, dport=8) / Raw(bytes(range(256)) * 8)
    pieces = [parser.parse(bytes(piece)) for piece in cut(whole)]
    assert len(pieces) == 3
    assert len({piece.flow for piece in pieces}) == 1
    out = []
    for piece in pieces:
        assert piece.fragment
        piece.flow = flows.flow(17, bytes([9, 9, 9, 9]), 700, piece.flow.dst, 8)
        out.append(IP(bytes(piece.to_bytes())))
    payload = b"".join(bytes(piece.payload) for piece in out)
    rebuilt = bytes(IP(src="9.9.9.9", dst="192.0.2.2") / payload)
    read = IP(rebuilt[:9] + b"\x11" + rebuilt[10:])
    assert in4_chksum(17, read, payload) == 0
    assert UDP(payload).sport == 700


def test_a_later_fragment_without_its_first_has_no_ports() -> None:
    whole = IP(src="192.0.2.1", dst="192.0.2.2", id=77) / UDP(sport=7, dport=8) / Raw(b"x" * 2000)
    last = packet_from_ip(bytes(cut(whole)[-1]))
    assert (last.flow.sport, last.flow.dport) == (0, 0)
    assert last.segment_at() is None
    six = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(offset=10, nh=17, id=5) / Raw(b"y" * 50)
    assert packet_from_ip(bytes(six)).segment_at() is None


def test_our_own_packets_are_well_formed() -> None:
    four, six = (
        (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])),
        (IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8::2").packed),
    )
    for src, dst in (four, six):
        out = judged(segments.tcp_reset(src, 1935, dst, 40000, seq=5, ack=9))
        assert (out[TCP].flags, out[TCP].seq, out[TCP].ack) == ("RA", 5, 9)
    quoted = udp("192.0.2.2", "198.51.100.1", 5, 6, size=1000)
    error = judged(segments.icmp_error(*four, segments.TOO_BIG, quoted, mtu=1280))
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1280)
    assert len(bytes(error)) == 576
    quoted6 = udp("2001:db8::2", "2001:db8::9", 5, 6, size=1300)
    error6 = judged(segments.icmp_error(*six, segments.TOO_BIG, quoted6, mtu=1280))
    assert (error6.payload.type, error6.payload.mtu) == (2, 1280)
    assert len(bytes(error6)) == 1280
    reply = judged(segments.echo_reply(ping("192.0.2.1", "192.0.2.2", 9), segment=20))
    assert (reply.src, reply[ICMP].type, reply[ICMP].id) == ("192.0.2.2", 0, 9)


@given(st.integers(1, 3000), st.integers(68, 1500))
def test_fragments_that_we_cut_are_put_together_by_scapy(size: int, mtu: int) -> None:
    raw = bytes(IP(src="192.0.2.1", dst="192.0.2.2", id=3) / UDP(sport=1, dport=2) / Raw(b"\x5a" * size))
    pieces = [IP(piece) for piece in segments.fragments(raw, mtu)]
    assert all(len(bytes(piece)) <= mtu and checksum(bytes(piece)[:20]) == 0 for piece in pieces)
    assert b"".join(bytes(piece.payload) for piece in sorted(pieces, key=lambda p: p.frag)) == raw[20:]
    assert [bool(piece.flags.MF) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    ends = [piece.frag * 8 + len(bytes(piece.payload)) for piece in pieces]
    assert [piece.frag * 8 for piece in pieces] == [0, *ends[:-1]]
