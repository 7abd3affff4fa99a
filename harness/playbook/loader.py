"""From a ``*.playbook.yaml`` to a :class:`Playbook`, or every mistake in it with line and column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from harness.checks import CHECKS, Expectation, LimitError, expectation
from harness.checks.parameters import did_you_mean
from harness.errors import PlaybookError, Problem
from harness.faults import REGISTRY, Fault, FaultError
from harness.history import events
from harness.history.journal import HARNESS_SOURCES
from harness.network.presets import PRESETS
from harness.network.topology import Topology
from harness.playbook.document import Document, Place, read_document
from harness.playbook.fields import Strict, construct, text_form
from harness.playbook.model import (
    After,
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
from reference_impl import telemetry

SUFFIX = ".playbook.yaml"
DEFAULT_TOPOLOGY = "hotspot"
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

SHORT = {"kill": "role", "pause": "role", "restart": "role", "start": "role", "ask": "question", "observe": "question"}
"""``kill: publisher`` is short for ``kill: {role: publisher}``."""

_UNION_ARMS = frozenset({"str", "SystemText", "dict[str,any]"})
"""What pydantic adds to a place to say which kind of value it tried."""
_PLAIN = {
    "string_type": "this must be text (put it in quotes)",
    "dict_type": "this must be a mapping",
    "model_type": "this must be a mapping",
    "list_type": "this must be a list (begin each entry with '- ')",
    "int_type": "this must be a whole number",
    "bool_type": "this must be true or false",
    "string_too_short": "this must not be empty",
    "too_short": "this must not be empty",
}
"""pydantic's words, in ours."""


