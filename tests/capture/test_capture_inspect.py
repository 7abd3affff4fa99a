"""One row of a capture in full."""

from __future__ import annotations

import builtins
import struct
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.capture.craft import dissect
from harness.capture.inspect import show
from harness.capture.pcapng import CaptureWriter
from harness.errors import HarnessError


def tcp_v4() -> bytes:
    addresses = struct.pack(">4s4s", bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    header = struct.pack(">BBHHHBBH", 0x45, 0, 40, 7, 0, 63, 6, 0) + addresses
    return header + struct.pack(">HHIIHHHH", 40000, 1935, 1000, 2000, 0x5011, 4096, 0, 0)


def udp_v6() -> bytes:
    return struct.pack(">IHBB16s16s", 0x60000000, 8, 17, 9, bytes(15) + b"\x01", bytes(15) + b"\x02") + struct.pack(
        ">HHHH", 4000, 5000, 8, 0
    )


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    with CaptureWriter(tmp_path / "c.pcapng", zero_ns=1_763_697_109_000_000_000, comment="") as writer:
        writer.packet(1_500, "backhaul up", tcp_v4(), "dropped: black_hole f1")
        writer.event(2_000, "phone", "publisher", "keyframe:requested", {"reason": "reconnect"})
    return tmp_path / "c.pcapng"


def test_a_packet_is_dissected_field_by_field() -> None:
    pytest.importorskip("scapy", reason="scapy is not installed (extra craft)")
    lines = [" ".join(line.split()) for line in dissect(tcp_v4()).splitlines()]
    for line in ("ttl = 63", "src = 10.0.0.1", "sport = 40000", "dport = 1935", "seq = 1000", "flags = FA"):
        assert line in lines


def test_ipv6_is_recognised() -> None:
    pytest.importorskip("scapy", reason="scapy is not installed (extra craft)")
    assert "hlim      = 9" in dissect(udp_v6())


def test_a_packet_is_shown_with_its_place_time_and_fate(capture: Path) -> None:
    pytest.importorskip("scapy", reason="scapy is not installed (extra craft)")
    lines = show(capture, 1).splitlines()
    assert lines[:2] == ["row 1 on backhaul up, 2025-11-21 03:51:49.000001500 UTC", "dropped: black_hole f1"]
    assert "###[ TCP ]###" in lines


def test_an_event_is_shown_as_json_and_needs_no_scapy(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_scapy(monkeypatch)
    assert '"name": "keyframe:requested"' in show(capture, 2)


def test_a_row_that_is_not_there_is_an_error_that_says_what_is(capture: Path) -> None:
    with pytest.raises(HarnessError, match="has no row 3\n  cure: its rows are numbered 1 to 2"):
        show(capture, 3)


def test_without_scapy_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_scapy(monkeypatch)
    with pytest.raises(HarnessError, match=r"pip install 'deadair\[craft\]'"):
        dissect(tcp_v4())


def without_scapy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Mapping[str, Any]) -> ModuleType:
        if name.startswith("scapy"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
