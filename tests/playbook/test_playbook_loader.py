"""Every mistake in a playbook is told with its line, its column, and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from playbook_kit import EXPECT, HOLE, loaded, written

from harness.errors import PlaybookError
from harness.faults import BlackHole, Kill
from harness.playbook.document import read_document
from harness.playbook.loader import SCENARIOS, SUFFIX, handle_of, load_playbook
from harness.playbook.model import After, Ask, Control
from harness.units import MILLISECOND, SECOND

SHIPPED = sorted(SCENARIOS.rglob(f"*{SUFFIX}"))

STEP = "steps:\n  - {}\n" + EXPECT
CLAIM = "expect:\n  - {}\n"


def mistakes(folder: Path, body: str, **more: str) -> list[str]:
    """``"line:column: message"`` of every mistake."""
    path = written(folder, body, **more)
    with pytest.raises(PlaybookError) as caught:
        load_playbook(path)
    assert str(caught.value).splitlines()[0].startswith(f"{path}:")
    return [f"{problem.line}:{problem.column}: {problem}" for problem in caught.value.problems]


ONE_MISTAKE = {
    "unknown key": ("whi: typo\n" + EXPECT, "4:1: 'whi' is not known here (did you mean 'why'?)"),
    "key of an inner mapping": (
        "systems:\n  gateway: {sistem: reference}\n" + EXPECT,
        "5:13: 'sistem' is not known here (did you mean 'system'?)",
    ),
    "empty text": ("source: ''\ntopology: ''\n" + EXPECT, "5:1: no topology is called ''"),
    "text that is a number": ("source: 5\n" + EXPECT, "4:1: source: this must be text"),
    "list that is none": ("steps: 5\n" + EXPECT, "4:1: steps: this must be a list"),
    "claim that is none": (CLAIM.format("5"), "5:5: this must be text"),
    "unknown topology": (
        "topology: hotspt\n" + EXPECT,
        "4:1: no topology is called 'hotspt' (did you mean 'hotspot'?)",
    ),
    "unknown role": ("systems: {publishr: x}\n" + EXPECT, "4:11: no role is called 'publishr' (did you mean 'publi"),
    "unknown verb": (STEP.format("{at: 1 s, blackhole: {}}"), "5:15: no verb is called 'blackhole' (did you mean 'bl"),
    "no verb": (STEP.format("at: 1 s"), "5:5: a step has exactly one verb, this one has none (verbs: ask, black_hole"),
    "two verbs": (
        STEP.format("{at: 1 s, kill: viewer, pause: viewer}"),
        "5:5: a step has exactly one verb, this one has kill, pause",
    ),
    "no time": (STEP.format("kill: viewer"), "5:5: a step needs either 'at' (a time) or 'after' (an event)"),
    "two times": (
        STEP.format("{at: 1 s, after: x:y, kill: viewer}"),
        "5:5: a step needs either 'at' (a time) or 'after' (an event)",
    ),
    "bare number as time": (STEP.format("{at: 1, kill: viewer}"), "5:6: at: '1' has no unit; write for example"),
    "bare number as duration": (
        STEP.format("{at: 1 s, for: 4, black_hole: {link: wifi}}"),
        "5:15: for: '4' has no unit; write for example '250 ms'",
    ),
    "bare number in a fault": (
        STEP.format("{at: 1 s, for: 4 s, link_flap: {link: wifi, off: 3, on: 3 s}}"),
        "5:49: off: '3' has no unit",
    ),
    "wrong unit": (
        STEP.format("{at: 1 s, for: 4 s, change_link: {link: wifi, rate: 2 mbps}}"),
        "5:51: rate: '2 mbps': unknown unit 'mbps' for a rate",
    ),
    "unknown link": (
        STEP.format("{at: 1 s, for: 4 s, black_hole: {link: bakhaul}}"),
        "5:25: unknown link 'bakhaul'; did you mean 'backhaul'?",
    ),
    "unknown argument": (
        STEP.format("{at: 1 s, for: 4 s, black_hole: {lnk: backhaul}}"),
        "5:38: 'lnk' is not known here (did you mean 'link'?)",
    ),
    "missing argument": (STEP.format("{at: 1 s, nat_rebind: {}}"), "5:15: 'router' is missing"),
    "argument that is no mapping": (
        STEP.format("{at: 1 s, for: 4 s, black_hole: backhaul}"),
        "5:25: black_hole takes its arguments as a mapping (write for example black_hole: {link: …})",
    ),
    "unknown role of a fault": (STEP.format("{at: 1 s, kill: viewr}"), "5:15: unknown role or node 'viewr'; did you"),
    "unknown role of a verb": (STEP.format("{at: 1 s, start: viewr}"), "5:15: no role is called 'viewr'; did you mean"),
    "for on a moment": (STEP.format("{at: 1 s, for: 3 s, kill: viewer}"), "5:15: kill is over in a moment"),
    "for on a question": (STEP.format("{at: 1 s, for: 3 s, ask: Well?}"), "5:15: ask is over in a moment"),
    "lasting fault that nothing outlasts": (
        STEP.format("{at: 1 s, black_hole: {link: wifi}}"),
        "5:5: this step needs a 'for': no other step comes later",
    ),
    "after that names no event": (
        STEP.format("{after: some time, kill: viewer}"),
        "5:6: after: 'some time' names no event; write for example 'publisher stall:detected + 500 ms'",
    ),
    "after an event that nobody tells": (
        STEP.format("{after: publisher stall:detcted, kill: viewer}"),
        "5:6: no event is called 'stall:detcted' (did you mean 'stall:detected'?)",
    ),
    "after an event of nobody": (
        STEP.format("{after: publishr stall:detected, kill: viewer}"),
        "5:6: no source of events is called 'publishr' (did you mean 'publisher'?)",
    ),
    "time of what is done always": (
        "always:\n  - {at: 1 s, kill: viewer}\n" + EXPECT,
        "5:5: what is done always is done at the end: it has no time of its own",
    ),
    "unknown check": (
        CLAIM.format("outage_detectd"),
        "5:5: no check is called 'outage_detectd' (did you mean 'outage_",
    ),
    "unknown check with limits": (CLAIM.format("outage_detectd: {}"), "5:5: no check is called 'outage_detectd'"),
    "unknown limit": (
        CLAIM.format("longest_gap: {at_mst: 2 s}"),
        "5:19: no limit is called 'at_mst' here (did you mean",
    ),
    "bare number as limit": (CLAIM.format("longest_gap: {at_most: 2}"), "5:19: at_most: 2 has no unit"),
    "role in a limit": (
        CLAIM.format("longest_gap: {at: [viewr]}"),
        "5:19: no role is called 'viewr' (did you mean 'viewer'?)",
    ),
    "role in by": (CLAIM.format("outage_detected: {by: publishr}"), "5:23: no role is called 'publishr' (did you mean"),
    "two claims in one": (CLAIM.format("{never_refused: , gate_held: }"), "5:5: one claim per entry, this one has 2"),
    "limits that are no mapping": (CLAIM.format("longest_gap: 2 s"), "5:5: longest_gap takes limits as a mapping"),
    "nothing claimed": ("expect: []\n", "4:1: expect: this must not be empty"),
    "no expect": ("steps: []\n", "1:1: 'expect' is missing"),
}


@pytest.mark.parametrize(("body", "told"), ONE_MISTAKE.values(), ids=ONE_MISTAKE.keys())
def test_a_mistake_is_told_once_with_its_place(tmp_path: Path, body: str, told: str) -> None:
    found = mistakes(tmp_path, body)
    assert len(found) == 1, found
    assert found[0].startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [\n", "2:1: not valid YAML: "),
        ("name: a\nname: b\n", "2:1: not valid YAML: found duplicate key"),
        ("", "1:1: a playbook is a mapping (begin with 'name: …')"),
        ("# only a comment\n", "1:1: a playbook is a mapping"),
        ("- a\n- b\n", "1:1: a playbook is a mapping"),
        ("just words\n", "1:1: a playbook is a mapping"),
    ],
)
def test_what_is_no_playbook_at_all_is_told(tmp_path: Path, text: str, told: str) -> None:
    (found,) = mistakes(tmp_path, text, head="")
    assert found.startswith(told)


def test_a_file_that_is_not_there_and_one_that_is_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(PlaybookError, match="1:1: cannot be read"):
        load_playbook(tmp_path / f"nowhere{SUFFIX}")
    binary = tmp_path / f"binary{SUFFIX}"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlaybookError, match=r"1:1: (cannot be read|not valid YAML)"):
        load_playbook(binary)


def test_all_mistakes_of_a_file_are_told_at_once_and_in_order(tmp_path: Path) -> None:
    body = """\
