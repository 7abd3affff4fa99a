"""A destination on a real socket of the loopback, pushed to from the same loop."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from rtmp_cast import Sender, until

from reference_impl.destination.platform import Platform, PlatformSettings
from reference_impl.destination.serve import parser
from reference_impl.media.decode import Decoder
from reference_impl.media.watcher import MediaWatcher
from reference_impl.rtmp import tcp_state
from reference_impl.rtmp.endpoint import ServerConnection
from reference_impl.telemetry import TelemetryRecorder

Opened = Callable[..., Awaitable["Site"]]


class Site:
    """A platform with its telemetry and address."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.telemetry = TelemetryRecorder()
        self.platform = Platform(
            settings,
            self.telemetry,
            connection=ServerConnection,
            watcher=self._watcher,
            loop=asyncio.get_running_loop(),
        )

    def _watcher(self, _key: str) -> MediaWatcher:
        return MediaWatcher(self.telemetry, decoder=Decoder())

    def is_empty(self) -> bool:
        return not self.platform.ledger()["connections"]

    def url(self, key: str = "live/key") -> str:
        return f"rtmp://127.0.0.1:{self.platform.port}/{key}"

    def frames(self, key: str = "live/key") -> int:
        return int(self.platform.status()["streams"].get(key, {}).get("frames", 0))


@pytest.fixture
async def open_site() -> AsyncIterator[Opened]:
    sites = []

    async def open_one(**settings: Any) -> Site:
        site = Site(PlatformSettings(**settings))
        await site.platform.start("127.0.0.1", 0)
        sites.append(site)
        return site

    yield open_one
    for site in sites:
        await site.platform.stop("test")
        await until(site.is_empty, what="connections are gone")


async def push(site: Site, key: str = "live/key", sender: Sender | None = None) -> Sender:
    sender = sender or Sender(site.url(key))
    await sender.connect()
    return sender


async def test_a_push_is_accepted_decoded_and_ended_in_order(open_site: Opened) -> None:
    site = await open_site()
    sender = await push(site)
    await until(lambda: site.frames() >= 10, what="ten pictures")
    sender.source.stop()
    sender.connection.finish()
    await until(lambda: site.telemetry.named("push:ended"), what="the push's end")
    (accepted,), (ended,) = site.telemetry.named("push:accepted"), site.telemetry.named("push:ended")
    assert (accepted["stream"], accepted["push"]) == ("live/key", 1)
    assert ended["reason"] in ("FCUnpublish", "deleteStream")
    (started,) = site.telemetry.named("media:started")
    assert started["frame"] == 0 and started["idr"] and started["decoded"] and started["parameter_sets"]
    assert started["delay_ms"] < 5000
    assert not site.telemetry.named("media:disordered") and not site.telemetry.named("media:undecodable")


async def test_a_connection_that_breaks_is_told_with_its_cause(open_site: Opened) -> None:
    site = await open_site()
    sender = await push(site)
    await until(lambda: site.frames() >= 2)
    sender.source.stop()
    tcp_state.abort(sender.connection.transport)
    await until(lambda: site.telemetry.named("push:ended"))
    assert "reset" in site.telemetry.named("push:ended")[0]["reason"].lower()


async def test_a_new_push_of_the_same_key_continues_the_same_stream(open_site: Opened) -> None:
    site = await open_site()
    first = await push(site)
    await until(lambda: site.frames() >= 5)
    tcp_state.abort(first.connection.transport)
    await until(lambda: site.telemetry.named("media:frozen"), what="the freeze")
    second = await push(site, sender=Sender(site.url(), first.source))
    await until(lambda: site.telemetry.named("media:resumed"), what="the resumption")
    second.source.stop()
    (frozen,), (resumed,) = site.telemetry.named("media:frozen"), site.telemetry.named("media:resumed")
    assert resumed["last_frame"] == frozen["last_frame"]
    assert resumed["idr"] and resumed["decoded"] and resumed["gap_ms"] >= 500
    assert resumed["missing"] == resumed["frame"] - resumed["last_frame"] - 1 > 0
    assert len(site.telemetry.named("media:started")) == 1
    assert [each["push"] for each in site.telemetry.named("push:accepted")] == [1, 2]


