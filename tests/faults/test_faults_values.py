"""Faults as values: round trips, sentences, and refusals that say what would be right."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from harness.faults import (
    REGISTRY,
    BlackHole,
    CarrierOff,
    ChangeLink,
    Fault,
    FaultError,
    InterfaceDown,
    Kill,
    LinkFlap,
    NatRebind,
    NatStateLost,
    NetworkFault,
    Pause,
    Restart,
    TcpReset,
    fault_from_json,
)
from harness.network.presets import DIRECT, HOTSPOT
from harness.units import MILLISECOND, SECOND

EXAMPLES: list[tuple[Fault, str]] = [
    (BlackHole(link="backhaul"), "black hole on backhaul"),
    (
        BlackHole(link="backhaul", direction="up", proto="tcp", port=1935),
        "black hole on backhaul, up only, tcp only, port 1935 only",
    ),
    (BlackHole(flow="publisher.rtmp"), "black hole, only the connection that is publisher.rtmp now"),
    (LinkFlap(link="backhaul", off_ns=3 * SECOND, on_ns=2 * SECOND), "backhaul flaps: 3.00 s off, 2.00 s on"),
    (
        LinkFlap(link="wifi", off_ns=SECOND, on_ns=SECOND, random=True, seed=4, times=5, direction="down"),
        "wifi flaps: exponential with means 1.00 s off, 1.00 s on, down only, 5 times",
    ),
    (ChangeLink(link="wifi", delay_ns=200 * MILLISECOND, loss_share=0.02), "wifi changes: delay 200 ms, loss 2 %"),
    (
        ChangeLink(
            link="wifi", direction="up", rate_bps=500_000, queue_bytes=64_000, lose_packets=(1, 2), loss_burst=None
        ),
        "wifi changes: up only, rate 500 kbit/s, queue 64.0 kB, lose packets (1, 2)",
    ),
    (NatStateLost(router="hotspot"), "hotspot loses its NAT state"),
    (NatRebind(router="hotspot", address="198.18.1.77"), "hotspot gets another outside address, 198.18.1.77"),
    (TcpReset(flow="publisher.rtmp", side="server"), "TCP reset of publisher.rtmp, to the server only"),
    (CarrierOff(node="phone", interface="wlan0"), "phone's wlan0 loses its carrier"),
    (CarrierOff(node="phone", link="wifi"), "phone's interface to wifi loses its carrier"),
    (InterfaceDown(node="phone"), "phone is switched off"),
    (Kill(role="publisher"), "publisher is killed (SIGKILL)"),
    (Pause(role="gateway"), "gateway stands still (SIGSTOP)"),
    (Restart(role="gateway"), "gateway is killed (SIGKILL) and started again"),
]


@pytest.mark.parametrize(("fault", "sentence"), EXAMPLES, ids=[f.kind for f, _ in EXAMPLES])
def test_a_fault_is_a_sentence_and_survives_json(fault: Fault, sentence: str) -> None:
    assert fault.describe() == sentence
    again = fault_from_json(json.loads(json.dumps(fault.to_json())))
    assert again == fault
    assert hash(again) == hash(fault)
    assert type(again) is REGISTRY[fault.kind]
    fault.validate(HOTSPOT)
    assert fault.target
    assert (fault.scope == "network") is isinstance(fault, NetworkFault)


def test_every_kind_of_fault_is_registered_and_has_an_example() -> None:
    assert set(REGISTRY) == {fault.kind for fault, _ in EXAMPLES}
    assert set(REGISTRY) >= {
        "black_hole", "link_flap", "carrier_off", "nat_state_lost", "nat_rebind", "tcp_reset", "change_link",
        "kill", "pause", "restart",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (BlackHole, {}, "a link or a flow"),
        (BlackHole, {"link": "wifi", "direction": "sideways"}, "both, up, down"),
        (BlackHole, {"link": "wifi", "proto": "sctp"}, "any, tcp, udp"),
        (BlackHole, {"link": "wifi", "port": 0}, "between 1 and 65535"),
        (BlackHole, {"flow": "publisher"}, "publisher.rtmp"),
        (BlackHole, {"flow": "publisher.rtpm"}, "did you mean 'rtmp'"),
        (LinkFlap, {"link": "wifi", "on_ns": 0, "off_ns": 1}, "on is 0 ns"),
        (LinkFlap, {"link": "wifi", "on_ns": 1, "off_ns": 1, "times": 0}, "at least once"),
        (ChangeLink, {"link": "wifi"}, "changes nothing"),
        (ChangeLink, {"link": "wifi", "loss_share": 1.5}, "between 0 and 1"),
        (ChangeLink, {"link": "wifi", "loss_burst": 3.0}, "needs loss_share"),
        (ChangeLink, {"link": "wifi", "loss_share": 0.5, "loss_burst": 0.5}, "at least 1 packet"),
        (ChangeLink, {"link": "wifi", "loss_share": 0.9, "loss_burst": 2.0}, "under one packet"),
        (ChangeLink, {"link": "wifi", "mtu": 5}, "576"),
        (ChangeLink, {"link": "wifi", "rate_bps": 0}, "black hole"),
        (ChangeLink, {"link": "wifi", "delay_ns": 1, "jitter_ns": 2}, "before they were sent"),
        (ChangeLink, {"link": "wifi", "queue_bytes": 5, "queue_time_ns": 5}, "one limit"),
        (NatRebind, {"router": "hotspot", "address": "hotspot"}, "IPv4 address"),
        (TcpReset, {"flow": "publisher.rtmp", "side": "left"}, "both, client, server"),
        (CarrierOff, {"node": "phone", "link": "wifi", "interface": "wlan0"}, "not both"),
    ],
)
def test_an_impossible_fault_is_refused_when_it_is_made(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FaultError, match=message):
        kind(**fields)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (BlackHole(link="backhual"), "unknown link 'backhual'; did you mean 'backhaul'.*known: backhaul, gateway_link"),
        (BlackHole(link="wifi", flow="publsher.rtmp"), "did you mean 'publisher'"),
        (LinkFlap(link="wiffi", on_ns=1, off_ns=1), "did you mean 'wifi'"),
        (ChangeLink(link="wify", delay_ns=1), "did you mean 'wifi'"),
        (NatStateLost(router="core"), r"router with NAT 'core'.*known: hotspot"),
        (NatRebind(router="hotspot", address="10.0.0.1"), "198.18.1.0/24"),
        (NatRebind(router="hotspot", address="198.18.1.1"), "is its gateway"),
        (TcpReset(flow="nobody.rtmp"), "unknown role or node 'nobody'"),
        (CarrierOff(node="phone", link="backhaul"), "link of phone 'backhaul'.*known: wifi"),
        (CarrierOff(node="phone", interface="eth0"), "known: wlan0"),
        (CarrierOff(node="fone"), "did you mean 'phone'"),
        (Kill(role="publsher"), "did you mean 'publisher'"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_name_that_the_topology_does_not_have_is_refused_with_those_that_it_has(fault: Fault, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        fault.validate(HOTSPOT)


def test_a_queue_on_a_link_without_rate_is_refused_for_that_link() -> None:
    with pytest.raises(FaultError, match=r"access up: .*needs a rate"):
        ChangeLink(link="access", queue_bytes=5000).validate(DIRECT)


def test_an_unknown_kind_or_field_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(FaultError, match="did you mean 'black_hole'"):
        fault_from_json({"kind": "blackhole"})
    with pytest.raises(FaultError, match=r"no field 'lnk'.*link"):
        fault_from_json({"kind": "black_hole", "lnk": "wifi"})


def test_a_flap_is_a_list_of_windows_known_beforehand() -> None:
    flap = LinkFlap(link="wifi", off_ns=3, on_ns=2)
    assert flap.windows(100, 112, seed=1) == [(100, 103), (105, 108), (110, 113)]
    assert LinkFlap(link="wifi", off_ns=3, on_ns=2, times=2).windows(0, 100, seed=1) == [(0, 3), (5, 8)]


def test_a_random_flap_has_the_means_asked_for_and_its_seed_decides() -> None:
    flap = LinkFlap(link="wifi", off_ns=SECOND, on_ns=3 * SECOND, random=True)
    windows = flap.windows(0, 8000 * SECOND, seed=1)
    off = [end - start for start, end in windows]
    on = [later[0] - earlier[1] for earlier, later in itertools.pairwise(windows)]
    assert abs(sum(off) / len(off) / SECOND - 1) < 0.1
    assert abs(sum(on) / len(on) / SECOND - 3) < 0.3
    assert flap.windows(0, 50 * SECOND, seed=1) == windows[: len(flap.windows(0, 50 * SECOND, seed=1))]
    assert flap.windows(0, 50 * SECOND, seed=2) != flap.windows(0, 50 * SECOND, seed=1)
    own = LinkFlap(link="wifi", off_ns=SECOND, on_ns=SECOND, random=True, seed=9)
    assert own.windows(0, 50 * SECOND, seed=1) == own.windows(0, 50 * SECOND, seed=2)
