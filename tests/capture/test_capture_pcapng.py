"""Captures: packets with their fates and events between them, as other programs read them."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.capture.merge import write_capture
from harness.capture.pcapng import EVENTS_INTERFACE, CaptureWriter, event_sentence, read_capture
from harness.capture.spool import SpooledPacket, encode
from harness.errors import HarnessError
from harness.history.events import Event

WALL_NS = 1_763_697_109_120_331_777
STALL = {"connection": 1, "watchdog": "ack_progress", "age_ms": 1507.3, "setting": "stall_after = 1.50 s"}


def udp(payload: bytes) -> bytes:
    """A minimal IPv4 UDP packet 10.0.0.1:4000 > 10.0.0.2:5000."""
    length = 28 + len(payload)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    return header + struct.pack(">HHHH", 4000, 5000, 8 + len(payload), 0) + payload


def small_capture(path: Path) -> Path:
    with CaptureWriter(path, zero_ns=WALL_NS, comment="failed; seed 42; replay: deadair run x --seed 42") as writer:
        writer.packet(1_000, "phone", udp(b"one"), "delivered after 12.0 ms")
        writer.event(2_001, "phone", "publisher", "stall:detected", STALL)
        writer.packet(3_000, "backhaul up", udp(b"three"), "dropped: black_hole f1")
        writer.packet(4_000, "phone", udp(b"4"), "")
        writer.event(5_000, "-", "network", "fault:left", {"fault": "f1", "touched": 1, "receipt": {}})
    return path


# --- our own reader ------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    rows = list(read_capture(small_capture(tmp_path / "c.pcapng")))
    assert [(row.number, row.interface, row.t_ns - WALL_NS) for row in rows] == [
        (1, "phone", 1_000),
        (2, EVENTS_INTERFACE, 2_001),
        (3, "backhaul up", 3_000),
        (4, "phone", 4_000),
        (5, EVENTS_INTERFACE, 5_000),
    ]
    assert rows[2].raw == udp(b"three")
    assert [row.comments for row in rows[2:4]] == [("dropped: black_hole f1",), ()]
    assert json.loads(rows[1].comments[0])["data"] == STALL


@pytest.mark.parametrize("size", range(5))
def test_every_block_is_padded_to_four_bytes(tmp_path: Path, size: int) -> None:
    with CaptureWriter(tmp_path / "c", zero_ns=0, comment="c" * size) as writer:
        writer.packet(0, "i" * (size + 1), udp(b"x" * size), "f" * size)
        writer.event(1, "n" * size, "s", "a:b", {})
    content = (tmp_path / "c").read_bytes()
    place = 0
    while place < len(content):
        (total,) = struct.unpack_from("<I", content, place + 4)
        assert total % 4 == 0
        assert struct.unpack_from("<I", content, place + total - 4) == (total,)
        place += total
    assert place == len(content)


def test_a_capture_over_its_limit_is_cut_and_says_so_while_events_go_on(tmp_path: Path) -> None:
    with CaptureWriter(tmp_path / "c", zero_ns=0, comment="", max_bytes=5_000) as writer:
        for n in range(20):
            writer.packet(n, "phone", udp(bytes(1_000)), "delivered")
        writer.event(30, "phone", "publisher", "stall:detected", STALL)
    rows = list(read_capture(tmp_path / "c"))
    kept = [row for row in rows if row.interface == "phone"]
    assert (len(kept), writer.packets, writer.left_out) == (4, 4, 16)
    assert "cut here: its limit of 5.00 kB" in rows[4].comments[0]
    assert json.loads(rows[5].comments[0])["name"] == "stall:detected"
    assert "16 packets were left out" in rows[6].comments[0]


def test_a_comment_longer_than_an_option_is_cut_between_characters(tmp_path: Path) -> None:
    with CaptureWriter(tmp_path / "c", zero_ns=0, comment="ü" * 70_000) as writer:
        writer.event(0, "n", "s", "a:b", {"x": "€" * 70_000})
    (row,) = read_capture(tmp_path / "c")
    assert row.comments[0].endswith("€")


def test_an_event_is_one_line_whatever_its_fields_hold() -> None:
    assert event_sentence("gateway", "a:b", {"x": "1\n2\r\n3"}) == "gateway a:b x=1 2 3"
    assert len(event_sentence("gateway", "a:b", {"x": "y" * 9_000})) == 400


def test_errors_name_the_file_and_the_cause(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no/such/dir.*cannot be written"):
        CaptureWriter(tmp_path / "no/such/dir", zero_ns=0, comment="")
    with pytest.raises(HarnessError, match="cannot be read"):
        list(read_capture(tmp_path / "missing"))
    (tmp_path / "text").write_text("this is no capture")
    with pytest.raises(HarnessError, match="is not a little-endian pcapng"):
        list(read_capture(tmp_path / "text"))


def test_a_truncated_capture_gives_its_whole_rows_and_then_an_error(tmp_path: Path) -> None:
    path = small_capture(tmp_path / "c")
    path.write_bytes(path.read_bytes()[:-10])
    rows = read_capture(path)
    assert len([next(rows) for _ in range(4)]) == 4
    with pytest.raises(HarnessError, match="ends inside a block"):
        next(rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_full_disk_is_an_error_with_a_cure() -> None:
    writer = CaptureWriter(Path("/dev/full"), zero_ns=0, comment="")
    with pytest.raises(HarnessError, match="cure: make room"):
        for n in range(3_000):
            writer.packet(n, "phone", udp(bytes(1_000)), "delivered")


def test_writing_keeps_up_with_the_fabric(tmp_path: Path) -> None:
    packet, count = udp(bytes(1_172)), 100_000
    started = time.process_time()
    with CaptureWriter(tmp_path / "c", zero_ns=0, comment="") as writer:
        for n in range(count):
            writer.packet(n, "phone", packet, "delivered after 12.0 ms")
    rate = count / (time.process_time() - started)
    # 240,000/s measured (goal 200,000); a shared machine gets a wide margin.
    assert rate > 60_000, f"{rate:.0f} packets/s"


# --- merging -------------------------------------------------------------------------------------------------------


def spooled(path: Path, times: Sequence[int]) -> Path:
    path.write_bytes(b"".join(encode(SpooledPacket(1_000_000 + t, "phone", udp(b"%d" % t), "sent")) for t in times))
    return path


def told(*times: int) -> Iterator[Event]:
    for number, t_ns in enumerate(times):
        yield Event(number, t_ns, "phone", "publisher", "stall:detected", STALL)


def test_packets_and_events_are_merged_in_order_of_time(tmp_path: Path) -> None:
    spool = spooled(tmp_path / "spool", [10, 30, 20, 50])
    summary = write_capture(
        spool, told(5, 25, 60), tmp_path / "c", zero_monotonic_ns=1_000_000, zero_wall_ns=WALL_NS, comment="passed"
    )
    rows = list(read_capture(tmp_path / "c"))
    assert [row.t_ns - WALL_NS for row in rows] == [5, 10, 20, 25, 30, 50, 60]
    assert (summary.packets, summary.events, summary.left_out) == (4, 3, 0)


def test_a_spool_much_longer_than_the_window_keeps_its_order(tmp_path: Path) -> None:
    times = [n + (3 if n % 2 else 0) for n in range(10_000)]
    write_capture(spooled(tmp_path / "s", times), [], tmp_path / "c", zero_monotonic_ns=1_000_000, zero_wall_ns=0)
    read = [row.t_ns for row in read_capture(tmp_path / "c")]
    assert read == sorted(times)


def test_counts_of_flows_are_no_rows(tmp_path: Path) -> None:
    counted = Event(0, 1, "-", "network", "flow:counted", {"flow": "a", "packets": 1, "bytes": 1, "dropped": 0})
    summary = write_capture(spooled(tmp_path / "s", []), [counted], tmp_path / "c", zero_monotonic_ns=0, zero_wall_ns=0)
    assert summary.events == 0


# --- other programs ------------------------------------------------------------------------------------------------


def tshark(capture: Path, *fields: str) -> list[list[str]]:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed (apt-get install tshark)")
    command = ["tshark", "-r", str(capture), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.peer
def test_an_unmodified_wireshark_shows_fates_interfaces_times_and_events(tmp_path: Path) -> None:
    rows = tshark(
        small_capture(tmp_path / "c.pcapng"), "frame.interface_name", "frame.time_epoch", "frame.comment", "udp.dstport"
    )
    assert [row[0] for row in rows] == ["phone", EVENTS_INTERFACE, "backhaul up", "phone", EVENTS_INTERFACE]
    assert rows[0][1] == "1763697109.120332777"
    assert rows[2][2:] == ["dropped: black_hole f1", "5000"]
    assert json.loads(rows[1][2])["name"] == "stall:detected"


@pytest.mark.peer
def test_wiresharks_info_column_tells_the_event_and_its_level_the_faults(tmp_path: Path) -> None:
    rows = tshark(small_capture(tmp_path / "c.pcapng"), "_ws.col.Info", "syslog.level")
    assert rows[1][0].endswith(
        "publisher stall:detected connection=1 watchdog=ack_progress age_ms=1507.3 setting=stall_after = 1.50 s"
    )
    assert [row[1] for row in rows if len(row) > 1 and row[1]] == ["6", "4"]


@pytest.mark.peer
def test_capinfos_shows_the_captures_own_comment_and_strict_order(tmp_path: Path) -> None:
    if shutil.which("capinfos") is None:
        pytest.skip("capinfos is not installed (apt-get install wireshark-common)")
    command = ["capinfos", "-k", "-o", str(small_capture(tmp_path / "c.pcapng"))]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "failed; seed 42; replay: deadair run x --seed 42" in shown
    assert "Strict time order:   True" in shown


def test_scapy_reads_the_packets_as_they_were(tmp_path: Path) -> None:
    utils = pytest.importorskip("scapy.utils", reason="scapy is not installed (extra craft)")
    with utils.RawPcapNgReader(str(small_capture(tmp_path / "c.pcapng"))) as reader:
        rows = list(reader)
    assert [raw for raw, _ in rows][0::2][:2] == [udp(b"one"), udp(b"three")]
    assert [meta.linktype for _, meta in rows] == [101, 252, 101, 101, 252]