async def test_a_push_that_begins_without_an_idr_shows_nothing_until_one_comes(open_site: Opened) -> None:
    site = await open_site()
    first = await push(site)
    await until(lambda: site.frames() >= 5)
    tcp_state.abort(first.connection.transport)
    careless = Sender(site.url(), first.source, idr_first=False)
    await push(site, sender=careless)
    await until(lambda: site.telemetry.named("media:resumed"), what="the next IDR of the GOP")
    careless.source.stop()
    assert site.telemetry.named("media:undecodable")[0]["error"] == "no IDR since the connection began"
    assert site.telemetry.named("media:resumed")[0]["idr"]


@pytest.mark.parametrize(("bad_key", "closed"), [("close", True), ("keep_open", False)])
async def test_a_bad_key_is_refused_and_closed_or_kept_as_set(open_site: Opened, bad_key: str, closed: bool) -> None:
    site = await open_site(keys=frozenset({"live/right"}), bad_key=bad_key)
    sender = await push(site, "live/wrong")
    await until(lambda: sender.refused, what="the refusal")
    await asyncio.sleep(0.1)
    assert sender.refused == ["NetStream.Publish.BadName"] and sender.lost is closed
    (told,) = site.telemetry.named("push:refused")
    assert (told["stream"], told["setting"]) == ("live/wrong", f"bad_key={bad_key}")
    assert not site.telemetry.named("push:accepted")


async def test_the_right_key_is_accepted(open_site: Opened) -> None:
    site = await open_site(keys=frozenset({"live/right"}))
    sender = await push(site, "live/right")
    await until(lambda: sender.started)
    sender.source.stop()


@pytest.mark.parametrize(("rule", "closed"), [("refuse", False), ("refuse_and_close", True)])
async def test_a_key_in_use_is_refused_while_the_old_push_is_alive(open_site: Opened, rule: str, closed: bool) -> None:
    site = await open_site(same_key=rule)
    first = await push(site)
    await until(lambda: first.started)
    second = await push(site)
    await until(lambda: second.refused)
    await asyncio.sleep(0.1)
    assert second.lost is closed and not first.lost
    first.source.stop()
    first.connection.finish()
    await until(lambda: first.lost)
    third = await push(site)
    await until(lambda: third.started, what="the key is free again")
    third.source.stop()


async def test_a_newcomer_takes_the_key_over_where_the_rule_says_so(open_site: Opened) -> None:
    site = await open_site(same_key="take_over")
    first = await push(site)
    await until(lambda: first.started)
    second = await push(site)
    await until(lambda: second.started and first.lost)
    first.source.stop()
    second.source.stop()
    assert site.telemetry.named("push:ended")[0] == {"stream": "live/key", "push": 1, "reason": "taken over"}


async def test_a_stalled_platform_lets_the_senders_data_pile_up_until_it_resumes(open_site: Opened) -> None:
    site = await open_site()
    sender = await push(site)
    await until(lambda: site.frames() >= 5)
    site.platform.stall()
    await asyncio.sleep(0.05)
    seen, sent = site.frames(), sender.sent
    await until(lambda: site.telemetry.named("media:frozen"), what="the freeze")
    assert sender.sent > sent + 25
    assert site.frames() == seen and site.platform.status()["stalled"]
    site.platform.resume()
    await until(lambda: site.frames() >= seen + 20, what="what piled up arrives")
    sender.source.stop()
    (resumed,) = site.telemetry.named("media:resumed")
    assert resumed["missing"] == 0 and resumed["decoded"]


async def test_a_platform_can_stall_by_itself_and_reads_no_later_connection_either(open_site: Opened) -> None:
    site = await open_site(stall_after=0.2)
    sender = await push(site)
    await until(lambda: site.platform.status()["stalled"], what="the stall")
    other = await push(site, "live/other")
    await asyncio.sleep(0.2)
    assert not other.started
    site.platform.resume()
    await until(lambda: other.started)
    sender.source.stop()
    other.source.stop()


