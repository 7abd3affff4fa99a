"""report.html: stands alone, escapes everything, stays small and quick."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_history import S, Story, drop_run

from harness.checks.verdict import Outcome, Verdict
from harness.report.html import MOST_BYTES, render_report
from harness.report.markup import Markup, el
from harness.report.model import RunView
from harness.report.svg import thinned

JPEG = b"\xff\xd8\xff\xe0" + b"picture" * 20
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
_VOID = frozenset({"meta", "img", "br", "input"})
_OPTIONAL_END = frozenset({"td", "th"})


class Page(HTMLParser):
    """Parses a page strictly: every element is closed where it must be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "id":
                self.ids[value or ""] += 1
            if name == "href":
                self.links.append(value or "")
            if name in ("src", "srcset", "data", "poster", "action"):
                self.loaded.append(value or "")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1] != tag and self._open[-1] in _OPTIONAL_END:
            self._open.pop()
        assert self._open and self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_says_the_verdict_first_and_holds_all_that_explains_it() -> None:
    page = Page(render_report([drop_run(idr=False)]))
    assert "hotspot/backhaul_drop_4s publisher=reference-no-idr failed." in page.text
    for said in (
        "frame 342 is a P frame",
        "backhaul swallows everything, both ways; Wi-Fi stays up",
        "touched 487",
        "keyframe 342 is no IDR",
        "frozen 4.95 s",
        "phone → gateway:1935",
        "--system publisher=reference-no-idr",
        "p99 148 µs",
        "builder-7",
        "stall_after = 1.50 s",
        "last picture before",
    ):
        assert said in page.text, said


def test_the_page_parses_and_every_link_inside_it_leads_somewhere() -> None:
    page = Page(render_report([drop_run(idr=True), drop_run(idr=False)]))
    assert [identity for identity, count in page.ids.items() if count > 1] == []
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert len(inside) > 50
    assert inside <= set(page.ids)


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    text = render_report([with_pictures(tmp_path)])
    assert re.findall(r"https?://|(?<!:)//[a-z]|@import|url\(", text.replace("rtmp://", "")) == []
    loaded = Page(text).loaded
    assert loaded
    assert all(source.startswith("data:image/jpeg;base64,") for source in loaded)
    assert "default-src &#x27;none&#x27;" in text


def test_what_a_peer_sent_is_shown_and_never_obeyed() -> None:
    story = Story()
    story.tell(0.5, "publisher", "publish:refused", connection=1, code=HOSTILE, description=HOSTILE)
    story.tell(1, HOSTILE, "status:changed", status=HOSTILE, reason=HOSTILE)
    story.tell(2, "viewer", "picture:saved", frame=1, path=HOSTILE, moment=HOSTILE)
    story.tell(2.5, "network", "flow:counted", flow=HOSTILE, packets=1, bytes=9, dropped=0, dropped_because={})
    verdict = Verdict(Outcome.FAIL, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (0,))
    plain = Page(render_report([RunView(events=story.events(), verdicts=[])] * 2))
    page = Page(
        render_report(
            [RunView(events=story.events(), verdicts=[verdict], provenance={HOSTILE: {HOSTILE: HOSTILE}})] * 2
        )
    )
    assert page.tags["script"] == plain.tags["script"] == 1
    assert page.tags["img"] == 0
    assert HOSTILE in page.text


