"""The schema that editors use: committed, up to date, and of the same opinion as the loader.

There is no JSON Schema library among the dependencies, so a small judge of the few constructs in use stands here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playbook_kit import EXPECT, HOLE, written

from harness.checks import CHECKS
from harness.faults import REGISTRY
from harness.network.presets import PRESETS
from harness.playbook.document import read_document
from harness.playbook.loader import OWN_VERBS, SCENARIOS, SUFFIX, handle_of
from harness.playbook.schema import playbook_schema, render_schema
from harness.systems.registry import names_by_role

COMMITTED = SCENARIOS / "playbook.schema.json"
SCHEMA = playbook_schema(names_by_role())
SHIPPED = sorted(SCENARIOS.rglob(f"*{SUFFIX}"))
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_MEANT_FOR_PEOPLE = {"$schema", "title", "description", "examples", "default", "definitions"}
_JUDGED = {
    "$ref", "type", "enum", "const", "pattern", "minLength", "minimum", "maximum", "items", "minItems", "properties",
    "required", "additionalProperties", "minProperties", "maxProperties", "anyOf", "oneOf", "allOf", "not",
    "dependencies",
}  # fmt: skip


def fits(value: Any, schema: Any) -> bool:
    """Whether the value is valid; raises KeyError for a construct that this judge does not know."""
    if isinstance(schema, bool):
        return schema
    unknown = set(schema) - _MEANT_FOR_PEOPLE - _JUDGED
    if unknown:
        raise KeyError(unknown)
    if "$ref" in schema:
        return fits(value, SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]])
    return _is_of_type(value, schema) and _combined(value, schema) and _inside(value, schema)


def _is_of_type(value: Any, schema: dict[str, Any]) -> bool:
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, bool) and "boolean" not in kinds:
        return False
    return isinstance(value, tuple(kind for name in kinds for kind in _flat(_TYPES[name])))


def _flat(kind: type | tuple[type, ...]) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


def _combined(value: Any, schema: dict[str, Any]) -> bool:
    return (
        ("anyOf" not in schema or any(fits(value, arm) for arm in schema["anyOf"]))
        and ("oneOf" not in schema or sum(fits(value, arm) for arm in schema["oneOf"]) == 1)
        and all(fits(value, arm) for arm in schema.get("allOf", ()))
        and ("not" not in schema or not fits(value, schema["not"]))
        and ("enum" not in schema or value in schema["enum"])
        and ("const" not in schema or value == schema["const"])
    )


def _inside(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, dict):
        return _inside_object(value, schema)
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(fits(v, schema.get("items", True)) for v in value)
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0) and bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, int | float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def _inside_object(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    known = schema.get("properties", {})
    return (
        all(name in value for name in schema.get("required", ()))
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value))
        and all(fits(v, known.get(k, schema.get("additionalProperties", True))) for k, v in value.items())
        and all(fits(value, rule) for name, rule in schema.get("dependencies", {}).items() if name in value)
    )


def test_the_committed_schema_is_up_to_date() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == render_schema(names_by_role()), (
        "run: deadair schema > scenarios/playbook.schema.json"
    )


@pytest.mark.parametrize("path", SHIPPED, ids=handle_of)
def test_shipped_playbooks_are_valid_and_name_the_schema(path: Path) -> None:
    assert fits(read_document(path).data, SCHEMA)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == COMMITTED


def test_every_verb_claim_topology_and_system_is_offered() -> None:
    step = SCHEMA["definitions"]["step"]["properties"]
    assert set(step) == {*REGISTRY, *OWN_VERBS, "at", "after", "for"}
    offered, limits = SCHEMA["definitions"]["claim"]["anyOf"]
    assert offered["enum"] == list(CHECKS) and set(limits["properties"]) == set(CHECKS)
    for name, spec in CHECKS.items():
        assert set(limits["properties"][name]["properties"]) == set(spec.parameters)
    assert SCHEMA["properties"]["topology"]["enum"] == list(PRESETS)
    assert "reference-no-idr" in SCHEMA["properties"]["systems"]["properties"]["publisher"]["anyOf"][0]["enum"]


def test_limits_tell_their_meaning_default_and_source() -> None:
    limit = SCHEMA["definitions"]["claim"]["anyOf"][1]["properties"]["longest_gap"]["properties"]["at_most"]
    assert limit["default"] == "3.00 s"
    assert limit["description"].startswith("longest time between two pictures; default: 3.00 s (source: S3")


def test_no_default_is_in_the_harness_own_units() -> None:
    assert not re.search(r'"default": \d{6,}', json.dumps(SCHEMA))


WRONG = {
    "unknown key": "whi: x\n" + EXPECT,
    "topology": "topology: hotspt\n" + EXPECT,
    "system": "systems: {publisher: refrence}\n" + EXPECT,
    "role": "systems: {publishr: reference}\n" + EXPECT,
    "no verb": "steps: [{at: 1 s}]\n" + EXPECT,
    "two verbs": "steps: [{at: 1 s, kill: viewer, pause: viewer}]\n" + EXPECT,
    "no time": "steps: [{kill: viewer}]\n" + EXPECT,
    "two times": "steps: [{at: 1 s, after: a:b, kill: viewer}]\n" + EXPECT,
    "bare number": "steps: [{at: 1, kill: viewer}]\n" + EXPECT,
    "wrong unit": "steps: [{at: 1 m, kill: viewer}]\n" + EXPECT,
    "for on a moment": "steps: [{at: 1 s, for: 1 s, kill: viewer}]\n" + EXPECT,
    "unknown argument": "steps: [{at: 1 s, for: 1 s, black_hole: {lnk: wifi}}]\n" + EXPECT,
    "time of what is done always": "always: [{at: 1 s, kill: viewer}]\n" + EXPECT,
    "unknown check": "expect: [never_refusd]\n",
    "unknown limit": "expect: [{longest_gap: {at_mst: 1 s}}]\n",
    "bare number as limit": "expect: [{longest_gap: {at_most: 1}}]\n",
    "two claims in one": "expect: [{never_refused: , gate_held: }]\n",
    "nothing claimed": "expect: []\n",
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_what_the_loader_refuses_the_schema_refuses_too(tmp_path: Path, body: str) -> None:
    assert not fits(read_document(written(tmp_path, body)).data, SCHEMA)


@pytest.mark.parametrize(
    "body",
    [
        HOLE + EXPECT,
        "steps: [{at: 0, kill: {role: viewer}}, {after: 'a:b + 1 s', ask: Well?}]\nalways: [{kill: viewer}]\n" + EXPECT,
        "steps: [{at: 1 s, for: 2 s, change_link: {link: wifi, loss: 2 %, rate: 2 Mbit/s, queue: 64 kB}}]\n" + EXPECT,
        "expect: [gate_held, {gate_held: }, {gate_held: {at: viewer}}, {reconnects: {at_most: 1}}]\n",
    ],
)
def test_every_short_and_long_form_is_valid(tmp_path: Path, body: str) -> None:
    assert fits(read_document(written(tmp_path, body)).data, SCHEMA)
