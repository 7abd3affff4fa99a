"""One row for each packet, with its fate."""

from __future__ import annotations

import struct
import time

from harness.capture.fates import one_row_each
from harness.capture.spool import SpooledPacket

MS = 1_000_000
PHONE, OUTSIDE, GATEWAY = b"\xc0\xa8\x01\x02", b"\x64\x40\x00\x02", b"\x0a\x00\x00\x02"


def tcp(
    src: bytes = PHONE, sport: int = 40000, *, ip_id: int = 7, seq: int = 1000, ttl: int = 64, flags: int = 0x18,
    payload: bytes = b"media", stamp: int = 5,
) -> bytes:  # fmt: skip
    options = struct.pack(">BBBBII", 1, 1, 8, 10, stamp, 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 52 + len(payload), ip_id, 0x4000, ttl, 6, ttl) + src + GATEWAY
    header = struct.pack(">HHIIBBHHH", sport, 1935, seq, 2000, 0x80, flags, 4096, sport, 0)
    return ip + header + options + payload


def through_nat(*, ip_id: int = 7, stamp: int = 5) -> bytes:
    return tcp(OUTSIDE, 61000, ttl=62, ip_id=ip_id, stamp=stamp)


def told(*records: tuple[float, str, bytes, str]) -> list[tuple[float, str, bytes, str]]:
    packets = [SpooledPacket(int(t_ms * MS), where, raw, fate) for t_ms, where, raw, fate in records]
    return [(row.t_ns / MS, row.interface, row.raw, row.fate) for row in one_row_each(packets)]


def test_a_packet_through_nat_is_one_row_as_its_sender_sent_it() -> None:
    assert told((10, "phone/wlan0", tcp(), "sent"), (51.2, "gateway/eth0", through_nat(), "delivered")) == [
        (10, "phone/wlan0", tcp(), "delivered at gateway/eth0 after 41.2 ms")
    ]


def test_a_drop_is_told_with_its_place_and_reason() -> None:
    rows = told(
        (10, "phone/wlan0", tcp(), "sent"),
        (11, "phone/wlan0", tcp(ip_id=8), "sent"),
        (12, "backhaul up", through_nat(), "dropped: black_hole"),
        (13, "core", through_nat(ip_id=8), "dropped: no_route"),
    )
    assert [row[3] for row in rows] == ["dropped on backhaul up: black_hole", "dropped at core: no_route"]


def test_the_kernels_own_retransmission_stays_a_row_of_its_own() -> None:
    rows = told(
        (10, "phone/wlan0", tcp(), "sent"),
        (10, "backhaul up", through_nat(), "dropped: black_hole"),
        (300, "phone/wlan0", tcp(ip_id=9, stamp=295), "sent"),
        (340, "gateway/eth0", through_nat(ip_id=9, stamp=295), "delivered"),
    )
    assert [(row[0], row[3]) for row in rows] == [
        (10, "dropped on backhaul up: black_hole"),
        (300, "delivered at gateway/eth0 after 40.0 ms"),
    ]


def test_packets_that_cannot_be_told_apart_get_their_fates_in_order() -> None:
    rows = told(
        (1, "a/e", tcp(), "sent"),
        (2, "a/e", tcp(), "sent"),
        (5, "b/e", tcp(), "delivered"),
        (9, "b/e", tcp(), "delivered"),
    )
    assert [row[3] for row in rows] == ["delivered at b/e after 4.0 ms", "delivered at b/e after 7.0 ms"]


def test_a_duplicate_has_both_fates_in_its_row() -> None:
    rows = told((1, "a/e", tcp(), "sent"), (5, "b/e", tcp(), "delivered"), (8, "b/e", tcp(), "delivered"))
    assert [row[3] for row in rows] == ["delivered at b/e after 4.0 ms; delivered at b/e after 7.0 ms"]


def test_a_payload_damaged_on_the_way_is_still_the_same_packet() -> None:
    rows = told((1, "a/e", tcp(), "sent"), (5, "b/e", tcp(payload=b"nedia"), "delivered"))
    assert [row[3] for row in rows] == ["delivered at b/e after 4.0 ms"]


def test_an_injected_packet_is_a_row_of_its_own() -> None:
    reset = tcp(flags=0x04, payload=b"")
    rows = told((1, "gateway/eth0", reset, "injected"), (1, "gateway/eth0", reset, "delivered"))
    assert rows == [(1, "gateway/eth0", reset, "injected by a fault; delivered at gateway/eth0")]


def test_a_routers_icmp_is_a_row_where_it_turns_up() -> None:
    error = struct.pack(">BBHHHBBH", 0x45, 0, 56, 0, 0, 63, 1, 0) + GATEWAY + PHONE + b"\x03\x01" + bytes(34)
    assert told((4, "phone/wlan0", error, "delivered")) == [
        (4, "phone/wlan0", error, "made on the way; delivered at phone/wlan0")
    ]


def test_what_was_on_its_way_at_the_end_says_so() -> None:
    assert [row[3] for row in told((1, "a/e", tcp(), "sent"))] == ["fate not in the capture"]


def test_rows_stay_in_order_of_sending_though_fates_come_late() -> None:
    rows = told(
        (1, "a/e", tcp(ip_id=1), "sent"),
        (2, "a/e", tcp(ip_id=2), "sent"),
        (3, "b/e", tcp(ip_id=2), "delivered"),
        (2500, "a/e", tcp(ip_id=3), "sent"),
        (9000, "b/e", tcp(ip_id=1), "delivered"),
    )
    assert [row[0] for row in rows] == [1, 2, 2500]
    assert rows[0][3] == "delivered at b/e after 8999.0 ms"


def test_joining_keeps_up_with_the_writer() -> None:
    count = 50_000
    packets = [
        SpooledPacket(n * 100_000 + later, where, tcp(ip_id=n & 0xFFFF, seq=n), fate)
        for n in range(count)
        for later, where, fate in ((0, "a/e", "sent"), (50_000, "b/e", "delivered"))
    ]
    started = time.process_time()
    rows = sum(1 for _ in one_row_each(packets))
    rate = count / (time.process_time() - started)
    assert rows == count
    assert rate > 40_000, f"{rate:.0f} packets/s"
