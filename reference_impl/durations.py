"""Durations at the edge of the reference programs: text with a unit in, seconds out."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|min|h)\s*")


def parse_duration(text: str) -> float:
    """Seconds of ``"250 ms"``, ``"60s"``, ``"1.5 min"`` or ``"0"``; any other bare number is refused."""
    if text.strip() == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and one of {', '.join(_UNITS)}: '250 ms'")
    return float(match["number"]) * _UNITS[match["unit"]]
