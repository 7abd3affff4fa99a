"""Topologies by name, and the scenario catalogue's N0 to N5 in terms of them.

All have the same five nodes and play the same five roles, so that a playbook can be moved from one to another.
Each link names the profile that its numbers come from (``profiles.py``). Where a source gives no rate, the rate is
ours and said so in the link's ``profile``: an uplink must carry a 2 to 2.5 Mbit/s stream with room to catch up.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.network.impairments import Impairments
from harness.network.nat_settings import NatSettings
from harness.network.profiles import PROFILES
from harness.network.topology import LinkSpec, Node, RouterSpec, Topology
from harness.units import MILLISECOND

_MBIT = 1_000_000
_SERVERS = ("gateway", "viewer", "viewer2", "platform")
_ROLES = {
    "publisher": "phone",
    "gateway": "gateway",
    "viewer": "viewer",
    "viewer2": "viewer2",
    "destination": "platform",
}
_CGN = NatSettings(mapping="address_and_port_dependent", filtering="address_and_port_dependent")


def _profiled(name: str, a: str, b: str, profile: str, *, up: int, down: int, lossless: bool = True) -> LinkSpec:
    """A link with a published profile's latency and jitter and rates in bit/s of ours (queue 200 ms).

    The loss of the source is left out unless asked for: a preset's path is healthy until a playbook breaks it, and
    0.5 % random loss alone halves what a loss-based TCP carries.
    """
    known = PROFILES[profile]
    loss = None if lossless else known.loss
    return LinkSpec(
        name=name,
        a=a,
        b=b,
        up=known.up().changed(loss=loss, rate=up, queue_time=200 * MILLISECOND),
        down=known.down().changed(loss=loss, rate=down, queue_time=200 * MILLISECOND),
        profile=f"{profile} (latency, jitter); rates ours{', loss left out' if lossless else ''}",
    )


def _servers(*, delay: int = 2 * MILLISECOND) -> Iterable[LinkSpec]:
    """Gigabit links of the servers to the core."""
    line = Impairments(delay=delay, rate=1000 * _MBIT)
    for name in _SERVERS:
        yield LinkSpec(name=f"{name}_link", a=name, b="core", up=line, down=line, profile="deadair: data centre")


def _nodes(**interfaces: str) -> tuple[Node, ...]:
    return (Node(name="phone", interfaces=interfaces), *(Node(name=name) for name in _SERVERS))


_WIFI = _profiled("wifi", "phone", "hotspot", "patchbay/wifi", up=50 * _MBIT, down=50 * _MBIT)
_HOTSPOT_NAT = RouterSpec(name="hotspot", nat=NatSettings(), outside="backhaul")
_CARRIER_NAT = RouterSpec(name="carrier", nat=_CGN, outside="transit")
_TRANSIT = LinkSpec(
    name="transit",
    a="carrier",
    b="core",
    up=Impairments(delay=5 * MILLISECOND),
    down=Impairments(delay=5 * MILLISECOND),
    profile="deadair: carrier's core",
)

DIRECT = Topology(
    name="direct",
    why="Everything on one switch, no delay, no NAT: what fails here fails everywhere.",
    nodes=_nodes(),
    routers=(RouterSpec(name="core"),),
    links=(LinkSpec(name="access", a="phone", b="core", profile="deadair: ideal"), *_servers(delay=0)),
    roles=_ROLES,
    picture="""\
phone ──access── core ┬─gateway_link── gateway
                      ├─viewer_link── viewer
                      ├─viewer2_link── viewer2
                      └─platform_link── platform
""",
)

ETHERNET = Topology(
    name="ethernet",
    why="An encoder on a cable behind a home router with NAT, on a cable modem.",
    nodes=_nodes(),
    routers=(RouterSpec(name="home", nat=NatSettings(), outside="backhaul"), RouterSpec(name="core")),
    links=(
        LinkSpec(
            name="lan",
            a="phone",
            b="home",
            up=Impairments(delay=MILLISECOND // 2, rate=1000 * _MBIT),
            down=Impairments(delay=MILLISECOND // 2, rate=1000 * _MBIT),
            profile="deadair: gigabit Ethernet",
        ),
        _profiled("backhaul", "home", "core", "webpagetest/cable", up=10 * _MBIT, down=100 * _MBIT),
        *_servers(),
    ),
    roles=_ROLES,
    picture="""\
