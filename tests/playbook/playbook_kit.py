"""Playbooks for tests, in milliseconds."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from harness.playbook.loader import load_playbook
from harness.playbook.model import Playbook

HEAD = """\
name: A short test
why: tests need short runs
steady: {before: 0, after: 1 ms, within: 40 ms}
"""
HOLE = """\
steps:
  - at: 5 ms
    black_hole: {link: backhaul}
    for: 5 ms
"""
EXPECT = """\
expect:
  - never_refused
"""


def written(folder: Path, body: str = HOLE + EXPECT, *, head: str = HEAD, name: str = "short") -> Path:
    """The file of a playbook; ``head`` is three lines long, so the body begins at line 4."""
    path = folder / f"{name}.playbook.yaml"
    path.write_text(head + dedent(body), encoding="utf-8")
    return path


def loaded(folder: Path, body: str = HOLE + EXPECT) -> Playbook:
    """The playbook itself."""
    return load_playbook(written(folder, body))


def moods(**of_roles: str) -> str:
    """The ``systems`` part that gives fake programs their moods."""
    lines = [f"  {role}: {{options: {{fake: {mood}}}}}" for role, mood in of_roles.items()]
    return "\n".join(["systems:", *lines, ""])
