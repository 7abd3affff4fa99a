"""Durations, rates and sizes: parsed from text with a unit, printed with a unit.

Inside the harness a duration is an ``int`` of nanoseconds (exact, and the unit of the kernel's clocks), a
rate is an ``int`` of bits per second, a size is an ``int`` of bytes. At every edge (playbooks, command line,
reports) they are text with a unit: ``"250 ms"``, ``"2 Mbit/s"``, ``"64 kB"``. A bare number is refused,
because "4" meant seconds to its writer and milliseconds to its reader.
"""

from __future__ import annotations

import re

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

_DURATION_UNITS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "µs": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "min": MINUTE,
    "h": HOUR,
}
_RATE_UNITS = {"bit/s": 1, "kbit/s": 1_000, "Mbit/s": 1_000_000, "Gbit/s": 1_000_000_000}
_SIZE_UNITS = {"B": 1, "kB": 1_000, "KiB": 1_024, "MB": 1_000_000, "MiB": 1_048_576}

_QUANTITY = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-zµ/%]*)\s*")


class UnitError(ValueError):
    """A quantity that cannot be read; the message names the text, what is allowed and an example."""


def parse_duration(text: str) -> int:
    """Nanoseconds of ``"250 ms"``, ``"4s"``, ``"1.5 min"``; a bare number other than 0 is refused."""
    return _parse(text, units=_DURATION_UNITS, kind="duration", example="250 ms")


def parse_rate(text: str) -> int:
    """Bits per second of ``"2 Mbit/s"``."""
    return _parse(text, units=_RATE_UNITS, kind="rate", example="2 Mbit/s")


def parse_size(text: str) -> int:
    """Bytes of ``"64 kB"``."""
    return _parse(text, units=_SIZE_UNITS, kind="size", example="64 kB")


def parse_share(text: str) -> float:
    """A probability in 0..1 of ``"2 %"`` or ``"0.02"``."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match["unit"] not in ("", "%"):
        raise UnitError(f"{text!r} is not a share; write for example '2 %'")
    share = float(match["number"]) / (100 if match["unit"] == "%" else 1)
    if share > 1:
        raise UnitError(f"{text!r} is more than the whole; write for example '2 %'")
    return share


def _parse(text: str, *, units: dict[str, int], kind: str, example: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UnitError(f"{text!r} is not a {kind}; write for example {example!r}")
    number, unit = match["number"], match["unit"]
    if unit == "" and float(number) == 0:
        return 0
    if unit == "":
        raise UnitError(f"{text!r} has no unit; write for example {example!r} ({', '.join(units)})")
    if unit not in units:
        raise UnitError(f"{text!r}: unknown unit {unit!r} for a {kind}; known are {', '.join(units)}")
    return round(float(number) * units[unit])


def format_duration(ns: int) -> str:
    """Three significant digits and the unit a person would choose: ``"4.00 s"``, ``"350 ms"``, ``"62 µs"``."""
    size = abs(ns)
    if size >= 2 * MINUTE:
        return f"{ns / MINUTE:.1f} min"
    for unit, factor in (("s", SECOND), ("ms", MILLISECOND), ("µs", MICROSECOND)):
        if size >= factor:
            return f"{_significant(ns / factor)} {unit}"
    return f"{ns} ns" if ns else "0 s"


def format_rate(bits_per_second: float) -> str:
    """``"2.00 Mbit/s"``."""
    for unit in ("Gbit/s", "Mbit/s", "kbit/s"):
        if bits_per_second >= _RATE_UNITS[unit]:
            return f"{_significant(bits_per_second / _RATE_UNITS[unit])} {unit}"
    return f"{bits_per_second:.0f} bit/s"


def format_size(size: float) -> str:
    """``"64.0 kB"``."""
    for unit in ("MB", "kB"):
        if size >= _SIZE_UNITS[unit]:
            return f"{_significant(size / _SIZE_UNITS[unit])} {unit}"
    return f"{size:.0f} B"


def _significant(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"
