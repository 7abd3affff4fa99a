"""What a limit of a check looks like in a playbook: kinds of value, reading them, did-you-mean.

A check's limits are a frozen dataclass whose fields are made with :func:`duration`, :func:`count`, :func:`roles` and
:func:`word`. Each carries its kind, its meaning and the source of its default, so that the playbook room, the JSON
Schema and ``deadair explain`` can all be made from the one declaration.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.units import UnitError, format_duration, parse_duration

Kind = Literal["duration", "count", "roles", "word"]

_META = "deadair.parameter"


class LimitError(ValueError):
    """A limit that cannot be used; ``parameter`` names it (empty: the whole), ``hint`` says what would be right."""

    def __init__(self, what: str, *, parameter: str = "", hint: str = "") -> None:
        self.what = what
        self.parameter = parameter
        self.hint = hint
        super().__init__(f"{what} ({hint})" if hint else what)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One limit of a check, as a playbook may set it."""

    name: str
    """As a playbook writes it: ``within``."""
    field: str
    """As the dataclass calls it: ``within_ns``."""
    kind: Kind
    """``duration`` is text with a unit, ``count`` an integer, ``roles`` one role name or a list, ``word`` text."""
    default: Any
    """In the dataclass's own form: ns, int, tuple of roles, str; None where there is no default limit."""
    meaning: str
    source: str
    """Where the default comes from: a scenario of the catalogue, a measurement, an RFC."""
    choices: tuple[str, ...] = ()
    """Words that are allowed; empty for any."""

    def read(self, value: object) -> Any:
        """The value in the dataclass's own form; raises :class:`LimitError`."""
        return _READERS[self.kind](self, value)

    def show_default(self) -> str:
        """The default as a person would write it."""
        if self.default is None:
            return "none"
        if self.kind == "duration":
            return format_duration(self.default)
        if self.kind == "roles":
            return ", ".join(self.default) or "every receiver"
        return str(self.default) or "any"


def duration(default: str | None, *, meaning: str, source: str) -> Any:
    """A field for a duration in ns; the default is text with a unit, or None for no limit."""
    return _field("duration", None if default is None else parse_duration(default), meaning, source)


def count(default: int | None, *, meaning: str, source: str) -> Any:
    """A field for a number of things."""
    return _field("count", default, meaning, source)


def roles(*default: str, meaning: str, source: str) -> Any:
    """A field for role names; no default means every receiving role that the run has."""
    return _field("roles", default, meaning, source)


def word(default: str, *, meaning: str, source: str, choices: tuple[str, ...] = ()) -> Any:
    """A field for one word (or a text, if there are no choices)."""
    return _field("word", default, meaning, source, choices)


def parameters_of(limits: type) -> tuple[Parameter, ...]:
    """The parameters that a dataclass of limits declares, in order."""
    return tuple(
        Parameter(name=field.name.removesuffix("_ns"), field=field.name, **field.metadata[_META])
        for field in dataclasses.fields(limits)
    )


def read_limits(limits: type, given: Mapping[str, object]) -> Any:
    """An instance of the dataclass from what a playbook says; raises :class:`LimitError` for the first mistake."""
    known = {parameter.name: parameter for parameter in parameters_of(limits)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise LimitError(f"no limit is called {name!r} here", parameter=name, hint=did_you_mean(name, known))
        values[known[name].field] = known[name].read(value)
    return limits(**values)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``"did you mean 'within'?"``, or the list of what is known."""
    names = list(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "it takes no limits"


def _field(kind: Kind, default: Any, meaning: str, source: str, choices: tuple[str, ...] = ()) -> Any:
    metadata = {"kind": kind, "default": default, "meaning": meaning, "source": source, "choices": choices}
    return dataclasses.field(default=default, metadata={_META: metadata})


def _read_duration(parameter: Parameter, value: object) -> int:
    example = parameter.show_default() if parameter.default is not None else "2 s"
    if not isinstance(value, str) and value != 0:
        raise LimitError(
            f"{parameter.name}: {value!r} has no unit", parameter=parameter.name, hint=f"write for example {example}"
        )
    try:
        return parse_duration(str(value))
    except UnitError as error:
        raise LimitError(f"{parameter.name}: {error}", parameter=parameter.name) from None


def _read_count(parameter: Parameter, value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal():
        raise LimitError(f"{parameter.name}: {value!r} is not a number of things (0, 1, 2 …)", parameter=parameter.name)
    return int(text)


def _read_roles(parameter: Parameter, value: object) -> tuple[str, ...]:
    names = value if isinstance(value, (list, tuple)) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise LimitError(
            f"{parameter.name}: {value!r} is not a list of roles",
            parameter=parameter.name,
            hint="write for example [gateway, viewer]",
        )
    return tuple(names)


def _read_word(parameter: Parameter, value: object) -> str:
    text = str(value)
    if parameter.choices and text not in parameter.choices:
        raise LimitError(
            f"{parameter.name}: {text!r} is not one of {', '.join(parameter.choices)}",
            parameter=parameter.name,
            hint=did_you_mean(text, parameter.choices),
        )
    return text


_READERS = {"duration": _read_duration, "count": _read_count, "roles": _read_roles, "word": _read_word}
