"""Routers: TTL, routes, MTU, and what they tell the sender."""

from __future__ import annotations

from typing import Any

import pytest
from network_kit import World, judged, ping, tcp, two_hosts, udp
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6

from harness.network.impairments import Impairments
from harness.network.nat_settings import NatSettings

SMALL = Impairments(mtu=1280)


def answer(w: World) -> Any:
    """The one packet that came back to the left."""
    [(port, out)] = w.settle()
    assert port is w.left
    return judged(out)


@pytest.mark.parametrize("nat", [None, NatSettings()])
@pytest.mark.parametrize(("ttl", "teller"), [(1, "nat"), (2, "core")])
def test_an_expired_packet_is_told_to_its_sender(nat: NatSettings | None, ttl: int, teller: str) -> None:
    w = World(two_hosts(nat=nat))
    raw = bytes(IP(src=w.left_address, dst=w.right_address, ttl=ttl) / UDP(sport=5, dport=6))
    w.send(w.left, raw)
    told = answer(w)
    inside = "192.168.43.1" if nat is not None else "198.18.0.1"
    assert told.src == (inside if teller == "nat" else "198.18.1.1")
    assert (told[ICMP].type, told[ICMP].code) == (11, 0)
    quoted = IP(bytes(told[ICMP].payload))
    assert (quoted.src, quoted[UDP].sport) == (w.left_address, 5)
    assert w.drops() == {"ttl_exceeded": 1}


def test_the_ttl_goes_down_by_one_at_each_router() -> None:
    w = World(two_hosts())
    assert judged(w.there(udp(w.left_address, w.right_address, 5, 6))).ttl == 62


def test_too_big_with_df_is_told_with_the_mtu_of_the_next_hop() -> None:
    for nat in (None, NatSettings()):
        w = World(two_hosts(nat=nat, second=SMALL))
        w.send(w.left, tcp(w.left_address, w.right_address, 4000, 1935, size=1300))
        told = answer(w)
        assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1280)
        assert IP(bytes(told[ICMP].payload)).src == w.left_address
        assert w.drops() == {"too_big": 1}
        w.there(tcp(w.left_address, w.right_address, 4000, 1935, size=1240))


def test_too_big_on_the_first_link_is_told_by_its_router() -> None:
    w = World(two_hosts(SMALL))
    w.send(w.left, tcp(w.left_address, w.right_address, 4000, 1935, size=1300))
    assert answer(w)[ICMP].nexthopmtu == 1280


def test_ipv6_too_big_is_told_with_the_mtu() -> None:
    w = World(two_hosts(nat=NatSettings(), second=SMALL))
    w.send(w.left, tcp("2001:db8::2", "2001:db8:0:2::2", 4000, 1935, size=1300))
    [(port, out)] = w.settle()
    assert port is w.left
    told = judged(out)
    assert isinstance(told, IPv6)
    assert (told.payload.type, told.payload.mtu) == (2, 1280)


def test_a_pmtu_black_hole_says_nothing() -> None:
    w = World(two_hosts(second=SMALL, pmtu_black_hole=True))
    w.send(w.left, tcp(w.left_address, w.right_address, 4000, 1935, size=1300))
    assert w.settle() == []
    assert w.drops() == {"too_big": 1}


def test_without_df_it_is_cut_and_arrives_in_pieces_that_fit() -> None:
    for nat in (None, NatSettings()):
        w = World(two_hosts(nat=nat, second=SMALL))
        raw = bytes(IP(src=w.left_address, dst=w.right_address, id=9) / UDP(sport=5, dport=6) / (b"z" * 1400))
        w.send(w.left, raw)
        pieces = [IP(out) for _, out in w.settle()]
        assert [len(piece) <= 1280 for piece in pieces] == [True, True]
        payload = b"".join(bytes(piece.payload) for piece in pieces)
        assert payload[8:] == b"z" * 1400
        assert pieces[0].src == pieces[1].src == (w.left_address if nat is None else "198.18.1.2")
        whole = IP(src=pieces[0].src, dst=w.right_address) / UDP(payload)
        judged(bytes(whole))


def test_no_route_is_told() -> None:
    w = World(two_hosts())
    w.send(w.left, udp(w.left_address, "203.0.113.9", 5, 6))
    told = answer(w)
    assert (told[ICMP].type, told[ICMP].code) == (3, 0)
    assert w.drops() == {"no_route": 1}


def test_a_router_answers_pings_on_each_of_its_addresses() -> None:
    w = World(two_hosts(nat=NatSettings()))
    for address in ("192.168.43.1", "198.18.1.1", "198.18.2.1"):
        w.send(w.left, ping(w.left_address, address, 3))
        reply = answer(w)
        assert (reply.src, reply[ICMP].type, reply[ICMP].id) == (address, 0, 3)


def test_a_port_of_a_router_is_unreachable() -> None:
    w = World(two_hosts())
    w.send(w.left, udp(w.left_address, "198.18.0.1", 5, 53))
    assert (answer(w)[ICMP].code, w.drops()) == (3, {"to_router": 1})


@pytest.mark.parametrize("address", ["224.0.0.251", "255.255.255.255", "169.254.1.1"])
def test_multicast_and_link_local_stay_on_their_link_and_nobody_is_told(address: str) -> None:
    w = World(two_hosts())
    w.send(w.left, udp(w.left_address, address, 5353, 5353))
    assert w.settle() == []
    assert w.drops() == {"not_routable": 1}


def test_ipv6_neighbour_chatter_is_dropped_quietly() -> None:
    w = World(two_hosts())
    w.send(w.left, udp("fe80::1", "ff02::16", 1, 2))
    assert w.settle() == []
    assert w.drops() == {"not_routable": 1}


def test_no_icmp_error_is_told_about_an_icmp_error() -> None:
    w = World(two_hosts())
    inner = IP(src=w.right_address, dst=w.left_address) / UDP(sport=1, dport=2)
    w.send(w.left, bytes(IP(src=w.left_address, dst=w.right_address, ttl=1) / ICMP(type=3, code=3) / inner))
    assert w.settle() == []
    assert w.drops() == {"ttl_exceeded": 1}
