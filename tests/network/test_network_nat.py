"""NAT: what goes out comes back, to nobody else, and not for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_kit import MS, SECOND, World, judged, ping, tcp, two_hosts, udp
from scapy.layers.inet import ICMP, IP, TCP, UDP

from harness.network import segments
from harness.network.nat_settings import NatSettings

SETTINGS = NatSettings(
    udp_timeout=30 * SECOND, tcp_established_timeout=1000 * SECOND, tcp_transitory_timeout=60 * SECOND
)


def world(**changes: object) -> World:
    how = {name: getattr(SETTINGS, name) for name in SETTINGS.__slots__}
    return World(two_hosts(nat=NatSettings(**{**how, **changes})))


def out_port(w: World, sport: int = 4000, *, flags: str = "A") -> int:
    """Send one TCP packet out; the port that the far end sees."""
    return int(judged(w.there(tcp(w.left_address, w.right_address, sport, 1935, flags)))[TCP].sport)


@settings(max_examples=40)
@given(st.integers(1, 65535), st.integers(1, 65535), st.booleans(), st.integers(0, 200))
def test_an_answer_comes_back_as_what_was_asked(sport: int, dport: int, is_tcp: bool, size: int) -> None:
    w = world()
    make, layer = (tcp, TCP) if is_tcp else (udp, UDP)
    seen = judged(w.there(make(w.left_address, w.right_address, sport, dport, size=size)))
    assert seen.src == "198.18.1.2"
    assert (seen.dst, seen[layer].dport) == (w.right_address, dport)
    answer = judged(w.back(make(w.right_address, seen.src, dport, seen[layer].sport, size=size)))
    assert (answer.src, answer.dst) == (w.right_address, w.left_address)
    assert (answer[layer].sport, answer[layer].dport) == (dport, sport)
    assert w.left.spec.ipv4.ip.packed not in bytes(seen)[:20]


def test_ping_through_nat_keeps_its_identifier_inside() -> None:
    w = world()
    seen = judged(w.there(ping(w.left_address, w.right_address, 77)))
    answer = bytes(IP(src=w.right_address, dst=seen.src) / ICMP(type=0, id=seen[ICMP].id, seq=1))
    assert judged(w.back(answer))[ICMP].id == 77


def test_two_inside_ports_get_two_outside_ports_and_each_keeps_its_own() -> None:
    w = world()
    first, second = out_port(w, 4000), out_port(w, 4001)
    assert first != second
    assert (out_port(w, 4000), out_port(w, 4001)) == (first, second)


def test_ports_depend_on_the_seed() -> None:
    ports_seen = {out_port(World(two_hosts(nat=SETTINGS), seed=seed)) for seed in range(8)}
    assert len(ports_seen) == 8


@pytest.mark.parametrize(
    ("mapping", "same_for_port", "same_for_address"),
    [
        ("endpoint_independent", True, True),
        ("address_dependent", True, False),
        ("address_and_port_dependent", False, False),
    ],
)
def test_mapping_depends_on_the_remote_end_as_set(mapping: str, same_for_port: bool, same_for_address: bool) -> None:
    w = world(mapping=mapping)

    def seen(address: str, port: int) -> int:
        w.send(w.left, udp(w.left_address, address, 4000, port))
        [(_, out)] = w.settle()
        return int(IP(out)[UDP].sport)

    base = seen("198.18.2.2", 10)
    assert (seen("198.18.2.2", 11) == base) is same_for_port
    assert (seen("198.18.2.77", 10) == base) is same_for_address
    assert seen("198.18.2.2", 10) == base


@pytest.mark.parametrize(
    ("filtering", "other_port", "other_address"),
    [
        ("endpoint_independent", True, True),
        ("address_dependent", True, False),
        ("address_and_port_dependent", False, False),
    ],
)
def test_filtering_lets_in_whom_it_should(filtering: str, other_port: bool, other_address: bool) -> None:
    w = world(filtering=filtering)
    seen = IP(w.there(udp(w.left_address, "198.18.2.2", 4000, 10)))
    for address, port, admitted in (
        ("198.18.2.2", 10, True),
        ("198.18.2.2", 11, other_port),
        ("198.18.2.77", 10, other_address),
    ):
        w.send(w.right, udp(address, seen.src, port, seen[UDP].sport))
        assert bool(w.settle()) is admitted, (address, port)


def test_nobody_gets_in_uninvited() -> None:
    w = world()
    w.send(w.right, udp(w.right_address, "198.18.1.2", 10, 4000))
    assert w.settle() == []
    assert w.drops() == {"nat_no_mapping": 1}


def test_inside_addresses_are_not_reachable_from_outside() -> None:
    w = world()
    w.send(w.right, udp(w.right_address, w.left_address, 10, 4000))
    [(port, out)] = w.settle()
    assert port is w.right
    assert (IP(out)[ICMP].type, IP(out)[ICMP].code) == (3, 0)
    assert w.drops() == {"no_route": 1}


def test_the_own_outside_address_from_inside_is_no_way_in() -> None:
    w = world(filtering="endpoint_independent")
    port = out_port(w)
    w.send(w.left, tcp(w.left_address, "198.18.1.2", 5000, port))
    assert w.settle() == []
    assert w.drops() == {"nat_hairpin": 1}


def test_a_udp_mapping_ends_when_idle_for_its_timeout_and_not_before() -> None:
    w = world()
    port = int(IP(w.there(udp(w.left_address, w.right_address, 4000, 10)))[UDP].sport)
    for _ in range(5):  # traffic from outside alone keeps it, too
        w.now += 29 * SECOND
        w.back(udp(w.right_address, "198.18.1.2", 10, port))
    w.now += 31 * SECOND
    w.send(w.right, udp(w.right_address, "198.18.1.2", 10, port))
    assert w.settle() == []
    assert w.drops() == {"nat_no_mapping": 1}
    assert int(IP(w.there(udp(w.left_address, w.right_address, 4000, 10)))[UDP].sport) != port


def open_tcp(w: World) -> int:
    """A handshake and one segment."""
    port = out_port(w, flags="S")
    w.back(tcp(w.right_address, "198.18.1.2", 1935, port, "SA"))
    assert out_port(w) == port
    return port


@pytest.mark.parametrize(
    ("idle", "how", "kept"),
    [
        (900, "established", True),
        (1001, "established", False),
        (59, "syn", True),
        (61, "syn", False),
        (61, "closed", False),
        (61, "half_closed", True),
        (61, "reset", False),
    ],
)
def test_tcp_timeouts_follow_the_state_of_the_connection(idle: int, how: str, kept: bool) -> None:
    w = world()
    port = out_port(w, flags="S") if how == "syn" else open_tcp(w)
    if how in ("closed", "half_closed"):
        out_port(w, flags="FA")
    if how == "closed":
        w.back(tcp(w.right_address, "198.18.1.2", 1935, port, "FA"))
    if how == "reset":
        w.back(tcp(w.right_address, "198.18.1.2", 1935, port, "R"))
    w.now += idle * SECOND
    assert (out_port(w) == port) is kept


def test_lost_state_gives_a_new_port_to_a_connection_in_its_middle() -> None:
    w = world()
    port = open_tcp(w)
    router = w.fabric.routers["nat"]
    assert router.lose_nat_state() == 1
    w.send(w.right, tcp(w.right_address, "198.18.1.2", 1935, port))
    assert w.settle() == []
    assert w.drops()["nat_no_mapping"] == 1
    new = out_port(w)
    assert new != port
    assert IP(w.back(tcp(w.right_address, "198.18.1.2", 1935, new)))[TCP].dport == 4000


def test_rebinding_changes_the_outside_address_and_leaves_the_old_one_dead() -> None:
    w = world()
    port = open_tcp(w)
    assert w.fabric.routers["nat"].rebind(bytes([198, 18, 1, 9])) == 1
    w.send(w.right, tcp(w.right_address, "198.18.1.2", 1935, port))
    assert w.settle() == []
    seen = judged(w.there(tcp(w.left_address, w.right_address, 4000, 1935)))
    assert seen.src == "198.18.1.9"
    w.back(tcp(w.right_address, "198.18.1.9", 1935, seen[TCP].sport))


def test_both_sides_of_nat_are_one_connection() -> None:
    w = world()
    port = open_tcp(w)
    inside = w.fabric.parse(tcp(w.left_address, w.right_address, 4000, 1935)).flow
    outside = w.fabric.parse(tcp(w.right_address, "198.18.1.2", 1935, port)).flow
    assert inside.connection is outside.connection
    assert {str(flow) for flow in w.fabric.hosts_flows(inside.connection)} == {str(inside), str(outside)}


def test_an_icmp_error_from_outside_finds_its_way_in_with_inside_addresses() -> None:
    w = world()
    seen = w.there(udp(w.left_address, w.right_address, 4000, 10, size=50))
    error = segments.icmp_error(w.right.spec.ipv4.ip.packed, bytes([198, 18, 1, 2]), segments.PORT_UNREACHABLE, seen)
    out = judged(w.back(error))
    quoted = IP(bytes(out[ICMP].payload))
    assert (out.dst, quoted.src, quoted[UDP].sport) == (w.left_address, w.left_address, 4000)
    judged(bytes(quoted))


def test_an_icmp_error_from_inside_goes_out_with_outside_addresses() -> None:
    w = world()
    port = int(IP(w.there(udp(w.left_address, w.right_address, 4000, 10)))[UDP].sport)
    arrived = w.back(udp(w.right_address, "198.18.1.2", 10, port, size=50))
    error = segments.icmp_error(
        w.left.spec.ipv4.ip.packed, w.right.spec.ipv4.ip.packed, segments.PORT_UNREACHABLE, arrived
    )
    out = judged(w.there(error))
    quoted = IP(bytes(out[ICMP].payload))
    assert (out.src, quoted.dst, quoted[UDP].dport) == ("198.18.1.2", "198.18.1.2", port)
    judged(bytes(quoted))


def test_a_stray_icmp_error_is_dropped() -> None:
    w = world()
    stray = udp("198.18.1.2", w.right_address, 9, 10, size=20)
    error = segments.icmp_error(w.right.spec.ipv4.ip.packed, bytes([198, 18, 1, 2]), segments.PORT_UNREACHABLE, stray)
    w.send(w.right, error)
    assert w.settle() == []
    assert w.drops() == {"nat_no_mapping": 1}


def test_when_all_ports_are_taken_new_flows_are_dropped_until_one_is_free_again() -> None:
    w = world(first_port=5000, last_port=5001)
    taken = {out_port(w, 4000, flags="S"), out_port(w, 4001, flags="S")}
    assert taken == {5000, 5001}
    w.send(w.left, tcp(w.left_address, w.right_address, 4002, 1935, "S"))
    assert w.settle() == []
    assert w.drops() == {"nat_cannot_map": 1}
    w.now += 61 * SECOND
    assert out_port(w, 4002, flags="S") in taken


def test_a_foreign_source_is_not_translated() -> None:
    w = world()
    w.send(w.left, udp("203.0.113.5", w.right_address, 1, 2))
    assert w.settle() == []
    assert w.drops() == {"foreign_source": 1}


def test_ipv6_goes_through_untranslated() -> None:
    w = world()
    raw = tcp("2001:db8::2", "2001:db8:0:2::2", 4000, 1935, size=60)
    out = judged(w.there(raw))
    assert (out.src, out[TCP].sport, out.hlim) == ("2001:db8::2", 4000, 62)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"mapping": "cone"}, "endpoint_independent"), ({"udp_timeout": 0}, "positive"), ({"first_port": 0}, "1..65535")],
)
def test_impossible_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NatSettings(**fields)  # type: ignore[arg-type]


def test_a_mapping_survives_a_timeout_of_another_flow_that_was_planned() -> None:
    """A remembered plan is thrown away with its mapping, one by one."""
    w = world()
    tcp_port = open_tcp(w)
    w.there(udp(w.left_address, w.right_address, 4000, 10))
    w.now += 31 * SECOND + MS
    assert out_port(w) == tcp_port
    assert w.fabric.routers["nat"].nat is not None
