"""A playbook as a value: what runs, what is broken when, and what must hold.

The file's outer shape (names, types, units) is a pydantic model; what a step may break and what ``expect`` may claim
is read with the fault's and the check's own declaration, so that there is one list of verbs and one of checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from harness import units
from harness.checks import Expectation
from harness.faults import Fault
from harness.network.topology import Topology
from harness.playbook.fields import Duration, Strict

_AFTER = re.compile(r"(?:(?P<source>[a-z0-9_]+)\s+)?(?P<name>[a-z_]+:[a-z_]+)(?:\s*\+\s*(?P<delay>[0-9.]+\s*[a-zµ]+))?")


@dataclass(frozen=True, slots=True)
class After:
    """A moment given by an event: ``"publisher stall:detected + 500 ms"``."""

    source: str | None
    name: str
    delay_ns: int

    @classmethod
    def parse(cls, text: str) -> After:
        """Raises ValueError with an example."""
        match = _AFTER.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} names no event; write for example 'publisher stall:detected + 500 ms'")
        return cls(match["source"], match["name"], units.parse_duration(match["delay"]) if match["delay"] else 0)


def _read_after(value: object) -> object:
    return After.parse(value) if isinstance(value, str) else value


AfterText = Annotated[
    Any,
    BeforeValidator(_read_after),
    WithJsonSchema({"type": "string", "examples": ["publisher stall:detected + 500 ms"]}),
]


class SteadyText(Strict):
    """How long everything must flow undisturbed before the first step and after the last one."""

    before: Duration = 3 * units.SECOND
    after: Duration = 6 * units.SECOND
    within: Duration = 30 * units.SECOND


class SystemText(Strict):
    """A system by name, with command-line options of its program (without the dashes)."""

    system: str = "reference"
    options: dict[str, Any] = Field(default_factory=dict)


class TimingText(Strict):
    """When a step happens, and for how long what it breaks stays broken."""

    at: Duration | None = None
    after: AfterText | None = None
    for_: Duration | None = Field(default=None, alias="for")


class PlaybookText(Strict):
    """The file as it stands, before faults and checks have been read."""

    name: str = Field(min_length=1, description="what happens, in a few words")
    why: str = Field(min_length=1, description="who wants this behaviour, and what breaks without it")
    source: str = Field(default="", description="catalogue row or issue that asked for it")
    topology: str = Field(default="hotspot", description="a preset: see `deadair list --topologies`")
    systems: dict[str, str | SystemText] = Field(default_factory=dict)
    steady: SteadyText = Field(default_factory=SteadyText)
    steps: list[dict[str, Any]] = Field(default_factory=list)
    expect: list[str | dict[str, Any]] = Field(min_length=1)
    always: list[dict[str, Any]] = Field(default_factory=list)
    soak: bool = Field(default=False, description="takes more than two minutes; left out unless named or --soak")


@dataclass(frozen=True, slots=True)
class Ask:
    """Says something to a person; with ``answered`` waits for an answer, which goes into the history."""

    question: str
    answered: bool


@dataclass(frozen=True, slots=True)
class Control:
    """A control verb sent to the program that plays a role: ``control: {role: gateway, verb: stop_egress}``."""

    role: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """The program of a role is started (again)."""

    role: str


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens in the script."""

    number: int
    line: int
    text: str
    verb: Fault | Ask | Control | Start
    at_ns: int | None
    """From the script's zero; None where ``after`` says when."""
    after: After | None
    for_ns: int | None
    """None: until the script's end (for a fault that lasts)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who plays a role, with which options."""

    system: str
    options: Mapping[str, str]
    line: int = 0
    column: int = 0
    """Where the playbook says so; 0 where it does not."""


@dataclass(frozen=True, slots=True)
class Steady:
    """Undisturbed time before and after the script, and how long reaching it may take (ns)."""

    before_ns: int
    after_ns: int
    within_ns: int


@dataclass(frozen=True, slots=True)
class Playbook:
    """Everything one run needs, checked."""

    path: Path
    handle: str
    """``hotspot/backhaul_drop_4s``: what the command line calls it."""
    name: str
    why: str
    source: str
    topology: Topology
    cast: Mapping[str, Choice]
    steady: Steady
    steps: tuple[Step, ...]
    expectations: tuple[Expectation, ...]
    always: tuple[Step, ...]
    soak: bool
