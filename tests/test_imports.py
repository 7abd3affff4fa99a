"""Reads every import and enforces the table of rooms in ``docs/architecture.md``.

The table here is written for a machine, the one in the document for people; a test holds them together.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
ALL = "all of it"

_TELEMETRY = "reference_impl.telemetry"
_PROGRAMS = ["reference_impl"]
_DOORS = [
    "harness.cli", "harness.runs", "harness.reporter", "harness.pytest_plugin", "harness.doctor", "harness.bench",
    "harness.planted", "harness.catalogue", "harness.cputime",
]  # fmt: skip

ROOMS: Mapping[str, list[str]] = {
    "harness.units": [],
    "harness.errors": [],
    "harness.history": ["harness.units", "harness.errors", _TELEMETRY],
    "harness.network": ["harness.units", "harness.errors"],
    "harness.faults": ["harness.network", "harness.units", "harness.errors"],
    "harness.engines.netns": [
        "harness.network", "harness.faults", "harness.history", "harness.capture.spool", "harness.units",
        "harness.errors",
        _TELEMETRY,
    ],
    "harness.checks": ["harness.history", "harness.units"],
    "harness.playbook": [
        "harness.checks", "harness.faults", "harness.history", "harness.network", "harness.units", "harness.errors",
        _TELEMETRY,
    ],
    "harness.systems": ["harness.playbook", "harness.errors", *_PROGRAMS],
    "harness.capture": ["harness.network", "harness.history", "harness.units", "harness.errors"],
    "harness.report": ["harness.history", "harness.checks", "harness.units", "harness.errors"],
    **{door: [ALL] for door in _DOORS},
    "reference_impl.telemetry": [],
    "reference_impl.durations": [],
    "reference_impl.program": [_TELEMETRY],
    "reference_impl.machines": [],
    "reference_impl.rtmp": [],
    "reference_impl.media": ["reference_impl.rtmp.messages", _TELEMETRY],
    **{f"reference_impl.{room}": _PROGRAMS for room in ("client", "gateway", "destination")},
}  # fmt: skip
"""Room → what it may import of ours, besides itself; a room's name stands for everything in it."""

FENCED: Mapping[str, list[str]] = {
    "aiortc": [],
    "scapy": ["harness.capture.craft"],
    "pyroute2": ["harness.engines.netns"],
    "av": ["reference_impl.media", "harness.engines.netns.probes"],
    "pydantic": ["harness.playbook"],
    "ruamel": ["harness.playbook"],
    "pytest": ["harness.cli", "harness.pytest_plugin", "harness.reporter"],
}
"""Somebody else's package → the only places of ours that may import it."""


@dataclass(frozen=True)
class Import:
    """``module`` (dotted, of ours) imports ``name`` in ``line``."""

    module: str
    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line} imports {self.name}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import, also those inside functions; ``from a import b`` counts as ``a.b`` where that is a module."""
    module = module_name(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path}:{node.lineno}: relative import"
            yield from (Import(module, _deepest(node.module, alias.name), node.lineno) for alias in node.names)


def _deepest(module: str, name: str) -> str:
    inside = ROOT / module.replace(".", "/") / name
    return f"{module}.{name}" if inside.is_dir() or inside.with_suffix(".py").exists() else module


def all_imports() -> list[Import]:
    files = [*(ROOT / "harness").rglob("*.py"), *(ROOT / "reference_impl").rglob("*.py")]
    return [found for path in files for found in imports_of(path)]


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if within(module, room)), None)


IMPORTS = all_imports()
OURS = [found for found in IMPORTS if found.name.split(".")[0] in ("harness", "reference_impl", "scenarios")]


def allowed(found: Import) -> bool:
    room = room_of(found.module)
    if room is None:  # the packages' own __init__
        return False
    allowances = [room, *ROOMS[room]]
    if found.name == "harness" and room.startswith("harness."):  # the empty package, for its place on the disk
        return True
    return ALL in allowances or any(within(found.name, allowance) for allowance in allowances)


def test_every_module_lives_in_a_room() -> None:
    packages = {"harness", "harness.engines", "reference_impl"}
    files = [*(ROOT / "harness").rglob("*.py"), *(ROOT / "reference_impl").rglob("*.py")]
    homeless = [name for name in map(module_name, files) if room_of(name) is None and name not in packages]
    assert not homeless, "give it a room in docs/architecture.md and in ROOMS"


def test_no_room_imports_what_it_may_not() -> None:
    assert len(OURS) > 200, "the imports are read at all"
    assert not [str(found) for found in OURS if not allowed(found)]


def test_the_reference_never_imports_the_harness() -> None:
    assert not [
        str(found) for found in OURS if within(found.module, "reference_impl") and within(found.name, "harness")
    ]


@pytest.mark.parametrize("package", FENCED)
def test_somebody_elses_package_stays_inside_its_fence(package: str) -> None:
    users = [found for found in IMPORTS if within(found.name, package)]
    assert not [str(found) for found in users if not any(within(found.module, place) for place in FENCED[package])]


def test_doctor_probes_for_pyav_by_its_name_only() -> None:
    """``deadair doctor`` must start where the extra is missing: the one import of PyAV in the harness is in a probe."""
    path = ROOT / "harness" / "engines" / "netns" / "probes.py"
    top = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Import)]
    assert not any(alias.name == "av" for node in top for alias in node.names)
    assert not [str(found) for found in IMPORTS if within(found.module, "harness.doctor") and within(found.name, "av")]


# --- the document --------------------------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """Room → text of its third column, from the table of the document."""
    found: dict[str, str] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            found |= dict.fromkeys(_rooms_in(cells[0]), cells[2])
    return found


def _rooms_in(cell: str) -> list[str]:
    """``"`reference_impl/client/`, `gateway/`"`` → both with their package in front."""
    names = [name.rstrip("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", cell)]
    package = names[0].split("/")[0]
    return [(name if name.startswith(package) else f"{package}/{name}").replace("/", ".") for name in names]


def _words(allowances: list[str]) -> set[str]:
    """How the document writes them: without ``harness.``, programs by their package."""
    return {name.removeprefix("harness.").replace(".", "/") if name != ALL else name for name in allowances}


def test_the_document_has_exactly_these_rooms() -> None:
    assert set(documented()) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_the_document_allows_exactly_what_is_enforced(room: str) -> None:
    said = documented()[room]
    without_notes = re.sub(r"\(.*?\)", "", said)
    words = {word.strip().strip("`") for word in without_notes.split(",")} - {"nothing"}
    assert words == _words(ROOMS[room]), said


# --- the judge itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "fine"),
    [
        ("harness.playbook.runner", "harness.engines.netns.lab", False),
        ("harness.playbook.runner", "harness.checks", True),
        ("harness.network.link", "harness.faults", False),
        ("harness.engines.netns.lab", "harness.capture.spool", True),
        ("harness.engines.netns.lab", "harness.capture.merge", False),
        ("harness.checks.media", "harness.playbook.model", False),
        ("reference_impl.machines.stall", "reference_impl.telemetry", False),
        ("reference_impl.client.publisher", "harness.units", False),
        ("harness.runs", "harness.engines.netns.engine", True),
    ],
)
def test_the_judge_tells_right_from_wrong(module: str, name: str, fine: bool) -> None:
    assert allowed(Import(module, name, 1)) is fine
