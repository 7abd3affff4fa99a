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


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """How one kind of quantity is written: its name, the text's form, and an example."""

    title: str
    pattern: str
    example: str
    bare: tuple[float, float]
    """Bare numbers from … to … are allowed: 0 alone, or a whole share."""

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the text form."""
        low, high = self.bare
        text = {"type": "string", "pattern": self.pattern}
        number = {"const": 0} if low == high else {"type": "number", "minimum": low, "maximum": high}
        return {"title": self.title, "anyOf": [text, number], "examples": [self.example]}


_NUMBER = r"\d+(\.\d+)?"
DURATION = Quantity("duration", rf"^\s*(0+(\.0+)?|{_NUMBER}\s*(ns|us|µs|ms|s|min|h))\s*$", "250 ms", (0, 0))
RATE = Quantity("rate", rf"^\s*(0+(\.0+)?|{_NUMBER}\s*[kMG]?bit/s)\s*$", "2 Mbit/s", (0, 0))
SIZE = Quantity("size", rf"^\s*(0+(\.0+)?|{_NUMBER}\s*(B|kB|KiB|MB|MiB))\s*$", "64 kB", (0, 0))
SHARE = Quantity("share", rf"^\s*{_NUMBER}\s*%?\s*$", "2 %", (0, 1))


def _field(quantity: Quantity, parse: typing.Callable[[str], Any]) -> Any:
    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{value!r} is not a {quantity.title}; write for example {quantity.example!r}")
        return parse(str(value))

    return Annotated[Any, BeforeValidator(read), WithJsonSchema(quantity.schema())]


Duration = _field(DURATION, units.parse_duration)
Rate = _field(RATE, units.parse_rate)
Size = _field(SIZE, units.parse_size)
Share = _field(SHARE, units.parse_share)

_BY_SUFFIX = {"_ns": (Duration, DURATION), "_bps": (Rate, RATE), "_bytes": (Size, SIZE), "_share": (Share, SHARE)}


class Strict(BaseModel):
    """A mapping in which an unknown key is a mistake, not a silent nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def yaml_name(field: str) -> str:
    """``within_ns`` is written ``within``; ``for_ns`` is written ``for``; a trailing underscore is dropped."""
    suffix = _suffix(field)
    return field.removesuffix(suffix).rstrip("_")


def example_of(field: str) -> str:
    """``"250 ms"`` for a field that is a duration; empty for one that is no quantity."""
    suffix = _suffix(field)
    return _BY_SUFFIX[suffix][1].example if suffix else ""


def _suffix(field: str) -> str:
    return next((suffix for suffix in _BY_SUFFIX if field.endswith(suffix)), "")


def text_form(described: type) -> type[Strict]:
    """The pydantic model that reads ``described`` (a dataclass) from a playbook."""
    hints = typing.get_type_hints(described)
    fields: dict[str, Any] = {
        yaml_name(field.name): (_form_of(field.name, hints[field.name]), _default_of(field))
        for field in dataclasses.fields(described)
        if field.init
    }
    return create_model(described.__name__, __base__=Strict, __doc__=described.__doc__, **fields)


def construct(described: type, values: Mapping[str, Any]) -> Any:
    """An instance of ``described`` from validated values under their YAML names."""
    named = {yaml_name(field.name): field.name for field in dataclasses.fields(described)}
    return described(**{named[name]: value for name, value in values.items()})


def _form_of(name: str, hint: Any) -> Any:
    suffix = _suffix(name)
    if not suffix:
        return hint
    form, _ = _BY_SUFFIX[suffix]
    return form | None if type(None) in typing.get_args(hint) else form


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return ...
