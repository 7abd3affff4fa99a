"""Writes and reads pcapng: every packet with its fate as a comment, every event as a row of its own.

Format: draft-ietf-opsawg-pcapng, little-endian, one section. Packets are raw IP (LINKTYPE_RAW, 101) on an interface
named after the port where they were sent. Events are on the interface ``harness-events`` with link type *Wireshark
upper PDU* (252), whose header of tags names the dissector: ``syslog``, because it is the one that puts the text into
the Info column (measured with tshark 4.0: ``json`` shows "JavaScript Object Notation" there), so that an unmodified
Wireshark shows them readably between the packets. The whole event is the row's comment, as JSON. Filters: ``syslog``,
``syslog.level == 4`` (faults), ``frame.comment contains "stall:detected"``.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import HarnessError
from harness.units import format_size

EVENTS_INTERFACE = "harness-events"
LINKTYPE_RAW = 101
LINKTYPE_WIRESHARK_UPPER_PDU = 252

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPT_COMMENT, _IF_NAME, _IF_TSRESOL = 1, 2, 9
_NANOSECONDS = b"\x09"
# epan/exported_pdu_tlvs.h; tags are big-endian whatever the section is.
_TAG_DISSECTOR_NAME, _TAG_COLUMN_PROTOCOL = 12, 33
# RFC 5424: priority = facility * 8 + severity; local0, warning for what the harness broke, else informational.
_PRIORITY_FAULT, _PRIORITY_EVENT = 16 * 8 + 4, 16 * 8 + 6

_HEAD = struct.Struct("<II")
_PACKET_HEAD = struct.Struct("<IIIIIII")
_LENGTH = struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_TAG = struct.Struct(">HH")
_PADDING = (b"", b"\x00\x00\x00", b"\x00\x00", b"\x00")
_END_OF_OPTIONS = b"\x00\x00\x00\x00"
_LONGEST_COMMENT = 65_000
_LONGEST_INFO = 400
_BUFFER_BYTES = 1 << 20
_FATES_KEPT = 10_000


class CaptureWriter:
    """Writes one capture; give it everything in order of time.

    ``zero_ns`` is the wall clock (ns since 1970) at the run's zero, from which all ``t_ns`` count. With ``max_bytes``
    packets that would make the file larger are left out and counted (events still get in, they are few); the capture
    then says so where it stops and in its last row. Raises :class:`HarnessError` where the file cannot be written.
    """

    def __init__(self, path: Path, *, zero_ns: int, comment: str, max_bytes: int | None = None) -> None:
        self.path = path
        self.packets = 0
        self.left_out = 0
        self._zero_ns = zero_ns
        self._max_bytes = max_bytes
        self._interfaces: dict[str, int] = {}
        self._options: dict[str, bytes] = {}
        self._written = 0
        self._last_ns = 0
        try:
            self._file = path.open("wb", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise HarnessError(f"the capture {path} cannot be written ({error.strerror or error})") from error
        self._write(_section(comment))
        self._interface(EVENTS_INTERFACE, LINKTYPE_WIRESHARK_UPPER_PDU)

    def packet(self, t_ns: int, interface: str, raw: bytes, comment: str) -> None:
        """One IP packet as it was seen on ``interface``; ``comment`` is its fate."""
        number = self._interfaces.get(interface)
        if number is None:
            number = self._interface(interface, LINKTYPE_RAW)
        options = self._options.get(comment)
        if options is None:
            options = self._remember(comment)
        if self._max_bytes is not None and self._written + 32 + len(raw) + len(options) > self._max_bytes:
            self._leave_out(t_ns)
            return
        self.packets += 1
        self._last_ns = t_ns
        self._write(_packet(number, self._zero_ns + t_ns, raw, options))

    def event(self, t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        """One event of the history as a row: a sentence in the Info column, the event as JSON in the comment."""
        document = {"t_ns": t_ns, "node": node, "source": source, "name": name, "data": data}
        priority = _PRIORITY_FAULT if name.startswith("fault:") else _PRIORITY_EVENT
        sentence = f"<{priority}>{event_sentence(source, name, data)}"
        self._last_ns = t_ns
        self._event(t_ns, sentence, json.dumps(document, separators=(",", ":"), ensure_ascii=False))

    def close(self) -> None:
        """Finish the file; harmless when repeated."""
        if self._file.closed:
            return
        if self.left_out:
            self._note(self._last_ns, f"the capture was cut: {self.left_out:,} packets were left out")
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _leave_out(self, t_ns: int) -> None:
        if not self.left_out:
            limit = format_size(self._max_bytes or 0)
            self._note(t_ns, f"the capture is cut here: its limit of {limit} is reached; only events follow")
        self.left_out += 1

    def _note(self, t_ns: int, sentence: str) -> None:
        self._event(t_ns, f"<{_PRIORITY_FAULT}>{sentence}", sentence)

    def _event(self, t_ns: int, message: str, comment: str) -> None:
        options = _comment(comment) + _END_OF_OPTIONS
        self._write(_packet(0, self._zero_ns + t_ns, _upper_pdu(message.encode(errors="replace")), options))

    def _interface(self, name: str, link_type: int) -> int:
        number = len(self._interfaces)
        self._interfaces[name] = number
        options = (
            _option(_IF_NAME, name.encode(errors="replace")) + _option(_IF_TSRESOL, _NANOSECONDS) + _END_OF_OPTIONS
        )
        self._write(_block(_INTERFACE, struct.pack("<HHI", link_type, 0, 0) + options))
        return number

    def _remember(self, comment: str) -> bytes:
        """The options of a packet with this comment; fates repeat, so they are built once."""
        if len(self._options) >= _FATES_KEPT:
            self._options.clear()
        self._options[comment] = _comment(comment) + _END_OF_OPTIONS if comment else b""
        return self._options[comment]

    def _write(self, block: bytes) -> None:
        try:
            self._file.write(block)
        except OSError as error:
            raise self._unwritable(error) from error
        self._written += len(block)

    def _unwritable(self, error: OSError) -> HarnessError:
        # What is still buffered cannot be written either; closing drops it.
        with contextlib.suppress(OSError):
            self._file.close()
        return HarnessError(
            f"the capture {self.path} cannot be written on after {format_size(self._written)}: {error.strerror}",
            cure="make room on the disk, set a limit for the capture, or run without one",
        )


def event_sentence(source: str, name: str, data: Mapping[str, Any]) -> str:
    """An event on one line: ``"publisher stall:detected connection=1 age_ms=1507.3"``."""
    fields = (f"{key}={value}" for key, value in data.items())
    line = " ".join(" ".join([source, name, *fields]).split())
    return line if len(line) <= _LONGEST_INFO else line[: _LONGEST_INFO - 1] + "…"


def _section(comment: str) -> bytes:
    options = _comment(comment) + _END_OF_OPTIONS if comment else b""
    # Version 1.0; -1: the section's length is not said.
    return _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1) + options)


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return _HEAD.pack(kind, total) + body + _LENGTH.pack(total)


def _packet(interface: int, t_ns: int, raw: bytes, options: bytes) -> bytes:
    size = len(raw)
    padding = _PADDING[size & 3]
    total = 32 + size + len(padding) + len(options)
    head = _PACKET_HEAD.pack(_PACKET, total, interface, t_ns >> 32, t_ns & 0xFFFFFFFF, size, size)
    return b"".join((head, raw, padding, options, _LENGTH.pack(total)))


def _comment(text: str) -> bytes:
    # Cut between characters: half a UTF-8 sequence would make the whole comment unreadable.
    encoded = text.encode(errors="replace")[:_LONGEST_COMMENT].decode(errors="ignore").encode()
    return _option(_OPT_COMMENT, encoded)


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3]


def _upper_pdu(payload: bytes) -> bytes:
    tags = ((_TAG_DISSECTOR_NAME, b"syslog"), (_TAG_COLUMN_PROTOCOL, b"event"))
    return b"".join([*(_tag(code, value) for code, value in tags), b"\x00\x00\x00\x00", payload])


def _tag(code: int, value: bytes) -> bytes:
    # Strings end with at least one zero and fill up to four bytes.
    padded = value + b"\x00" * (4 - len(value) % 4)
    return _TAG.pack(code, len(padded)) + padded


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One row of a capture, numbered from 1 as Wireshark does."""

    number: int
    t_ns: int
    """Nanoseconds since 1970."""
    interface: str
    link_type: int
    raw: bytes
    comments: tuple[str, ...]


