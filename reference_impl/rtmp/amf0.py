"""AMF0, the encoding of RTMP's commands and metadata (Adobe AMF 0 specification, 2007).

| AMF0 | Python, decoded | Python, encoded |
|---|---|---|
| number | ``float`` | ``float``, ``int`` |
| boolean, null | ``bool``, ``None`` | same |
| undefined, unsupported | :data:`UNDEFINED` | :data:`UNDEFINED` |
| string, long string, XML | ``str`` | ``str`` (long form above 65535 bytes) |
| object | ``dict`` | ``dict`` |
| ECMA array | :class:`EcmaArray` | :class:`EcmaArray` |
| typed object | :class:`TypedObject` | :class:`TypedObject` |
| strict array | ``list`` | ``list``, ``tuple`` |
| date | :class:`Date` | :class:`Date` |
| reference | the value referred to, the same object | (never written) |

The count of an ECMA array is not trusted: encoders write 0 there. Depth and number of values are limited, so a
message cannot be worth more memory than a fixed multiple of its size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError

Value = Any
"""See the table in the module's docstring."""

MAX_DEPTH = 32
MAX_VALUES = 10_000
_OBJECT_END = b"\x00\x00\x09"
_LONGEST_SHORT_STRING = 0xFFFF


class _Undefined(Enum):
    UNDEFINED = "undefined"


UNDEFINED: Final = _Undefined.UNDEFINED


class EcmaArray(dict[str, Value]):
    """An object that says it is an array; metadata comes as one."""


class TypedObject(dict[str, Value]):
    """An object with a class name."""

    def __init__(self, class_name: str, values: dict[str, Value] | None = None) -> None:
        super().__init__(values or {})
        self.class_name = class_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypedObject) and self.class_name == other.class_name and dict.__eq__(self, other)

    __hash__ = None


@dataclass(frozen=True, slots=True)
class Date:
    """Milliseconds since 1970 in UTC; the time zone field is reserved and should be 0."""

    milliseconds: float
    time_zone: int = 0


def encode(*values: Value) -> bytes:
    """``values`` one after the other. Raises :class:`LocalProtocolError` for what AMF0 cannot hold."""
    out = bytearray()
    for value in values:
        _encode(out, value, 0)
    return bytes(out)


def decode_all(data: bytes) -> list[Value]:
    """Every value in ``data``. Raises :class:`RemoteProtocolError` if it is cut short, too deep or not AMF0."""
    decoder = _Decoder(data)
    values = []
    while decoder.position < len(data):
        decoder.forget_references()
        values.append(decoder.value(0))
    return values


