"""The page's own script, in a real browser: cursor, zoom, filter, links into the log, theme."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_history import drop_run

from harness.report.html import render_report

_PROBE = """
<script>
const failures = [];
addEventListener("error", event => failures.push(event.message));
const said = {};
const plot = document.querySelector("svg.plot"), box = plot.getBoundingClientRect();
const move = share => plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * share}));
move(0.3);
said.at = document.querySelector(".at").textContent;
said.rate = document.querySelector("output").textContent;
move(0.55);
said.silent = document.querySelector("output").textContent;
document.querySelector("button[data-zoom='2']").click();
said.zoom = document.querySelector(".canvas").style.width;
document.querySelector("button[data-zoom='0']").click();
said.fit = document.querySelector(".canvas").style.width;
const input = document.querySelector("details input");
input.value = "STALL detected"; input.oninput();
said.rows = document.querySelectorAll("tbody tr[id]:not([hidden])").length;
location.hash = document.querySelector(".claims a").getAttribute("href");
document.getElementById("theme").click();
said.theme = document.documentElement.style.colorScheme;
setTimeout(() => {
  said.open = document.querySelector("details").open;
  document.title = JSON.stringify({failures, said});
}, 100);
</script></body>
"""


def in_browser(page: str, directory: Path) -> str:
    """The document as the browser has it after the page's scripts ran."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    (directory / "page.html").write_text(page, encoding="utf-8")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    place = [f"--user-data-dir={directory / 'profile'}", "--window-size=1280,900", "--virtual-time-budget=2000"]
    command = [browser, *quiet, *place, "--dump-dom", (directory / "page.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.mark.peer
def test_the_script_reads_the_curves_zooms_filters_and_opens_the_log(tmp_path: Path) -> None:
    page = render_report([drop_run(idr=True)]).replace("</body>", _PROBE)
    title = re.search(r"<title>(.*?)</title>", in_browser(page, tmp_path))
    assert title is not None
    for said in (
        '"failures":[]',
        '"at":"t=',
        '"silent":"0 kbit/s"',
        '"zoom":"200%"',
        '"fit":"100%"',
        '"rows":1',
        '"open":true',
        '"theme":"dark"',
    ):
        assert said in title[1], title[1]
    assert re.search(r'"rate":"\d\.\d\d Mbit/s"', title[1])