whi: typo
topology: hotspt
systems: {publishr: reference}
steps:
  - at: 1
    black_hole: {link: bakhaul}
    for: 4 s
  - at: 2 s
    kill: publisher
    pause: gateway
expect:
  - outage_detectd
  - longest_gap: {at_mst: 2 s}
"""
    lines = [int(found.split(":")[0]) for found in mistakes(tmp_path, body)]
    assert lines == [4, 5, 6, 8, 9, 11, 15, 16]


@pytest.mark.parametrize("path", SHIPPED, ids=handle_of)
def test_shipped_playbooks_load(path: Path) -> None:
    playbook = load_playbook(path)
    assert playbook.handle == str(path.relative_to(SCENARIOS)).removesuffix(SUFFIX)
    assert playbook.expectations and playbook.why and playbook.source
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(entry.limits.check in lines[entry.line - 1] for entry in playbook.expectations)


def test_nothing_of_a_shipped_playbooks_source_is_lost_to_a_comment() -> None:
    for path in SHIPPED:
        said = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("source:"))
        assert said.removeprefix("source:").strip().strip('"') == load_playbook(path).source, path


def test_steps_become_values(tmp_path: Path) -> None:
    body = """\
steps:
  - at: 1.5 s
    black_hole: {link: backhaul, direction: up}
    for: 400 ms
  - after: publisher stall:detected + 500 ms
    kill: {role: viewer}
  - {after: session:lost, ask: Do you see it?}
  - {at: 0, control: {role: gateway, verb: stop_egress, arguments: {egress: a}}}
