"""Who can play which role: the reference, and the planted variants of it that a playbook must catch.

A planted variant is one file in ``planted/`` with ``DEFECT`` (a sentence), ``ROLE``, ``CAUGHT_BY`` and ``CLAIM`` (the
playbook, and its claim, that must turn red), ``main``, and perhaps ``WITH``: which other systems have to play which
roles for the defect to show. Its system is called ``reference-<file>``: ``no_idr.py`` is
``reference-no-idr``.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import DeadairError
from harness.playbook.engine import System
from harness.systems import planted
from harness.systems.reference import ROLES, ReferenceSystem


@dataclass(frozen=True, slots=True)
class Defect:
    """A deliberately broken variant, and what must catch it."""

    system: str
    role: str
    sentence: str
    caught_by: str
    claim: str
    """The check that must turn red there."""
    partners: Mapping[str, str] = field(default_factory=dict)
    """Role → system that must play it, so that the defect shows."""

    @property
    def cast(self) -> Mapping[str, str]:
        """Who plays differently from the reference: the defect and its partners."""
        return {**self.partners, self.role: self.system}


@cache
def defects() -> tuple[Defect, ...]:
    """Every planted variant, by name of its system."""
    folder = Path(planted.__file__ or "").parent
    return tuple(_defect(path) for path in sorted(folder.glob("[!_]*.py")))


def _defect(path: Path) -> Defect:
    said = _constants(path)
    name = f"reference-{path.stem.replace('_', '-')}"
    return Defect(name, said["ROLE"], said["DEFECT"], said["CAUGHT_BY"], said["CLAIM"], said.get("WITH", {}))


def _constants(path: Path) -> Mapping[str, Any]:
    """The module's constants by name: ``NAME = "…"`` and ``NAME = {…}`` at the top level, read without importing it."""
    found: dict[str, Any] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, (ast.Constant, ast.Dict)):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            found |= dict.fromkeys(names, ast.literal_eval(statement.value))
    return found


@cache
def systems() -> Mapping[tuple[str, str], System]:
    """``(role, name)`` → system."""
    known: dict[tuple[str, str], System] = {}
    for role in ROLES:
        known[role, "reference"] = ReferenceSystem(role)
    for defect in defects():
        module = f"{planted.__name__}.{defect.system.removeprefix('reference-').replace('-', '_')}"
        known[defect.role, defect.system] = ReferenceSystem(defect.role, name=defect.system, module=module)
    return known


def names_by_role() -> Mapping[str, list[str]]:
    """Role → names of the systems that can play it."""
    by_role: dict[str, list[str]] = {}
    for role, name in systems():
        by_role.setdefault(role, []).append(name)
    return by_role


def system_for(role: str, name: str) -> System:
    """Raises :class:`DeadairError` naming those who can play the role."""
    found = systems().get((role, name))
    if found is None:
        able = names_by_role().get(role, [])
        close = get_close_matches(name, able, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise DeadairError(f"no system {name!r} can play {role}{guess} (known: {', '.join(sorted(able)) or 'none'})")
    return found