def handle_of(path: Path) -> str:
    """``hotspot/backhaul_drop_4s`` for a playbook under ``scenarios/``; else its path without the ending.

    A handle also names a run's directory, so it is never absolute and never climbs.
    """
    resolved = path.resolve()
    for root in (SCENARIOS, Path.cwd().resolve()):
        if resolved.is_relative_to(root):
            return str(resolved.relative_to(root)).removesuffix(SUFFIX)
    return str(resolved.relative_to(resolved.anchor)).removesuffix(SUFFIX)


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
        cast = self._cast(text.systems, topology)
        steps = [self._step(topology, raw, ("steps", number)) for number, raw in enumerate(text.steps)]
        always = [self._step(topology, raw, ("always", number), timed=False) for number, raw in enumerate(text.always)]
        self._lone_faults([step for step in steps if step is not None])
        expectations = [self._expectation(topology, raw, ("expect", n)) for n, raw in enumerate(text.expect)]
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
            # numbered on, as a step's number is part of what its fault is called in the history
            always=tuple(replace(step, number=len(steps) + step.number) for step in always if step is not None),
            soak=text.soak,
        )

    # --- the parts -----------------------------------------------------------------------------------------

    def _outer(self) -> PlaybookText:
        """The outer shape; of a part that is wrong the default, so that the other parts are looked at too."""
        data = self._document.data
        try:
            return PlaybookText.model_validate(data)
        except ValidationError as error:
            self._note(error, (), form=PlaybookText)
            wrong = {detail["loc"][0] for detail in error.errors()}
        right = {name: data[name] for name in PlaybookText.model_fields if name in data and name not in wrong}
        return PlaybookText.model_validate({"name": "-", "why": "-", "expect": ["script_ran"], **right})

    def _topology(self, name: str) -> Topology:
        """Where the name is wrong, the one that was probably meant, so that the steps are looked at too."""
        self._known("topology", name, PRESETS, ("topology",))
        meant = get_close_matches(name, PRESETS, n=1) or [DEFAULT_TOPOLOGY]
        return PRESETS.get(name, PRESETS[meant[0]])

    def _cast(self, given: Mapping[str, str | SystemText], topology: Topology) -> Mapping[str, Choice]:
        cast = {role: Choice("reference", {}) for role in topology.roles}
        for role, choice in given.items():
            place = ("systems", role)
            self._known("role", role, topology.roles, place)
            text = SystemText(system=choice) if isinstance(choice, str) else choice
            options = {name: str(value) for name, value in text.options.items()}
            where = self._document.problem(place, "")
            cast[role] = Choice(text.system, options, where.line, where.column)
        return cast

    def _step(self, topology: Topology, raw: dict[str, Any], place: Place, *, timed: bool = True) -> Step | None:
        verbs = [key for key in raw if key not in TIMING]
        if len(verbs) != 1:
            what = f"a step has exactly one verb, this one has {', '.join(verbs) or 'none'}"
            self._add(place, what, hint=f"verbs: {', '.join(sorted([*REGISTRY, *OWN_VERBS]))}")
            return None
        timing = self._timing(raw, place, timed=timed)
        verb = self._verb(topology, verbs[0], raw[verbs[0]], (*place, verbs[0]))
        if timing is not None and timing.after is not None:
            self._after(topology, timing.after, (*place, "after"))
        if timing is None or verb is None:
            return None
        if timing.for_ is not None and not (isinstance(verb, Fault) and verb.lasting):
            self._add((*place, "for"), f"{verbs[0]} is over in a moment, so it cannot take a 'for'")
        number, line = int(place[-1]), self._document.line(place)
        return Step(number, line, _sentence(verb), verb, timing.at, timing.after, timing.for_)

    def _lone_faults(self, steps: list[Step]) -> None:
        """What has no 'for' is healed when the script is over, so something must come after it."""
        for step in steps:
            if not (isinstance(step.verb, Fault) and step.verb.lasting and step.for_ns is None):
                continue
            at = step.at_ns or 0
            others = [other for other in steps if other is not step]
            if all(other.at_ns is not None and other.at_ns + (other.for_ns or 0) <= at for other in others):
                what = "this step needs a 'for': no other step comes later, so it would be healed at once"
                self._add(("steps", step.number), what, hint="write for example for: 4 s")

    def _after(self, topology: Topology, after: After, place: Place) -> None:
        """An event that nobody ever tells would be waited for in vain."""
        self._known("event", after.name, [*telemetry.EVENTS, *events.EVENTS], place)
        if after.source is not None:
            self._known("source of events", after.source, [*topology.roles, *HARNESS_SOURCES], place)

    def _timing(self, raw: dict[str, Any], place: Place, *, timed: bool) -> TimingText | None:
        given = {key: raw[key] for key in raw if key in TIMING}
        try:
            timing = TimingText.model_validate(given)
        except ValidationError as error:
            self._note(error, place, form=TimingText)
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
        form = OWN_VERBS[name][0] if name in OWN_VERBS else text_form(REGISTRY[name])
        arguments = {SHORT[name]: given} if name in SHORT and isinstance(given, str) else given
        if not isinstance(arguments, dict):
            example = f"{name}: {{{next(iter(form.model_fields))}: …}}"
            self._add(place, f"{name} takes its arguments as a mapping", hint=f"write for example {example}")
            return None
        try:
            read = form.model_validate(arguments)
        except ValidationError as error:
            self._note(error, place, form=form)
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

    def _expectation(self, topology: Topology, raw: str | dict[str, Any], place: Place) -> Expectation | None:
        if isinstance(raw, dict) and len(raw) != 1:
            self._add(place, f"one claim per entry, this one has {len(raw)}", hint="begin each claim with '- '")
            return None
        name, given = next(iter(raw.items())) if isinstance(raw, dict) else (raw, None)
        limits = {} if given is None else given
        if not isinstance(limits, dict):
            self._add((*place, name), f"{name} takes limits as a mapping", hint=f"write for example {name}: {{…}}")
            return None
        try:
            entry = expectation(name, limits, line=self._document.line(place))
        except LimitError as error:
            at = (*place, name, error.parameter) if error.parameter else (*place, name)
            self._add(at, error.what, hint=error.hint)
            return None
        self._roles_of(entry, topology, (*place, name))
        return entry

    def _roles_of(self, entry: Expectation, topology: Topology, place: Place) -> None:
        """A claim about a role that nobody plays would be true of nothing."""
        for parameter in CHECKS[entry.limits.check].parameters.values():
            value = getattr(entry.limits, parameter.field)
            named = value if parameter.kind == "roles" else (value,) if parameter.name == "by" else ()
            for role in named:
                self._known("role", role, topology.roles, (*place, parameter.name))

    # --- mistakes ------------------------------------------------------------------------------------------

    def _known(self, what: str, name: str, known: Iterable[str], place: Place) -> None:
        names = list(known)
        if name not in names:
            self._add(place, f"no {what} is called {name!r}", hint=did_you_mean(name, names))

    def _add(self, place: Place, what: str, *, hint: str = "") -> None:
        self._problems.append(self._document.problem(place, what, hint=hint))

    def _note(self, error: ValidationError, place: Place, *, form: type[Strict]) -> None:
        found: dict[Place, ErrorDetails] = {}
        for detail in error.errors():
            found.setdefault(tuple(part for part in detail["loc"] if part not in _UNION_ARMS), detail)
        for loc, detail in found.items():
            if not any(_inside(other, loc) for other in found):  # pydantic tells every arm of a union
                self._add((*place, *loc), _in_words(detail, loc), hint=_hint(detail, loc, form))

    def _raise_if_wrong(self) -> None:
        if not self._problems:
            return
        ordered = sorted(dict.fromkeys(self._problems), key=lambda problem: (problem.line, problem.column))
        raise PlaybookError(self._document.path, ordered)


def _sentence(verb: Fault | Ask | Control | Start) -> str:
    if isinstance(verb, Fault):
        return verb.describe()
    if isinstance(verb, Ask):
        return verb.question
    if isinstance(verb, Control):
        return f"{verb.role} is asked to {verb.verb}"
    return f"{verb.role} is started again"


def _inside(place: Place, outer: Place) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _in_words(detail: ErrorDetails, loc: Place) -> str:
    where = str(loc[-1]) if loc and isinstance(loc[-1], str) else ""
    if detail["type"] == "extra_forbidden":
        return f"{where!r} is not known here"
    if detail["type"] == "missing":
        return f"{where!r} is missing"
    message = _PLAIN.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return f"{where}: {message}" if where else message


def _hint(detail: ErrorDetails, loc: Place, form: type[Strict]) -> str:
    if detail["type"] == "extra_forbidden" and loc:
        return did_you_mean(str(loc[-1]), _keys_at(form, loc[:-1]))
    return ""


def _keys_at(form: type[Strict], loc: Place) -> Iterable[str]:
    """What may be written where ``loc`` leads to, inside of ``form``."""
    for part in loc:
        inner = form.model_fields[part].annotation if part in form.model_fields else SystemText
        form = inner if isinstance(inner, type) and issubclass(inner, Strict) else SystemText
    return [field.alias or name for name, field in form.model_fields.items()]