always:
  - kill: gateway
"""
    playbook = loaded(tmp_path, body + EXPECT)
    hole, kill, ask, control = playbook.steps
    assert hole.verb == BlackHole(link="backhaul", direction="up")
    assert (hole.at_ns, hole.for_ns, hole.line) == (1500 * MILLISECOND, 400 * MILLISECOND, 5)
    assert kill.verb == Kill(role="viewer") and kill.at_ns is None
    assert kill.after == After("publisher", "stall:detected", 500 * MILLISECOND)
    assert ask.verb == Ask("Do you see it?", answered=True) and ask.after == After(None, "session:lost", 0)
    assert control.verb == Control("gateway", "stop_egress", {"egress": "a"}) and control.at_ns == 0
    assert playbook.always[0].number == 4, "numbered on after the steps, so that names of faults stay unique"


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    playbook = load_playbook(written(tmp_path, "name: n\nwhy: w\nexpect: [never_refused]\n", head=""))
    assert playbook.topology.name == "hotspot" and not playbook.soak and not playbook.steps
    assert (playbook.steady.before_ns, playbook.steady.after_ns) == (3 * SECOND, 6 * SECOND)
    assert {choice.system for choice in playbook.cast.values()} == {"reference"}
    assert set(playbook.cast) == set(playbook.topology.roles)


def test_options_of_a_system_are_text_for_its_command_line(tmp_path: Path) -> None:
    body = "systems:\n  gateway: {options: {reconnect-window: 8 s, port: 1935}}\n  viewer: other\n"
    cast = loaded(tmp_path, body + HOLE + EXPECT).cast
    assert cast["gateway"].options == {"reconnect-window": "8 s", "port": "1935"}
    assert (cast["viewer"].system, cast["viewer"].line, cast["viewer"].column) == ("other", 6, 3)


def test_a_handle_is_never_absolute_and_never_climbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert handle_of(Path(f"mine/a{SUFFIX}")) == "mine/a"
    monkeypatch.chdir(tmp_path / "mine")
    outside = handle_of(Path(f"../a{SUFFIX}"))
    assert not Path(outside).is_absolute() and ".." not in outside and outside.endswith("/a")


# --- positions -----------------------------------------------------------------------------------------------


def test_positions_of_keys_and_items_count_from_one(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1\nb:\n  - x\n  - {c: 2, d: [3, 4]}\n", head="")
    document = read_document(path)
    assert document.data == {"a": 1, "b": ["x", {"c": 2, "d": [3, 4]}]}
    places = {("a",): (1, 1), ("b", 0): (3, 5), ("b", 1): (4, 5), ("b", 1, "c"): (4, 6), ("b", 1, "d", 1): (4, 19)}
    assert {place: document.positions[place] for place in places} == places


def test_a_place_that_does_not_exist_is_the_nearest_around_it(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, "a:\n  b: 1\n", head=""))
    assert document.line(("a", "b", "c", 0)) == 2
    assert document.line(("a", "missing")) == 1
    assert document.line(("nowhere",)) == 1


def test_yaml_is_read_as_version_1_2(tmp_path: Path) -> None:
    data = read_document(written(tmp_path, "a: no\nb: on\nc: yes\nd: true\ne: 0x10\nf: ~\n", head="")).data
    assert data == {"a": "no", "b": "on", "c": "yes", "d": True, "e": 16, "f": None}
