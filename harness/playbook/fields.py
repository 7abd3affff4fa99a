"""How the fields of a fault or a check are written in YAML.

A fault and the limits of a check are frozen dataclasses in nanoseconds, bits per second and bytes. In a playbook the
same fields are text with a unit. This module derives, from the dataclass, a pydantic model that reads the text form:
one place for validation, for messages and for the JSON Schema that editors use.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, create_model

from harness import units


def _quantity(parse: typing.Callable[[str], Any], *, pattern: str, example: str, title: str) -> Any:
    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{value!r} is not a {title}; write for example {example!r}")
        return parse(str(value))

    schema = {"type": ["string", "number"], "pattern": pattern, "examples": [example], "title": title}
    return Annotated[Any, BeforeValidator(read), WithJsonSchema(schema)]


Duration = _quantity(
    units.parse_duration, pattern=r"^\s*(0|[0-9.]+\s*(ns|us|µs|ms|s|min|h))\s*$", example="250 ms", title="duration"
)
Rate = _quantity(units.parse_rate, pattern=r"^\s*(0|[0-9.]+\s*[kMG]?bit/s)\s*$", example="2 Mbit/s", title="rate")
Size = _quantity(units.parse_size, pattern=r"^\s*(0|[0-9.]+\s*(B|kB|KiB|MB|MiB))\s*$", example="64 kB", title="size")
Share = _quantity(units.parse_share, pattern=r"^\s*[0-9.]+\s*%?\s*$", example="2 %", title="share")

_BY_SUFFIX = {"_ns": Duration, "_bps": Rate, "_bytes": Size, "_share": Share}


class Strict(BaseModel):
    """A mapping in which an unknown key is a mistake, not a silent nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def yaml_name(field: str) -> str:
    """``within_ns`` is written ``within``; ``for_ns`` is written ``for``; a trailing underscore is dropped."""
    for suffix in _BY_SUFFIX:
        if field.endswith(suffix):
            return field.removesuffix(suffix).rstrip("_")
    return field.rstrip("_")


def text_form(described: type, *, leave_out: frozenset[str] = frozenset()) -> type[Strict]:
    """The pydantic model that reads ``described`` (a dataclass) from a playbook."""
    hints = typing.get_type_hints(described)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(described):
        name = yaml_name(field.name)
        if name in leave_out or not field.init:
            continue
        fields[name] = (_form_of(field.name, hints[field.name]), _default_of(field))
    return create_model(described.__name__, __base__=Strict, __doc__=described.__doc__, **fields)


def construct(described: type, values: Mapping[str, Any]) -> Any:
    """An instance of ``described`` from validated values under their YAML names."""
    named = {yaml_name(field.name): field.name for field in dataclasses.fields(described)}
    return described(**{named[name]: value for name, value in values.items()})


def _form_of(name: str, hint: Any) -> Any:
    form = next((form for suffix, form in _BY_SUFFIX.items() if name.endswith(suffix)), None)
    if form is None:
        return _nested(hint)
    return form | None if type(None) in typing.get_args(hint) else form


def _nested(hint: Any) -> Any:
    return text_form(hint) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else hint


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return ...