@pytest.mark.parametrize("cut", ["", "it has no closing line"])
def test_an_empty_or_cut_short_history_still_makes_a_page(cut: str) -> None:
    run = drop_run(idr=True)
    for events in ([], run.events[:1], run.events[: len(run.events) // 2]):
        page = Page(render_report([RunView(events=events, verdicts=[], cut=cut)]))
        assert "is unknown" in page.text
        assert cut in page.text


def test_no_runs_make_a_page_that_says_so() -> None:
    assert "Nothing ran" in Page(render_report([])).text


def test_ten_thousand_events_take_under_two_seconds_and_under_a_megabyte() -> None:
    run = drop_run(idr=False, extra_events=10_000)
    started = time.perf_counter()
    text = render_report([run])
    assert time.perf_counter() - started < 2
    assert len(text.encode()) < 1_000_000
    page = Page(text)
    assert {f"r0e{number}" for verdict in run.verdicts for number in verdict.evidence} <= set(page.ids)


def test_ten_thousand_marks_on_one_lane_are_thinned_and_the_page_says_so() -> None:
    story = Story()
    for n in range(10_000):
        story.tell(n / 100, "publisher", "connect:failed", connection=n, attempt=n, reason="refused " * 4)
    text = render_report([RunView(events=story.events(), verdicts=[])])
    assert len(text.encode()) < 1_000_000
    assert "9750 marks not drawn" in text


def test_many_runs_stay_under_a_megabyte_and_failures_keep_their_section(tmp_path: Path) -> None:
    passing = replace(drop_run(idr=True), run_dir=tmp_path / "a")
    text = render_report([passing] * 30 + [drop_run(idr=False)], base=tmp_path)
    assert len(text.encode()) <= MOST_BYTES + 50_000
    page = Page(text)
    assert "r30" in page.ids
    assert "a/report.html" in page.links


def with_pictures(run_dir: Path) -> RunView:
    run = drop_run(idr=True, run_dir=run_dir)
    for event in run.events:
        if event.name == "picture:saved":
            path = run_dir / event.data["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(JPEG)
    return run


def test_the_film_strip_embeds_the_pictures_around_the_freeze(tmp_path: Path) -> None:
    assert Page(render_report([with_pictures(tmp_path)])).tags["img"] == 6


def test_a_picture_that_is_none_is_not_embedded(tmp_path: Path) -> None:
    run = with_pictures(tmp_path)
    for path in tmp_path.glob("pictures/viewer/*.jpg"):
        path.write_bytes(b"root:x:0:0")
    page = Page(render_report([run]))
    assert page.tags["img"] == 4
    assert "no picture saved" in page.text


def test_files_of_the_run_are_linked_relative_to_the_page(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "logs").mkdir(parents=True)
    for name in ("events.jsonl", "capture.pcapng", "logs/gateway.log"):
        (run_dir / name).touch()
    page = Page(render_report([drop_run(idr=True, run_dir=run_dir)], base=tmp_path))
    assert {"run/events.jsonl", "run/capture.pcapng", "run/logs/gateway.log"} <= set(page.links)
    assert not any("trace.json" in link for link in page.links)


def test_overlapping_and_unfinished_faults_are_all_drawn() -> None:
    story = Story()
    for n in range(6):
        story.tell(
            n,
            "network",
            "fault:entered",
            fault=f"f{n}",
            kind="link_flap",
            scope="network",
            target="wifi",
            what=f"flap {n}",
            settings={},
        )
    story.tell(9, "runner", "run:ended")
    text = render_report([RunView(events=story.events(), verdicts=[])])
    assert text.count('class="bandbar"') == 6
    assert "no receipt: still active at the end" in text


def test_elements_escape_children_and_attributes_but_not_markup() -> None:
    assert el("p", "<b>", Markup("<i>"), title='"&', class_="x", hidden=True, id=None) == (
        '<p title="&quot;&amp;" class="x" hidden>&lt;b&gt;<i></p>'
    )


def test_thinning_keeps_the_peaks() -> None:
    points = [(n, float(n == 5_000)) for n in range(10_000)]
    kept = thinned(points, most=100)
    assert len(kept) <= 100
    assert (5_000, 1.0) in kept


def test_times_count_from_the_script() -> None:
    page = Page(render_report([drop_run(idr=True)]))
    assert "times count from the script's start, 3.30 s after the run's zero" in page.text
    assert round(8.3 * S) in [event.t_ns for event in drop_run(idr=True).events]
    assert "5.000" in page.text
