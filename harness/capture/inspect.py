"""Shows one row of a capture in full: ``deadair packet capture.pcapng 4711``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from harness.capture.craft import dissect
from harness.capture.pcapng import LINKTYPE_RAW, CapturedFrame, read_capture
from harness.errors import HarnessError


def show(capture: Path, number: int) -> str:
    """When, where, its fate, and what is in it; ``number`` as Wireshark counts, from 1.

    Raises :class:`HarnessError` for a capture that cannot be read or has no such row, or where scapy is missing.
    """
    last = 0
    for frame in read_capture(capture):
        if frame.number == number:
            return _describe(frame)
        last = frame.number
    raise HarnessError(f"{capture} has no row {number}", cure=f"its rows are numbered 1 to {last}")


def _describe(frame: CapturedFrame) -> str:
    seconds, ns = divmod(frame.t_ns, 1_000_000_000)
    at = f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%S}.{ns:09d} UTC"
    lines = [f"row {frame.number} on {frame.interface}, {at}"]
    if frame.link_type == LINKTYPE_RAW:
        return "\n".join([*lines, *frame.comments, "", dissect(frame.raw)])
    return "\n".join([*lines, *(_laid_out(comment) for comment in frame.comments)])


def _laid_out(comment: str) -> str:
    """An event's comment is JSON; a note of the writer is plain text."""
    try:
        return json.dumps(json.loads(comment), indent=2, ensure_ascii=False)
    except ValueError:
        return comment
