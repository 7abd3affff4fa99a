"""What ``deadair list`` prints: the playbooks, systems, defects, checks, faults and topologies that there are."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.checks import CHECKS, EVERY_RUN, CheckSpec
from harness.errors import DeadairError, PlaybookError
from harness.faults import REGISTRY, Fault
from harness.network.presets import CATALOGUE, PRESETS
from harness.playbook.fields import example_of, yaml_name
from harness.playbook.loader import SCENARIOS, SUFFIX, handle_of, load_playbook
from harness.systems.registry import defects, systems

WIDTH = 100
_GAP = "  "
_OTHER_LIMITS = "name one only to set other limits"


def listing(what: str) -> str:
    """The list of one kind of thing, no line wider than 100 columns; raises :class:`DeadairError` for another word."""
    if what not in _LISTINGS:
        raise DeadairError(f"there is no list of {what!r}; there are {', '.join(_LISTINGS)}")
    return _LISTINGS[what]()


# --- the lists -----------------------------------------------------------------------------------------------


def _playbooks() -> str:
    found = sorted(SCENARIOS.rglob(f"*{SUFFIX}"))
    rows = []
    for path in found:
        try:
            playbook = load_playbook(path)
        except PlaybookError as error:
            rows.append((handle_of(path), f"cannot be read: {len(error.problems)} mistakes, see `deadair explain`"))
            continue
        rows.append((playbook.handle, playbook.name + (" (soak: only when named, or with --soak)" * playbook.soak)))
    return _columns("playbooks", rows, note="deadair run NAME, deadair explain NAME")


def _systems() -> str:
    planted = {defect.system for defect in defects()}
    by_name: dict[str, list[str]] = {}
    for role, name in systems():
        by_name.setdefault(name, []).append(role)
    rows = [(name, ", ".join(roles)) for name, roles in by_name.items() if name not in planted]
    broken = [(name, ", ".join(roles)) for name, roles in by_name.items() if name in planted]
    whole = _columns("systems", rows, note="deadair run NAME --system ROLE=SYSTEM")
    return f"{whole}\n\n{_columns('broken on purpose', broken, note='deadair list --defects')}" if broken else whole


def _defects() -> str:
    rows = [(d.system, f"{d.role} {d.sentence} (caught by {d.caught_by})") for d in defects()]
    return _columns("planted defects", rows, note="deadair planted runs each against the playbook that must catch it")


def _checks() -> str:
    asked = [_check_block(spec) for name, spec in CHECKS.items() if name not in EVERY_RUN]
    always = [_check_block(CHECKS[name]) for name in EVERY_RUN]
    first, second = _heading("checks", "what 'expect' may claim"), _heading("checks of every run", _OTHER_LIMITS)
    return "\n".join([*first, *asked, "", *second, *always])


def _check_block(spec: CheckSpec) -> str:
    parameters = [
        (f"{name}: {parameter.show_default()}", f"{parameter.meaning} ({parameter.source})")
        for name, parameter in spec.parameters.items()
    ]
    return "\n".join([*_hanging(spec.name, spec.sentence, indent=2, width=22), *_table(parameters, indent=6)])


def _faults() -> str:
    blocks = [_fault_block(kind, REGISTRY[kind]) for kind in sorted(REGISTRY)]
    return "\n".join([*_heading("faults", "verbs that break something, with what they take"), *blocks])


def _fault_block(kind: str, fault: type[Fault]) -> str:
    sentence = (inspect.getdoc(fault) or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
    takes = ", ".join(_argument(field) for field in dataclasses.fields(fault))
    lasts = "lasts for its 'for'" if fault.lasting else "a moment: takes no 'for'"
    return "\n".join([*_hanging(kind, sentence, indent=2, width=22), *_wrapped(f"{lasts}; {takes}", indent=24)])


def _argument(field: dataclasses.Field[Any]) -> str:
    name, example = yaml_name(field.name), example_of(field.name)
    shown = f"{name} ({example})" if example else name
    return shown if field.default is dataclasses.MISSING else f"[{shown}]"


def _topologies() -> str:
    names: dict[str, list[str]] = {}
    for number, topology in CATALOGUE.items():
        names.setdefault(topology.name, []).append(number)
    lines = _heading("topologies", "what 'topology' may name")
    for name, topology in PRESETS.items():
        also = f" (catalogue: {', '.join(names[name])})" if name in names else ""
        lines += ["", *_hanging(name, topology.why + also, indent=2, width=12), ""]
        lines += [f"    {line}" for line in _picture(topology.picture)]
        lines += _wrapped(f"links: {', '.join(link.name for link in topology.links)}", indent=4)
    return "\n".join(lines)


def _picture(picture: str) -> list[str]:
    """The picture's lines; a trunk that is too long for the page is drawn with shorter links."""
    lines = picture.rstrip().splitlines()
    if max(map(len, lines)) <= WIDTH - 4:
        return lines
    trunk, fork, branch = lines[0].partition("┬")
    short = trunk.replace("──", "─").replace(" (cellular)", "")
    return [short + fork + branch, *(line[len(trunk) - len(short) :] for line in lines[1:])]


_LISTINGS: Mapping[str, Callable[[], str]] = {
    "playbooks": _playbooks,
    "systems": _systems,
    "defects": _defects,
    "checks": _checks,
    "faults": _faults,
    "topologies": _topologies,
}


# --- columns -------------------------------------------------------------------------------------------------


def _columns(title: str, rows: Iterable[tuple[str, str]], *, note: str) -> str:
    return "\n".join([*_heading(title, note), *_table(list(rows), indent=2)])


def _heading(title: str, note: str) -> list[str]:
    return [f"{title} ({note})"]


def _table(rows: list[tuple[str, str]], *, indent: int) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0) + len(_GAP)
    return [line for name, text in rows for line in _hanging(name, text, indent=indent, width=width)]


def _hanging(name: str, text: str, *, indent: int, width: int) -> list[str]:
    """``name`` in a column of its own, the text beside it, wrapped."""
    body = textwrap.wrap(text, WIDTH - indent - width) or [""]
    labels = [name, *[""] * (len(body) - 1)]
    return [f"{'':{indent}}{label:<{width}}{line}".rstrip() for label, line in zip(labels, body, strict=True)]


def _wrapped(text: str, *, indent: int) -> list[str]:
    return [f"{'':{indent}}{line}" for line in textwrap.wrap(text, WIDTH - indent)]