async def test_a_silent_push_is_ended_at_the_idle_limit(open_site: Opened) -> None:
    site = await open_site(idle_limit=1.0)
    sender = await push(site)
    await until(lambda: site.frames() >= 45)
    assert not site.telemetry.named("push:ended")
    sender.source.stop()
    await until(lambda: sender.lost, within=4.0, what="the platform drops it")
    assert site.telemetry.named("push:ended")[0]["reason"] == "nothing came for idle_limit=1 s"


async def test_stopping_ends_pushes_and_watches_and_leaves_nothing(open_site: Opened) -> None:
    site = await open_site()
    sender = await push(site)
    await until(lambda: site.frames() >= 2)
    sender.source.stop()
    await site.platform.stop("control")
    await until(lambda: not site.platform.ledger()["connections"])
    assert site.platform.ledger()["sessions"] == 0
    assert site.telemetry.named("push:ended")[0]["reason"] == "the platform stops (control)"
    assert site.telemetry.named("media:ended")[0]["reason"] == "control"


@pytest.mark.peer
async def test_what_ffmpeg_pushes_is_watched_by_decode_times(open_site: Opened) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed")
    site = await open_site()
    options = "-v error -re -f lavfi -i testsrc2=size=320x240:rate=25 -f lavfi -i sine -t 1.5 -c:v libx264 -bf 2 -g 25"
    options += " -pix_fmt yuv420p -c:a aac -f flv"
    process = await asyncio.create_subprocess_exec(ffmpeg, *options.split(), site.url())
    assert await asyncio.wait_for(process.wait(), 20) == 0
    await until(lambda: site.telemetry.named("push:ended"))
    (started,) = site.telemetry.named("media:started")
    assert (started["frame"], started["decoded"], started["idr"], started["delay_ms"]) == (-1, True, True, None)
    told = {name for _, name, _ in site.telemetry.events}
    assert not told & {"media:disordered", "media:skipped", "media:undecodable", "media:frozen"}
    assert site.frames() >= 30


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--key", "nokey"], ["--idle-limit", "5"], ["--same-key", "fight"], ["--listen", "1935x"]]
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(arguments)
    assert stop.value.code == 2 and arguments[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "address"), [(":1935", (None, 1935)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:1935", ("::1", 1935))]
)
def test_where_to_listen(text: str, address: tuple[str | None, int]) -> None:
    assert parser().parse_args(["--listen", text]).listen == address


async def test_the_program_tells_serves_answers_and_stops(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    descriptors = (theirs.fileno(), writer)
    options = ["--listen", "127.0.0.1:0", "--pictures", str(tmp_path)]
    options += ["--control-fd", str(descriptors[0]), "--telemetry-fd", str(descriptors[1])]
    program = "reference_impl.destination.serve"
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", program, *options, pass_fds=descriptors)
    theirs.close()
    os.close(writer)
    loop = asyncio.get_running_loop()
    try:
        told = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), os.fdopen(reader, "rb"))
        control, requests = await asyncio.open_unix_connection(sock=ours)
        ready = json.loads(await asyncio.wait_for(told.readline(), 15))
        port = re.search(r"port (\d+)", ready["data"]["detail"])
        assert ready["name"] == "program:ready" and port
        sender = Sender(f"rtmp://127.0.0.1:{port[1]}/live/key")
        await sender.connect()
        await until(lambda: sender.sent > 20)

        async def ask(verb: str) -> dict[str, Any]:
            requests.write(json.dumps({"id": 1, "verb": verb}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await asyncio.wait_for(control.readline(), 5))
            return answer

        status = await ask("status")
        assert status["streams"]["live/key"]["frames"] > 0
        assert (await ask("ledger"))["sessions"] == 1
        assert (await ask("stall"))["ok"] and (await ask("resume"))["ok"]
        assert (await ask("stop"))["ok"]
        sender.source.stop()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        names = [json.loads(line)["name"] for line in (await asyncio.wait_for(told.read(), 5)).splitlines()]
        assert {"push:accepted", "media:started", "picture:saved", "push:ended", "media:ended"} <= set(names)
        assert names[-2:] == ["ledger:told", "program:stopped"]
        requests.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "reference_impl.destination.serve", "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert f"cannot listen on port {port}" in done.stderr and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["name"] == "program:failed"
