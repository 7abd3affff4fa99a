"""What a person reads while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.playbook.board import Told
from harness.playbook.progress import ProgressLines


def told(name: str, source: str = "gateway", **data: Any) -> Told:
    fields: Mapping[str, Any] = data
    return Told(0, "node", source, name, fields)


def test_only_a_gate_that_was_open_before_forwards_again() -> None:
    lines = ProgressLines()
    shown = [lines.line(told("gate:opened", frame=frame)) for frame in (0, 130, 260)]
    assert shown == [
        "gateway     forwards from an IDR (frame 0)",
        "gateway     forwards again from an IDR (frame 130)",
        "gateway     forwards again from an IDR (frame 260)",
    ]
    assert "again" not in lines.line(told("gate:opened", "other", frame=9))


def test_what_does_not_change_the_picture_is_not_shown() -> None:
    assert not ProgressLines().line(told("media:progressed"))
