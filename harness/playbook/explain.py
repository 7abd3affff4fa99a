"""A playbook as prose: what and why, who plays, what happens when, what the logs will show, and what must hold."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.checks import CHECKS, Expectation
from harness.checks.parameters import Parameter
from harness.faults import Fault, LinkFlap
from harness.playbook.model import Playbook, Step
from harness.playbook.signs import Sign, signs_of
from harness.units import MINUTE, SECOND, UnitError, format_duration, parse_duration

WIDTH = 100
_TIME = 20
"""Width of the column of times."""
_WINDOWS = 12
"""So many outages of a flapping link are listed one by one."""
_RECONNECT_WINDOW_NS = MINUTE
"""The reference gateway's default."""


def explain(playbook: Playbook) -> str:
    """The playbook in words; lines are at most 100 columns, but for the topology's picture and paths."""
    parts = [_head(playbook), _topology(playbook), _cast(playbook), _timeline(playbook), _claims(playbook)]
    return "\n\n".join(parts)


def _head(playbook: Playbook) -> str:
    here = Path.cwd()
    path = playbook.path.relative_to(here) if playbook.path.is_relative_to(here) else playbook.path
    lines = [playbook.handle, f"  {playbook.name}", f"  ({path})", "", *_wrapped(playbook.why, indent=2)]
    return "\n".join([*lines, *(_wrapped(f"Asked for by: {playbook.source}", indent=2) if playbook.source else [])])


def _topology(playbook: Playbook) -> str:
    topology = playbook.topology
    picture = [f"  {line}" for line in topology.picture.rstrip().splitlines()]
    return "\n".join([f"TOPOLOGY {topology.name}", *_wrapped(topology.why, indent=2), "", *picture])


def _cast(playbook: Playbook) -> str:
    rows = []
    for role, choice in playbook.cast.items():
        options = " ".join(f"--{name} {value}" for name, value in choice.options.items())
        rows.append(f"  {role:<12} on {playbook.topology.roles[role]:<9} {choice.system} {options}".rstrip())
    return "\n".join(["CAST", *rows])


# --- times ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something that happens; ``at_ns`` is None where an event says when, and ``label`` shows it."""

    at_ns: int | None
    label: str
    text: str


def _timeline(playbook: Playbook) -> str:
    steady = playbook.steady
    before = (
        f"the lab comes up, programs start, every receiver has its first picture within "
        f"{format_duration(steady.within_ns)}; then {format_duration(steady.before_ns)} of undisturbed flow"
    )
    over = _over(playbook)
    entries = sorted(
        (entry for step in playbook.steps for entry in _entries(step, playbook) if (entry.at_ns or 0) <= over),
        key=lambda entry: (entry.at_ns is None, entry.at_ns or 0),
    )
    lines = [*_row("before", before), *_row(_t(0), "script:started; times count from here")]
    lines += [line for entry in entries for line in _row(entry.label, entry.text)]
    for label, text in _ending(playbook):
        lines += _row(label, text)
    return "\n".join(
        ["WHAT HAPPENS, AND WHAT TO EXPECT IN THE LOGS (events.jsonl; ≈ for the reference programs)", *lines]
    )


def _ending(playbook: Playbook) -> Iterable[tuple[str, str]]:
    after = f"{format_duration(playbook.steady.after_ns)} of undisturbed flow have passed: script:ended"
    fixed = all(step.at_ns is not None for step in playbook.steps)
    yield (_t(_over(playbook)) if fixed else "then", after)
    for step in playbook.always:
        yield "always", f"{step.text} (line {step.line})"
    yield "at the end", "programs stop in order, the ledger is taken again and compared, the lab goes down: lab:closed"


def _over(playbook: Playbook) -> int:
    """When the script ends, ns; of steps that wait for an event nothing is known."""
    ends = [step.at_ns + (step.for_ns or 0) for step in playbook.steps if step.at_ns is not None]
    return max(ends, default=0) + playbook.steady.after_ns


def _window(playbook: Playbook) -> int:
    given = playbook.cast["gateway"].options.get("reconnect-window", "") if "gateway" in playbook.cast else ""
    try:
        return parse_duration(given)
    except UnitError:
        return _RECONNECT_WINDOW_NS


def _entries(step: Step, playbook: Playbook) -> Iterable[_Entry]:
    base = step.at_ns
    where = _t(base) if base is not None else _after_text(step)
    if not isinstance(step.verb, Fault):
        yield _Entry(base, where, f"{step.text} (line {step.line})")
        return
    signs = signs_of(step.verb, lasts_ns=step.for_ns, topology=playbook.topology, window_ns=_window(playbook))
    word = "BREAKS" if step.verb.lasting else "HAPPENS"
    yield _Entry(base, where, f"{word}: {step.text} (line {step.line})")
    yield from _expected(signs.broken, base)
    left = None if base is None or step.for_ns is None else base + step.for_ns
    if isinstance(step.verb, LinkFlap) and base is not None:
        yield from _flaps(step.verb, base, left, signs.healed)
    if step.verb.lasting:
        yield _Entry(left, _healed_at(step, left), f"HEALS: {step.text}")
        yield from _expected(() if isinstance(step.verb, LinkFlap) else signs.healed, left)


