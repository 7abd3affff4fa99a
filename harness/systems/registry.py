"""Who can play which role: the reference, and the planted variants of it that a playbook must catch.

A planted variant is one file in ``planted/`` with ``DEFECT`` (a sentence), ``ROLE``, ``CAUGHT_BY`` and ``CLAIM`` (the
playbook, and its claim, that must turn red) and ``main``. Its system is called ``reference-<file>``: ``no_idr.py`` is
``reference-no-idr``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

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


@cache
def defects() -> tuple[Defect, ...]:
    """Every planted variant, by name of its system."""
    found = []
    for module in pkgutil.iter_modules(planted.__path__):
        plant = importlib.import_module(f"{planted.__name__}.{module.name}")
        name = f"reference-{module.name.replace('_', '-')}"
        found.append(Defect(name, plant.ROLE, plant.DEFECT, plant.CAUGHT_BY, plant.CLAIM))
    return tuple(found)


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


def system_for(role: str, name: str) -> System:
    """Raises :class:`DeadairError` naming those who can play the role."""
    found = systems().get((role, name))
    if found is None:
        able = sorted(system for played, system in systems() if played == role)
        raise DeadairError(f"no system {name!r} can play {role}; known: {', '.join(able) or 'none'}")
    return found