def _encode(out: bytearray, value: Value, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LocalProtocolError(f"AMF0 value deeper than {MAX_DEPTH}")
    if isinstance(value, bool):
        out += b"\x01\x01" if value else b"\x01\x00"
    elif isinstance(value, (int, float)):
        out += b"\x00" + struct.pack(">d", value)
    elif isinstance(value, str):
        _encode_string(out, value)
    elif value is None:
        out += b"\x05"
    elif value is UNDEFINED:
        out += b"\x06"
    elif isinstance(value, Date):
        out += b"\x0b" + struct.pack(">dh", value.milliseconds, value.time_zone)
    elif isinstance(value, dict):
        _encode_object(out, value, depth)
    elif isinstance(value, (list, tuple)):
        out += b"\x0a" + struct.pack(">I", len(value))
        for item in value:
            _encode(out, item, depth + 1)
    else:
        raise LocalProtocolError(f"AMF0 has no form for a {type(value).__name__}: {value!r}")


def _encode_string(out: bytearray, text: str) -> None:
    data = text.encode()
    if len(data) > _LONGEST_SHORT_STRING:
        out += b"\x0c" + struct.pack(">I", len(data)) + data
    else:
        out += b"\x02" + struct.pack(">H", len(data)) + data


def _encode_object(out: bytearray, value: dict[str, Value], depth: int) -> None:
    if isinstance(value, TypedObject):
        out += b"\x10" + _encode_key(value.class_name)
    elif isinstance(value, EcmaArray):
        out += b"\x08" + struct.pack(">I", len(value))
    else:
        out += b"\x03"
    for key, item in value.items():
        out += _encode_key(key)
        _encode(out, item, depth + 1)
    out += _OBJECT_END


def _encode_key(key: str) -> bytes:
    data = key.encode()
    if len(data) > _LONGEST_SHORT_STRING:
        raise LocalProtocolError(f"AMF0 name of {len(data)} bytes, at most {_LONGEST_SHORT_STRING}: {key[:40]!r}…")
    return struct.pack(">H", len(data)) + data


class _Decoder:
    """One message's worth of AMF0."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self._data = data
        self._values = 0
        self._references: list[Value] = []

    def forget_references(self) -> None:
        """References count within one top-level value."""
        self._references = []

    def value(self, depth: int) -> Value:
        self._values += 1
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            raise RemoteProtocolError(f"AMF0 deeper than {MAX_DEPTH} or with more than {MAX_VALUES} values")
        marker = self._take(1)[0]
        read = _READERS.get(marker)
        if read is None:
            raise RemoteProtocolError(f"AMF0 type marker {marker} at byte {self.position - 1} is not known")
        return read(self, depth)

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise RemoteProtocolError(f"AMF0 ends after {len(self._data)} bytes where {end} are needed")
        part = self._data[self.position : end]
        self.position = end
        return part

    def _text(self, length_bytes: int) -> str:
        length = int.from_bytes(self._take(length_bytes), "big")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"AMF0 string is not UTF-8: {error}") from None

    def number(self, _depth: int) -> float:
        return float(struct.unpack(">d", self._take(8))[0])

    def boolean(self, _depth: int) -> bool:
        return self._take(1) != b"\x00"

    def string(self, _depth: int) -> str:
        return self._text(2)

    def long_string(self, _depth: int) -> str:
        return self._text(4)

    def null(self, _depth: int) -> None:
        return None

    def undefined(self, _depth: int) -> Value:
        return UNDEFINED

    def date(self, _depth: int) -> Date:
        return Date(*struct.unpack(">dh", self._take(10)))

    def object(self, depth: int) -> dict[str, Value]:
        return self._fill({}, depth)

    def typed_object(self, depth: int) -> dict[str, Value]:
        return self._fill(TypedObject(self._text(2)), depth)

    def ecma_array(self, depth: int) -> dict[str, Value]:
        self._take(4)
        return self._fill(EcmaArray(), depth)

    def _fill(self, target: dict[str, Value], depth: int) -> dict[str, Value]:
        self._references.append(target)
        while self._data[self.position : self.position + 3] != _OBJECT_END:
            key = self._text(2)
            target[key] = self.value(depth + 1)
        self.position += 3
        return target

    def strict_array(self, depth: int) -> list[Value]:
        count = int.from_bytes(self._take(4), "big")
        values: list[Value] = []
        self._references.append(values)
        values.extend(self.value(depth + 1) for _ in range(count))
        return values

    def reference(self, _depth: int) -> Value:
        index = int.from_bytes(self._take(2), "big")
        if index >= len(self._references):
            raise RemoteProtocolError(f"AMF0 reference {index}, but only {len(self._references)} objects so far")
        return self._references[index]


_READERS: dict[int, Callable[[_Decoder, int], Value]] = {
    0x00: _Decoder.number,
    0x01: _Decoder.boolean,
    0x02: _Decoder.string,
    0x03: _Decoder.object,
    0x05: _Decoder.null,
    0x06: _Decoder.undefined,
    0x07: _Decoder.reference,
    0x08: _Decoder.ecma_array,
    0x0A: _Decoder.strict_array,
    0x0B: _Decoder.date,
    0x0C: _Decoder.long_string,
    0x0D: _Decoder.undefined,
    0x0F: _Decoder.long_string,
    0x10: _Decoder.typed_object,
}