def read_capture(path: Path) -> Iterator[CapturedFrame]:
    """The rows of a capture that :class:`CaptureWriter` wrote, or any little-endian pcapng with ns resolution.

    Raises :class:`HarnessError` for a file that is missing, is no such capture, or ends inside a block.
    """
    interfaces: list[tuple[str, int]] = []
    number = 0
    for kind, body in _blocks(path):
        if kind == _INTERFACE:
            link_type = struct.unpack_from("<H", body)[0]
            names = [value for code, value in _read_options(body, 8) if code == _IF_NAME]
            interfaces.append((names[0].decode(errors="replace") if names else "", link_type))
        elif kind == _PACKET:
            number += 1
            yield _read_packet(number, body, interfaces)


def _read_packet(number: int, body: bytes, interfaces: list[tuple[str, int]]) -> CapturedFrame:
    interface, high, low, size, _ = struct.unpack_from("<IIIII", body)
    name, link_type = interfaces[interface]
    options = _read_options(body, 20 + size + len(_PADDING[size & 3]))
    comments = tuple(value.decode(errors="replace") for code, value in options if code == _OPT_COMMENT)
    return CapturedFrame(number, high << 32 | low, name, link_type, body[20 : 20 + size], comments)


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"the capture {path} cannot be read ({error.strerror or error})") from error
    if content[:4] != struct.pack("<I", _SECTION) or content[8:12] != struct.pack("<I", _BYTE_ORDER_MAGIC):
        raise HarnessError(f"{path} is not a little-endian pcapng", cure="give the capture.pcapng of a run")
    place = 0
    while place < len(content):
        if place + 12 > len(content):
            raise HarnessError(f"the capture {path} ends inside a block")
        kind, total = _HEAD.unpack_from(content, place)
        if total < 12 or place + total > len(content):
            raise HarnessError(f"the capture {path} ends inside a block (at byte {place} of {len(content)})")
        yield kind, content[place + 8 : place + total - 4]
        place += total


def _read_options(body: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    while place + 4 <= len(body):
        code, size = _OPTION.unpack_from(body, place)
        if code == 0:
            return
        yield code, body[place + 4 : place + 4 + size]
        place += 4 + size + len(_PADDING[size & 3])
