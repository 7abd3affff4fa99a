"""``deadair explain``: what a person reads before a run, checked against what runs have shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playbook_kit import EXPECT, loaded

from harness.history import events
from harness.playbook.explain import explain
from harness.playbook.loader import SCENARIOS, SUFFIX, handle_of, load_playbook
from reference_impl import telemetry

SHIPPED = sorted(SCENARIOS.rglob(f"*{SUFFIX}"))


def shipped(handle: str) -> str:
    return explain(load_playbook(SCENARIOS / f"{handle}{SUFFIX}"))


def line_with(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_a_black_hole_that_outlasts_the_watchdog_is_explained_with_absolute_times() -> None:
    text = shipped("hotspot/backhaul_drop_4s")
    assert "t=1.00 s" in line_with(text, "BREAKS: black hole on backhaul (line 10)")
    assert "t≈1.5 to 1.6 s" in line_with(text, "media:frozen")
    assert "t≈2.0 to 2.2 s" in line_with(text, "publisher: stall:detected")
    assert "t≈3.0 to 3.1 s" in line_with(text, "session:stalled")
    assert "t=5.00 s" in line_with(text, "HEALS")
    assert "media:resumed on an IDR" in text and "t=11.00 s" in line_with(text, "script:ended")
    assert "session:ended" not in text, "the window is longer than the outage"


def test_a_blip_is_explained_as_ridden_out() -> None:
    text = shipped("hotspot/backhaul_blip_400ms")
    assert "stall:detected" not in text and "connect:established" not in text
    assert "no frame missing" in text


def test_on_the_watchdogs_edge_both_are_right() -> None:
    assert "it may wait, or reconnect" in shipped("hotspot/backhaul_drop_1s")


def test_new_connections_pass_a_hole_for_one_connection() -> None:
    text = shipped("tcp/one_connection_blackholed")
    assert "session:taken_over" in text and "while the hole is still there" in text


def test_each_outage_of_a_flapping_link_has_its_time() -> None:
    text = shipped("hotspot/flap_3s_on_3s_off")
    dead = [line.split("s ")[0].strip() for line in text.splitlines() if "is dead again" in line]
    assert dead == ["t=7.00", "t=13.00", "t=19.00", "t=25.00"]


def test_the_end_of_a_reconnect_window_is_told_with_the_playbooks_own_window() -> None:
    text = shipped("egress/publisher_gone_for_good")
    assert "t≈9.0 to 10.0 s" in line_with(text, "session:ended (the reconnect window")
    assert "--reconnect-window 8 s" in line_with(text, "gateway      on")


def test_a_claim_is_a_sentence_with_its_limit_and_where_the_default_comes_from() -> None:
    text = shipped("hotspot/backhaul_drop_4s")
    assert "- the publisher detects the outage within 2.00 s [outage_detected, line 15]" in text
    assert "limit: ≤ 2.00 s" in text
    assert "within: 2.00 s, the default (source: S4: detected <= 2.0 s)" in text
    assert "at_most: 6.00 s, said by the playbook; default 3.00 s (source: S3" in text


def test_steps_that_wait_for_an_event_are_told_by_that_event(tmp_path: Path) -> None:
    steps = """\
steps:
  - after: publisher stall:detected + 500 ms
    pause: gateway
    for: 2 s
  - {at: 1 s, ask: Is it good?}
always:
  - kill: viewer
"""
    text = explain(loaded(tmp_path, steps + EXPECT))
    assert "publisher stall:detected + 500 ms" in text and "2.00 s later" in line_with(text, "HEALS")
    assert "t=1.00 s" in line_with(text, "Is it good?") and "always" in line_with(text, "viewer is killed")
    assert "≈ +0.5 to 0.6 s" in text


@pytest.mark.parametrize("path", SHIPPED, ids=handle_of)
def test_every_shipped_playbook_is_explained_on_a_page_of_100_columns(path: Path) -> None:
    text = explain(load_playbook(path))
    assert max(map(len, text.splitlines())) <= 100
    expected = text.split("WHAT HAPPENS")[1].split("WHAT MUST HOLD")[0]
    assert "t≈" in expected, "something is expected in the logs of every shipped playbook"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("{at: 1 s, for: 2 s, black_hole: {link: wifi, proto: udp}}", "touches nothing of it"),
        ("{at: 1 s, for: 2 s, black_hole: {link: viewer_link}}", "viewer: media:frozen; nobody else notices"),
        ("{at: 1 s, for: 2 s, black_hole: {link: platform_link}}", "destination: media:frozen"),
        ("{at: 1 s, for: 2 s, interface_down: {node: phone}}", "publisher: stall:detected"),
        ("{at: 1 s, for: 2 s, restart: gateway}", "egress:leftover_ended"),
        ("{at: 1 s, for: 3 s, pause: publisher}", "session:stalled"),
        ("{at: 1 s, nat_rebind: {router: hotspot}}", "connection:lost"),
        ("{at: 1 s, for: 2 s, tcp_reset: {flow: publisher.rtmp}}", "connection:lost"),
        ("{at: 1 s, for: 2 s, change_link: {link: wifi, loss: 2 %}}", "tcp:sampled"),
        ("{at: 1 s, for: 9 s, link_flap: {link: wifi, off: 1 s, on: 1 s, random: true}}", "the run's seed decides"),
    ],
)
def test_each_kind_of_fault_has_its_signs(tmp_path: Path, steps: str, words: str) -> None:
    assert words in explain(loaded(tmp_path, f"steps:\n  - {steps}\n" + EXPECT))


def test_signs_name_only_events_that_exist() -> None:
    source = (Path(__file__).parents[2] / "harness/playbook/signs.py").read_text(encoding="utf-8")
    known = {*telemetry.EVENTS, *events.EVENTS}
    named = set(re.findall(r"\b[a-z]+:[a-z_]+\b", "".join(re.findall(r'"[^"]*"', source))))
    assert len(named) > 20 and named <= known, named - known