def _flaps(flap: LinkFlap, base: int, left: int | None, healed: Sequence[Sign]) -> Iterable[_Entry]:
    """Each outage of a link that flaps; what follows a heal is told after the first one."""
    if flap.random:
        yield _Entry(base, "", f"  {flap.link} is dead and good at times that the run's seed decides")
        return
    end = left if left is not None else base + _WINDOWS * (flap.off_ns + flap.on_ns)
    windows = flap.windows(base, end, seed=0)
    for number, (dead, good) in enumerate(windows[:_WINDOWS]):
        if number:
            yield _Entry(dead, _t(dead), f"  {flap.link} is dead again: the same as at {_t(base)}")
        yield _Entry(good, _t(good), f"  {flap.link} is good{' again' * bool(number)}")
        yield from _expected(() if number else healed, good)
    if len(windows) > _WINDOWS:
        yield _Entry(windows[_WINDOWS][0], "and so on", f"  {len(windows) - _WINDOWS} more outages")


def _healed_at(step: Step, left: int | None) -> str:
    if left is not None:
        return _t(left)
    return "at script's end" if step.for_ns is None else f"{format_duration(step.for_ns)} later"


def _after_text(step: Step) -> str:
    assert step.after is not None
    who = f"{step.after.source} " if step.after.source else ""
    delay = f" + {format_duration(step.after.delay_ns)}" if step.after.delay_ns else ""
    return f"{who}{step.after.name}{delay}"


def _expected(signs: Sequence[Sign], base: int | None) -> Iterable[_Entry]:
    for sign in signs:
        at = None if base is None else base + sign.low_ns
        yield _Entry(at, _span(sign, base), f"  {sign.who}: {sign.events}")


def _span(sign: Sign, base: int | None) -> str:
    low, high = ((base or 0) + ns for ns in (sign.low_ns, sign.high_ns))
    span = f"{low / SECOND:.1f}" if low == high else f"{low / SECOND:.1f} to {high / SECOND:.1f}"
    return f"  ≈ +{span} s" if base is None else f"  t≈{span} s"


def _t(ns: int) -> str:
    return f"t={ns / SECOND:.2f} s"


def _row(label: str, text: str) -> list[str]:
    if len(label) >= _TIME - 2:
        return [f"  {label}:", *_row("", text)]
    inner = len(text) - len(text.lstrip())
    body = textwrap.wrap(text.strip(), WIDTH - _TIME - inner) or [""]
    first, *rest = body
    return [f"  {label:<{_TIME - 2}}{'':{inner}}{first}", *(f"{'':{_TIME + inner}}{line}" for line in rest)]


# --- claims --------------------------------------------------------------------------------------------------


def _claims(playbook: Playbook) -> str:
    lines = [line for entry in playbook.expectations for line in _claim(entry)]
    return "\n".join(["WHAT MUST HOLD (and what every run is checked for: `deadair list --checks`)", *lines])


def _claim(entry: Expectation) -> list[str]:
    limits = entry.limits
    spec = CHECKS[limits.check]
    head = _wrapped(f"- {limits.claim()} [{limits.check}, line {entry.line}]", indent=2, hanging=2)
    lines = [*head, *_wrapped(f"limit: {limits.expected()}", indent=6)]
    for parameter in spec.parameters.values():
        lines += _wrapped(_source(parameter, getattr(limits, parameter.field)), indent=6)
    return lines


def _source(parameter: Parameter, value: object) -> str:
    if value == parameter.default:
        return f"{parameter.name}: {parameter.show_default()}, the default (source: {parameter.source})"
    said = f"{parameter.name}: {_shown(parameter, value)}, said by the playbook"
    return f"{said}; default {parameter.show_default()} (source: {parameter.source})"


def _shown(parameter: Parameter, value: object) -> str:
    if parameter.kind == "duration" and isinstance(value, int):
        return format_duration(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)


_NUMBER_AND_UNIT = re.compile(r"(?<=\d) (?=(?:ns|µs|ms|s|min|h)\b)")
_KEPT = "\N{NO-BREAK SPACE}"


def _wrapped(text: str, *, indent: int, hanging: int = 0) -> list[str]:
    """Lines of at most 100 columns; a number stays with its unit."""
    lines = textwrap.wrap(
        _NUMBER_AND_UNIT.sub(_KEPT, text),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_KEPT, " ") for line in lines]
