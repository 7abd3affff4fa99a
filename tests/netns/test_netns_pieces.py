"""The engine's parts that need no namespace."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from harness.capture.spool import SpooledPacket, encode, read_packets
from harness.engines.netns import channel, netlink
from harness.engines.netns.histogram import Histogram
from harness.engines.netns.nodes import _endpoint
from harness.engines.netns.plan import NODE_INDEX, hosts_file, plan_ports
from harness.engines.netns.probe import _Pace
from harness.engines.netns.processes import Exit, decode_status
from harness.engines.netns.receipts import refuse_late
from harness.engines.netns.selfcheck import _TEXT, answer_probe
from harness.faults import BlackHole, FaultError
from harness.network.presets import PRESETS

PACKETS = [
    SpooledPacket(1_000, "backhaul up", b"\x45" + bytes(40), "dropped: black_hole"),
    SpooledPacket(2_000, "phone/wlan0", b"\x60" + bytes(60), "sent"),
]


def test_what_is_spooled_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"".join(map(encode, PACKETS)))
    assert list(read_packets(tmp_path / "spool")) == PACKETS


@pytest.mark.parametrize("missing", [1, 30, 61])
def test_a_spool_cut_short_is_read_up_to_its_last_whole_record(tmp_path: Path, missing: int) -> None:
    data = b"".join(map(encode, PACKETS))
    (tmp_path / "spool").write_bytes(data[:-missing])
    assert list(read_packets(tmp_path / "spool")) == PACKETS[:1]


def test_a_histogram_knows_its_quantiles_to_a_quarter() -> None:
    histogram = Histogram()
    for value_us in range(1, 1001):
        histogram.add(value_us * 1000)
    assert histogram.total == 1000
    assert 500 <= histogram.quantile_us(0.5) <= 625
    assert 990 <= histogram.quantile_us(0.99) <= 1000
    assert histogram.quantile_us(1.0) == 1000
    assert sum(histogram.to_json().values()) == 1000


def test_an_empty_histogram_has_quantile_zero() -> None:
    assert Histogram().quantile_us(0.99) == 0


def test_every_interface_gets_a_number_an_index_and_both_addresses() -> None:
    ports = plan_ports(PRESETS["dual_path"])
    assert [port.number for port in ports] == list(range(6))
    phone = [port for port in ports if port.node == "phone"]
    assert [(port.interface, port.node_index, port.metric) for port in phone] == [
        ("wlan0", NODE_INDEX, 100),
        ("wwan0", NODE_INDEX + 1, 200),
    ]
    assert all(len(port.addresses) == 2 for port in ports)
    assert len({port.mac for port in ports} | {port.fabric_mac for port in ports}) == 12


def test_a_hosts_file_names_every_node_and_the_node_itself() -> None:
    lines = [line.split() for line in hosts_file(PRESETS["hotspot"], "phone").splitlines()]
    names = {name: address for address, *rest in lines for name in rest}
    assert {f"{node}.test" for node in ("phone", "gateway", "viewer", "viewer2", "platform")} <= set(names)
    assert names["phone"] == names["phone.test"] != names["gateway.test"]
    assert "gateway" not in names


@pytest.mark.parametrize("header", [IP(src="10.0.0.1", dst="192.0.2.1"), IPv6(src="fd00::1", dst="2001:db8::1")])
def test_an_echoed_probe_keeps_a_valid_checksum(header: IP | IPv6) -> None:
    raw = bytes(header / UDP(sport=1234, dport=9) / _TEXT)
    answer = answer_probe(raw)
    assert answer is not None
    parsed = type(header)(answer)
    assert (parsed.src, parsed.dst) == (header.dst, header.src)
    assert (parsed[UDP].sport, parsed[UDP].dport) == (9, 1234)
    given = parsed[UDP].chksum
    del parsed[UDP].chksum
    assert type(header)(bytes(parsed))[UDP].chksum == given


def test_other_packets_are_not_echoed() -> None:
    assert answer_probe(bytes(IP() / UDP() / b"something else")) is None


def test_a_message_arrives_with_its_descriptors() -> None:
    near, far = channel.pair()
    reader, writer = os.pipe()
    with near, far:
        channel.send(near, ("start", 1, {"a": 2}), [writer])
        message, (descriptor,) = channel.receive(far)
    assert message == ("start", 1, {"a": 2})
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"x")
    assert os.read(reader, 1) == b"x"
    for one in (reader, writer, descriptor):
        os.close(one)


def test_a_closed_channel_says_so() -> None:
    near, far = channel.pair()
    far.close()
    with near, pytest.raises(channel.ChannelClosedError):
        channel.receive(near)


def test_the_kernels_sentence_is_found_in_an_error() -> None:
    text = b"Unknown tcp congestion algorithm\0"
    echoed = struct.pack("=IHHII", 68, 24, 0, 0, 0)
    attribute = struct.pack("=HH", 4 + len(text), 1) + text
    body = struct.pack("=i", -22) + echoed + attribute
    assert netlink._explanation(body, 0x100 | 0x200) == "Unknown tcp congestion algorithm"
    assert netlink._explanation(body, 0x100) == ""


def test_batches_are_cut_before_they_get_too_long_for_one_send() -> None:
    messages = [("", bytes(10_000))] * 7
    assert [(first, len(block)) for first, block in netlink._blocks(messages)] == [(0, 3), (3, 3), (6, 1)]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("0100007F:078F", "127.0.0.1:1935"), ("00000000000000000000000001000000:1F90", "[::1]:8080")],
)
def test_socket_addresses_of_proc_are_read(text: str, endpoint: str) -> None:
    assert _endpoint(text) == endpoint


def test_an_exit_has_a_code_or_a_signal() -> None:
    assert decode_status(5, 7, 3 << 8) == Exit(5, 7, 3, 0)
    assert decode_status(5, 7, 9) == Exit(5, 7, 0, 9)


@pytest.mark.parametrize(("rate", "step_ns"), [(1000, 100_000), (50_000, 1_000_000)])
def test_a_pace_sends_what_the_rate_says(rate: int, step_ns: int) -> None:
    pace = _Pace(rate)
    sent = sum(pace.due(now) for now in range(0, 1_000_000_000, step_ns))
    assert abs(sent - rate) <= rate // 500


def test_a_fault_with_an_unknown_name_or_a_wrong_order_is_refused_when_it_is_loaded() -> None:
    topology = PRESETS["hotspot"]
    with pytest.raises(FaultError, match="backhaul"):
        refuse_late(BlackHole(link="backhual"), topology, None, None)
    with pytest.raises(FaultError, match="before it is entered"):
        refuse_late(BlackHole(link="backhaul"), topology, 10, 9)
