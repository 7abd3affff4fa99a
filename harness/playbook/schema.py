"""The JSON Schema (draft-07) of playbooks, for editors: completion, types, and what each thing means.

Everything in it is derived: the outer shape from the pydantic model that reads a playbook, verbs from the faults'
declarations, claims from the checks'. The loader stays the judge; it also knows names that hang on the topology.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.checks import CHECKS, CheckSpec
from harness.checks.parameters import Parameter
from harness.faults import REGISTRY
from harness.network.presets import PRESETS
from harness.playbook.fields import DURATION, Strict, text_form
from harness.playbook.loader import OWN_VERBS, SHORT
from harness.playbook.model import PlaybookText, SteadyText, SystemText, TimingText
from harness.units import format_duration

DRAFT = "http://json-schema.org/draft-07/schema#"
ROLES = tuple(dict.fromkeys(role for topology in PRESETS.values() for role in topology.roles))

Schema = dict[str, Any]


def playbook_schema(systems: Mapping[str, Sequence[str]] | None = None) -> Schema:
    """The schema; ``systems`` maps a role to the names of those who can play it (left out: any name)."""
    shape = _object(PlaybookText)
    shape["properties"] |= {
        "topology": {"enum": list(PRESETS), "default": "hotspot", "description": _topologies()},
        "systems": _systems(systems or {}),
        "steady": _object(SteadyText),
        "steps": {"type": "array", "items": {"$ref": "#/definitions/step"}, "description": "what happens, and when"},
        "always": {
            "type": "array",
            "items": {"$ref": "#/definitions/last_step"},
            "description": "what is done at the end of every run, also of one that failed",
        },
        "expect": {
            "type": "array",
            "minItems": 1,
            "items": {"$ref": "#/definitions/claim"},
            "description": "what must hold",
        },
    }
    definitions = {"step": _step(timed=True), "last_step": _step(timed=False), "claim": _claim()}
    return {"$schema": DRAFT, "title": "deadair playbook", **shape, "definitions": definitions}


def render_schema(systems: Mapping[str, Sequence[str]] | None = None) -> str:
    """The schema as the committed file holds it (``scenarios/playbook.schema.json``)."""
    return json.dumps(playbook_schema(systems), indent=2, ensure_ascii=False) + "\n"


# --- steps ---------------------------------------------------------------------------------------------------


def _step(*, timed: bool) -> Schema:
    verbs = {name: _verb(name) for name in [*sorted(REGISTRY), *OWN_VERBS]}
    rules: list[Schema] = [_exactly_one(verbs)]
    timing: Schema = {}
    if timed:
        timing = _object(TimingText)["properties"]
        rules.append(_exactly_one(["at", "after"]))
    step: Schema = {
        "type": "object",
        "description": "exactly one verb" + (", and when: 'at' a time or 'after' an event" if timed else ""),
        "properties": {**timing, **verbs},
        "additionalProperties": False,
        "allOf": rules,
    }
    if timed:
        moments = [name for name in verbs if name not in REGISTRY or not REGISTRY[name].lasting]
        step["dependencies"] = {name: {"not": {"required": ["for"]}} for name in moments}
    return step


def _verb(name: str) -> Schema:
    form = OWN_VERBS[name][0] if name in OWN_VERBS else text_form(REGISTRY[name])
    long = _object(form)
    if "role" in long["properties"]:
        long["properties"]["role"] = {"type": "string", "examples": list(ROLES)}
    if name not in SHORT:
        return long
    short = {"type": "string", **({"examples": list(ROLES)} if SHORT[name] == "role" else {})}
    return {"description": long.pop("description", ""), "anyOf": [short, long]}


def _exactly_one(names: Iterable[str]) -> Schema:
    return {"oneOf": [{"required": [name]} for name in names]}


# --- claims --------------------------------------------------------------------------------------------------


def _claim() -> Schema:
    long = {
        "type": "object",
        "properties": {name: _limits(spec) for name, spec in CHECKS.items()},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [{"enum": list(CHECKS)}, long]}


def _limits(spec: CheckSpec) -> Schema:
    return {
        "type": ["object", "null"],
        "description": spec.sentence,
        "properties": {name: _parameter(parameter) for name, parameter in spec.parameters.items()},
        "additionalProperties": False,
    }


def _parameter(parameter: Parameter) -> Schema:
    described = f"{parameter.meaning}; default: {parameter.show_default()} (source: {parameter.source})"
    return {**_kind(parameter), **_default(parameter), "description": described}


def _kind(parameter: Parameter) -> Schema:
    role = {"enum": list(ROLES)}
    kinds: Mapping[str, Schema] = {
        "duration": DURATION.schema(),
        "count": {"type": "integer", "minimum": 0},
        "roles": {"anyOf": [role, {"type": "array", "items": role, "minItems": 1}]},
        "word": {"enum": list(parameter.choices)} if parameter.choices else {"type": "string"},
    }
    return kinds[parameter.kind]


def _default(parameter: Parameter) -> Schema:
    if parameter.default in (None, (), ""):
        return {}
    if parameter.kind == "duration":
        return {"default": format_duration(parameter.default)}
    return {"default": list(parameter.default) if parameter.kind == "roles" else parameter.default}


# --- the outer shape -----------------------------------------------------------------------------------------


def _systems(systems: Mapping[str, Sequence[str]]) -> Schema:
    return {
        "type": "object",
        "description": "who plays which role, with which options; the reference where nobody is named",
        "properties": {role: _system(systems.get(role, ())) for role in ROLES},
        "additionalProperties": False,
    }


def _system(names: Sequence[str]) -> Schema:
    name: Schema = {"enum": list(names)} if names else {"type": "string"}
    long = _object(SystemText)
    long["properties"]["system"] = {**name, "default": "reference"}
    long["properties"]["options"]["description"] = "command-line options of the program, without the dashes"
    return {"anyOf": [name, long]}


def _topologies() -> str:
    return "; ".join(f"{name}: {topology.why}" for name, topology in PRESETS.items())


def _object(form: type[Strict]) -> Schema:
    """What pydantic says about a form, without what only pydantic needs."""
    said = form.model_json_schema()
    properties = {name: _tidy(field, form.model_fields.get(name)) for name, field in said.get("properties", {}).items()}
    shape: Schema = {"type": "object", "description": _first_sentence(form)}
    shape |= {"properties": properties, "additionalProperties": False}
    return shape | ({"required": said["required"]} if "required" in said else {})


def _first_sentence(form: type[Strict]) -> str:
    return inspect.cleandoc(form.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "")


def _tidy(field: Schema, declared: Any) -> Schema:
    """A field without ``null`` (a key is left out instead), made-up titles, and defaults in the harness's own units."""
    arms = [arm for arm in field.get("anyOf", []) if arm != {"type": "null"}]
    if arms and len(arms) < len(field["anyOf"]):
        rest = {key: value for key, value in field.items() if key != "anyOf"}
        field = rest | (arms[0] if len(arms) == 1 else {"anyOf": arms})
    tidy = {key: value for key, value in field.items() if key != "title" or value in _QUANTITIES}
    default = tidy.pop("default", None)
    if tidy.get("title") == DURATION.title and declared is not None and isinstance(default, int):
        default = format_duration(default)
    return tidy if default in (None, "") else {**tidy, "default": default}


_QUANTITIES = ("duration", "rate", "size", "share")
