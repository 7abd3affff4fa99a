"""From a ``*.playbook.yaml`` to a :class:`Playbook`, or every mistake in it with line and column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from harness.checks import Expectation, LimitError, expectation
from harness.checks.parameters import did_you_mean
from harness.errors import PlaybookError, Problem
from harness.faults import REGISTRY, Fault, FaultError
from harness.network.presets import PRESETS
from harness.network.topology import Topology
from harness.playbook.document import Document, Place, read_document
from harness.playbook.fields import Strict, construct, text_form
from harness.playbook.model import (
    Ask,
    Choice,
    Control,
    Playbook,
    PlaybookText,
    Start,
    Steady,
    Step,
    SystemText,
    TimingText,
)

SUFFIX = ".playbook.yaml"
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
TIMING = frozenset({"at", "after", "for"})


class ControlText(Strict):
    role: str
    verb: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class StartText(Strict):
    role: str


class AskText(Strict):
    question: str


OWN_VERBS: Mapping[str, tuple[type[Strict], Callable[[Any], Ask | Control | Start]]] = {
    "control": (ControlText, lambda text: Control(text.role, text.verb, text.arguments)),
    "start": (StartText, lambda text: Start(text.role)),
    "ask": (AskText, lambda text: Ask(text.question, answered=True)),
    "observe": (AskText, lambda text: Ask(text.question, answered=False)),
}
"""Verbs that break nothing."""

_SHORT = {"kill": "role", "pause": "role", "restart": "role", "start": "role", "ask": "question", "observe": "question"}
"""``kill: publisher`` is short for ``kill: {role: publisher}``."""


def handle_of(path: Path) -> str:
    """``hotspot/backhaul_drop_4s`` for a playbook under ``scenarios/``; else its path without the ending."""
    resolved = path.resolve()
    inside = resolved.is_relative_to(SCENARIOS)
    return str(resolved.relative_to(SCENARIOS) if inside else path).removesuffix(SUFFIX)


def load_playbook(path: Path) -> Playbook:
    """Raises :class:`PlaybookError` with every mistake that was found."""
    return _Loader(read_document(path)).load()


class _Loader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._problems: list[Problem] = []

    def load(self) -> Playbook:
        text = self._outer()
        topology = self._topology(text.topology)
        roles = topology.roles
        cast = {role: Choice("reference", {}) for role in roles}
        for role, given in text.systems.items():
            self._known("role", role, roles, ("systems", role))
            cast[role] = _choice(given)
        steps = [self._step(topology, raw, ("steps", number)) for number, raw in enumerate(text.steps)]
        always = [self._step(topology, raw, ("always", number), timed=False) for number, raw in enumerate(text.always)]
        expectations = [self._expectation(raw, ("expect", number)) for number, raw in enumerate(text.expect)]
        self._raise_if_wrong()
        path = self._document.path
        steady = text.steady
        return Playbook(
            path=path,
            handle=handle_of(path),
            name=text.name.strip(),
            why=text.why.strip(),
            source=text.source.strip(),
            topology=topology,
            cast=cast,
            steady=Steady(steady.before, steady.after, steady.within),
            steps=tuple(step for step in steps if step is not None),
            expectations=tuple(entry for entry in expectations if entry is not None),
            always=tuple(step for step in always if step is not None),
            soak=text.soak,
        )

    # --- the parts -----------------------------------------------------------------------------------------

    def _outer(self) -> PlaybookText:
        try:
            return PlaybookText.model_validate(self._document.data)
        except ValidationError as error:
            self._note(error, (), known=PlaybookText.model_fields)
            self._fail()

    def _topology(self, name: str) -> Topology:
        self._known("topology", name, PRESETS, ("topology",))
        if name not in PRESETS:
            self._fail()
        return PRESETS[name]

    def _step(self, topology: Topology, raw: dict[str, Any], place: Place, *, timed: bool = True) -> Step | None:
        verbs = [key for key in raw if key not in TIMING]
        if len(verbs) != 1:
            what = f"a step has exactly one verb, this one has {', '.join(verbs) or 'none'}"
            self._add(place, what, hint=f"verbs: {', '.join(sorted([*REGISTRY, *OWN_VERBS]))}")
            return None
        timing = self._timing(raw, place, timed=timed)
        verb = self._verb(topology, verbs[0], raw[verbs[0]], (*place, verbs[0]))
        if timing is None or verb is None:
            return None
        if isinstance(verb, Fault) and not verb.lasting and timing.for_ is not None and verb.kind != "restart":
            self._add((*place, "for"), f"{verb.kind} is over in a moment, so it cannot take a 'for'")
        number, line = int(place[-1]), self._document.line(place)
        return Step(number, line, _sentence(verb), verb, timing.at, timing.after, timing.for_)

    def _timing(self, raw: dict[str, Any], place: Place, *, timed: bool) -> TimingText | None:
        given = {key: raw[key] for key in raw if key in TIMING}
        try:
            timing = TimingText.model_validate(given)
        except ValidationError as error:
            self._note(error, place, known=TIMING)
            return None
        if timed and (timing.at is None) == (timing.after is None):
            self._add(
                place, "a step needs either 'at' (a time) or 'after' (an event)", hint="write for example at: 2 s"
            )
            return None
        if not timed and given:
            self._add(place, "what is done always is done at the end: it has no time of its own")
        return timing

    def _verb(self, topology: Topology, name: str, given: object, place: Place) -> Fault | Ask | Control | Start | None:
        self._known("verb", name, [*REGISTRY, *OWN_VERBS], place)
        if name not in REGISTRY and name not in OWN_VERBS:
            return None
        arguments = {_SHORT[name]: given} if name in _SHORT and isinstance(given, str) else given or {}
        form = OWN_VERBS[name][0] if name in OWN_VERBS else text_form(REGISTRY[name])
        try:
            read = form.model_validate(arguments)
        except ValidationError as error:
            self._note(error, place, known=form.model_fields)
            return None
        try:
            return self._built(topology, name, read)
        except (FaultError, ValueError) as error:
            self._add(place, str(error))
            return None

    def _built(self, topology: Topology, name: str, read: Strict) -> Fault | Ask | Control | Start:
        if name not in OWN_VERBS:
            fault: Fault = construct(REGISTRY[name], {key: getattr(read, key) for key in read.model_fields_set})
            fault.validate(topology)
            return fault
        verb = OWN_VERBS[name][1](read)
        if isinstance(verb, Control | Start) and verb.role not in topology.roles:
            raise ValueError(f"no role is called {verb.role!r}; {did_you_mean(verb.role, topology.roles)}")
        return verb

    def _expectation(self, raw: str | dict[str, Any], place: Place) -> Expectation | None:
        if isinstance(raw, dict) and len(raw) != 1:
            self._add(place, f"one claim per entry, this one has {len(raw)}", hint="begin each claim with '- '")
            return None
        name, given = next(iter(raw.items())) if isinstance(raw, dict) else (raw, {})
        try:
            return expectation(name, given or {}, line=self._document.line(place))
        except LimitError as error:
            at = (*place, name, error.parameter) if error.parameter else (*place, name)
            self._add(at, error.what, hint=error.hint)
        except (TypeError, AttributeError):
            self._add((*place, name), f"{name} takes limits as a mapping", hint=f"write for example {name}: {{…}}")
        return None

    # --- mistakes ------------------------------------------------------------------------------------------

    def _known(self, what: str, name: str, known: Iterable[str], place: Place) -> None:
        names = list(known)
        if name not in names:
            self._add(place, f"no {what} is called {name!r}", hint=did_you_mean(name, names))

    def _add(self, place: Place, what: str, *, hint: str = "") -> None:
        self._problems.append(self._document.problem(place, what, hint=hint))

    def _note(self, error: ValidationError, place: Place, *, known: Iterable[str]) -> None:
        for detail in error.errors():
            at = (*place, *(part for part in detail["loc"] if part not in ("str", "SystemText")))
            self._add(at, _in_words(detail), hint=_hint(detail, known))

    def _raise_if_wrong(self) -> None:
        if self._problems:
            self._fail()

    def _fail(self) -> NoReturn:
        ordered = sorted(self._problems, key=lambda problem: (problem.line, problem.column))
        raise PlaybookError(self._document.path, ordered)


def _choice(given: str | SystemText) -> Choice:
    if isinstance(given, str):
        return Choice(given, {})
    return Choice(given.system, {name: str(value) for name, value in given.options.items()})


def _sentence(verb: Fault | Ask | Control | Start) -> str:
    if isinstance(verb, Fault):
        return verb.describe()
    if isinstance(verb, Ask):
        return verb.question
    if isinstance(verb, Control):
        return f"{verb.role} is asked to {verb.verb}"
    return f"{verb.role} is started again"


def _in_words(detail: ErrorDetails) -> str:
    where = str(detail["loc"][-1]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        return f"{where!r} is not known here"
    if detail["type"] == "missing":
        return f"{where!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message


def _hint(detail: ErrorDetails, known: Iterable[str]) -> str:
    if detail["type"] == "extra_forbidden" and detail["loc"]:
        return did_you_mean(str(detail["loc"][-1]), known)
    return ""