phone ──lan── home (NAT) ──backhaul── core ┬─gateway_link── gateway
                                           ├─viewer_link── viewer
                                           ├─viewer2_link── viewer2
                                           └─platform_link── platform
""",
)

HOTSPOT = Topology(
    name="hotspot",
    why="A phone on the Wi-Fi of a mobile hotspot: when the cellular backhaul dies, the Wi-Fi stays up.",
    nodes=_nodes(wifi="wlan0"),
    routers=(_HOTSPOT_NAT, RouterSpec(name="core")),
    links=(
        _WIFI,
        _profiled("backhaul", "hotspot", "core", "patchbay/mobile_4g", up=10 * _MBIT, down=30 * _MBIT),
        *_servers(),
    ),
    roles=_ROLES,
    picture="""\
phone ──wifi── hotspot (NAT) ──backhaul (cellular)── core ┬─gateway_link── gateway
                                                          ├─viewer_link── viewer
                                                          ├─viewer2_link── viewer2
                                                          └─platform_link── platform
""",
)

DUAL_PATH = Topology(
    name="dual_path",
    why="A phone on a Wi-Fi hotspot that also has a cellular modem: its default route can flip.",
    nodes=_nodes(wifi="wlan0", modem="wwan0"),
    routers=(
        _HOTSPOT_NAT,
        _CARRIER_NAT,
        RouterSpec(name="core"),
    ),
    links=(
        _WIFI,
        _profiled("backhaul", "hotspot", "core", "patchbay/mobile_4g", up=10 * _MBIT, down=30 * _MBIT),
        _profiled("modem", "phone", "carrier", "patchbay/mobile_4g", up=8 * _MBIT, down=20 * _MBIT),
        _TRANSIT,
        *_servers(),
    ),
    roles=_ROLES,
    picture="""\
      ┌─wifi── hotspot (NAT) ──backhaul (cellular)─┐
phone ┤                                            ├── core ┬─gateway_link── gateway
      └─modem (cellular)── carrier (NAT) ──transit─┘        ├─viewer_link── viewer
                                                            ├─viewer2_link── viewer2
                                                            └─platform_link── platform
""",
)

CGNAT = Topology(
    name="cgnat",
    why="Two NATs in a row: the hotspot's own and the carrier's, which maps each remote end to another port.",
    nodes=_nodes(wifi="wlan0"),
    routers=(
        _HOTSPOT_NAT,
        _CARRIER_NAT,
        RouterSpec(name="core"),
    ),
    links=(
        _WIFI,
        _profiled("backhaul", "hotspot", "carrier", "patchbay/mobile_4g", up=10 * _MBIT, down=30 * _MBIT),
        _TRANSIT,
        *_servers(),
    ),
    roles=_ROLES,
    picture="""\
phone ──wifi── hotspot (NAT) ──backhaul (cellular)── carrier (NAT) ──transit── core ┬─gateway_link── gateway
                                                                                    ├─viewer_link── viewer
                                                                                    ├─viewer2_link── viewer2
                                                                                    └─platform_link── platform
""",
)

SATELLITE = Topology(
    name="satellite",
    why="A geostationary uplink: 600 ms of round trip, so that every time limit below a second is wrong.",
    nodes=_nodes(wifi="wlan0"),
    routers=(RouterSpec(name="terminal", nat=NatSettings(), outside="backhaul"), RouterSpec(name="core")),
    links=(
        _profiled("wifi", "phone", "terminal", "patchbay/wifi", up=50 * _MBIT, down=50 * _MBIT),
        _profiled("backhaul", "terminal", "core", "patchbay/satellite_geo", up=10 * _MBIT, down=25 * _MBIT),
        *_servers(),
    ),
    roles=_ROLES,
    picture="""\
phone ──wifi── terminal (NAT) ──backhaul (geostationary)── core ┬─gateway_link── gateway
                                                                ├─viewer_link── viewer
                                                                ├─viewer2_link── viewer2
                                                                └─platform_link── platform
""",
)

PRESETS: dict[str, Topology] = {
    topology.name: topology for topology in (DIRECT, ETHERNET, HOTSPOT, DUAL_PATH, CGNAT, SATELLITE)
}

# The catalogue's networks grow by node (viewer, sink, source); ours always have all nodes, unused ones stay quiet.
CATALOGUE: dict[str, Topology] = {
    "N0": DIRECT,
    "N1": ETHERNET,
    "N2": ETHERNET,
    "N3": ETHERNET,
    "N4": HOTSPOT,
    "N5": ETHERNET,
}
