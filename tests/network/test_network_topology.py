"""Topologies: addresses, names, what engines need, and errors that help."""

from __future__ import annotations

import pickle

import pytest

from harness.network.impairments import Impairments
from harness.network.nat_settings import NatSettings
from harness.network.presets import CATALOGUE, CGNAT, DUAL_PATH, HOTSPOT, PRESETS
from harness.network.profiles import PROFILES
from harness.network.topology import LinkSpec, Node, RouterSpec, Topology, UnknownNameError
from harness.units import MILLISECOND


def test_an_interface_has_all_that_an_engine_needs() -> None:
    [wifi] = HOTSPOT.interfaces("phone")
    assert (wifi.name, wifi.link, wifi.port, wifi.metric, wifi.mtu) == ("wlan0", "wifi", "phone/wlan0", 100, 1500)
    assert (str(wifi.ipv4), str(wifi.gateway4)) == ("192.168.43.2/24", "192.168.43.1")
    assert (str(wifi.ipv6), str(wifi.gateway6)) == ("2001:db8::2/64", "2001:db8::1")


def test_a_node_with_two_paths_prefers_the_first() -> None:
    assert [(i.name, i.metric) for i in DUAL_PATH.interfaces("phone")] == [("wlan0", 100), ("wwan0", 200)]


def test_addresses_are_unique_and_names_point_at_them() -> None:
    for topology in PRESETS.values():
        interfaces = [i for node in topology.nodes for i in topology.interfaces(node.name)]
        assert len({i.ipv4 for i in interfaces} | {i.ipv6 for i in interfaces}) == 2 * len(interfaces)
        hosts = {name: address for address, names in topology.hosts() for name in names}
        for node in topology.nodes:
            assert hosts[f"{node.name}.test"] == str(topology.interfaces(node.name)[0].ipv4.ip)
            assert hosts[f"{node.name}.ipv6.test"] == str(topology.interfaces(node.name)[0].ipv6.ip)
        names = topology.address_names()
        assert all(names[i.ipv4.ip.packed] == i.node for i in interfaces)


def test_everything_behind_a_nat_is_private_and_nothing_else() -> None:
    assert HOTSPOT.private_links == {"wifi"}
    assert CGNAT.private_links == {"wifi", "backhaul"}
    assert DUAL_PATH.private_links == {"wifi", "modem"}


def test_the_pictures_show_every_node_router_and_link() -> None:
    for topology in PRESETS.values():
        names = [node.name for node in topology.nodes]
        names += [router.name for router in topology.routers] + [link.name for link in topology.links]
        for name in names:
            assert name in topology.picture, f"{name} is missing in the picture of {topology.name}"


def test_every_preset_plays_every_role_and_the_catalogue_is_complete() -> None:
    for topology in PRESETS.values():
        assert set(topology.roles) == {"publisher", "gateway", "viewer", "viewer2", "destination"}
    assert set(CATALOGUE) == {"N0", "N1", "N2", "N3", "N4", "N5"}
    assert set(PRESETS) == {"direct", "ethernet", "hotspot", "dual_path", "cgnat", "satellite"}


def test_a_changed_link_makes_a_new_value() -> None:
    backhaul = HOTSPOT.link("backhaul")
    worse = HOTSPOT.with_link("backhaul", up=backhaul.up.changed(delay=200 * MILLISECOND))
    assert worse.link("backhaul").up.delay == 200 * MILLISECOND
    assert worse.link("backhaul").down.rate == HOTSPOT.link("backhaul").down.rate
    assert HOTSPOT.link("backhaul").up.delay == 25 * MILLISECOND
    one_way = HOTSPOT.with_link("wifi", up=Impairments())
    assert one_way.link("wifi").down == HOTSPOT.link("wifi").down
    assert "changed" in one_way.link("wifi").profile


@pytest.mark.parametrize(
    ("look_up", "name", "message"),
    [
        ("link", "backhual", "did you mean 'backhaul'.*viewer_link"),
        ("node", "phon", "did you mean 'phone'"),
        ("router", "gateway", r"known: core, hotspot"),
        ("node_of", "publsher", "did you mean 'publisher'"),
        ("interfaces", "nobody", "unknown node 'nobody'"),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_are_known(look_up: str, name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        getattr(HOTSPOT, look_up)(name)


def small(**changes: object) -> Topology:
    parts: dict[str, object] = {
        "name": "small",
        "why": "test",
        "nodes": (Node(name="a"),),
        "routers": (RouterSpec(name="r"),),
        "links": (LinkSpec(name="l", a="a", b="r"),),
        "roles": {},
        "picture": "a l r",
    }
    return Topology(**{**parts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": (Node(name="a"), Node(name="a"))}, "used twice"),
        ({"links": (LinkSpec(name="l", a="a", b="rr"),)}, "did you mean 'r'"),
        ({"links": (LinkSpec(name="l", a="r", b="a"),)}, "as its end a"),
        ({"nodes": (Node(name="a"), Node(name="b"))}, "needs at least one link"),
        ({"roles": {"publisher": "b"}}, "unknown node 'b'"),
        ({"routers": (RouterSpec(name="r", nat=NatSettings(), outside="l"),)}, "outside link"),
    ],
)
def test_an_impossible_topology_is_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    small()
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_topology_can_be_sent_to_another_process() -> None:
    assert HOTSPOT.private_links
    again = pickle.loads(pickle.dumps(HOTSPOT))
    assert again == HOTSPOT
    assert again.interfaces("phone") == HOTSPOT.interfaces("phone")


def test_profiles_name_their_source_and_halve_round_trips() -> None:
    for profile in PROFILES.values():
        assert profile.source
        assert profile.up().delay == (profile.latency // 2 if profile.convention == "round_trip" else profile.latency)
        assert profile.down().rate == profile.rate_down
    assert PROFILES["webpagetest/lte"].up().delay == 35 * MILLISECOND
