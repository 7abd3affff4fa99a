"""The capture on its way to disk: a flat file of packets, written while the run goes on, read when it is over.

Format, all little-endian, one record after the other, no header::

    t_ns      u64   CLOCK_MONOTONIC
    lengths   u16 interface, u16 fate, u32 packet
    interface, fate (UTF-8), packet (raw IPv4 or IPv6)

The forwarder only appends to a batch in memory; a process of its own writes it. A file cut short by a crash is read
up to its last whole record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_RECORD = struct.Struct("<QHHI")
FILE_NAME = "capture.spool"
"""In the run's directory."""


class SpooledPacket(NamedTuple):
    """One packet at one place of its way."""

    t_ns: int
    """CLOCK_MONOTONIC, absolute."""
    interface: str
    """Where it was seen: a node's interface or a link's direction."""
    raw: bytes
    """The IP packet as it stood there."""
    fate: str
    """What became of it there, for a person."""


def encode(packet: SpooledPacket) -> bytes:
    """One record."""
    interface, fate = packet.interface.encode(), packet.fate.encode()
    head = _RECORD.pack(packet.t_ns, len(interface), len(fate), len(packet.raw))
    return b"".join((head, interface, fate, packet.raw))


def read_packets(path: Path) -> Iterator[SpooledPacket]:
    """All whole records of a spool file in the order written (roughly that of time)."""
    with path.open("rb") as file:
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            t_ns, interface, fate, raw = _RECORD.unpack(head)
            body = file.read(interface + fate + raw)
            if len(body) < interface + fate + raw:
                return
            names = body[: interface + fate]
            yield SpooledPacket(
                t_ns,
                names[:interface].decode(),
                body[interface + fate :],
                names[interface:].decode(errors="replace"),
            )
