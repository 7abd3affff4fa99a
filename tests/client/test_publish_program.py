"""The program from outside: command line, control verbs, telemetry, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from rtmp_bed import TinyServer

from reference_impl.client.publish import parser, settings_of
from reference_impl.machines.reconnect import ReconnectSettings

WITHIN = 20


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--url"),
        (["--url", "http://gateway.test/live/cam1"], "rtmp"),
        (["--url", "rtmp://gateway.test/cam1"], "application"),
        (["--url", "rtmp://g/live/cam1", "--stall-after", "4"], "'4' is not a duration"),
        (["--url", "rtmp://g/live/cam1", "--bitrate", "2000"], "2 Mbit/s"),
        (["--url", "rtmp://g/live/cam1", "--size", "640"], "1280x720"),
        (["--url", "rtmp://g/live/cam1", "--media", "/no/such/file.mp4"], "no such file"),
        (["--url", "rtmp://g/live/cam1", "--watchdog", "crystal_ball"], "ack_progress"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_would_be_right(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_options_reach_the_settings_in_seconds_bytes_and_bits() -> None:
    line = "--url rtmp://g/live/cam1 --watchdog bytes_accepted --stall-after 1.5s --poll 50ms --give-up-after 5min"
    line += " --bitrate 3Mbit/s --size 1280x720 --fps 25 --gop 1s --send-buffer 128kB --user-timeout 8s --seed 7"
    settings = settings_of(parser().parse_args(line.split()))
    assert (settings.watchdog, settings.stall_after, settings.poll, settings.seed) == ("bytes_accepted", 1.5, 0.05, 7)
    assert settings.reconnect == ReconnectSettings(give_up_after=300.0)
    assert (settings.source.bitrate, settings.source.width, settings.source.gop_s) == (3_000_000, 1280, 1.0)
    assert (settings.tcp.send_buffer, settings.tcp.user_timeout) == (128_000, 8.0)


class Running:
    """The program in a process of its own, as the harness starts it."""

    def __init__(self, process: asyncio.subprocess.Process, telemetry: int, control: socket.socket) -> None:
        self.process = process
        self._telemetry = telemetry
        self._control = control

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> Running:
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        fds = ["--telemetry-fd", str(write), "--control-fd", str(theirs.fileno())]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "reference_impl.client.publish", *arguments, *fds),
            pass_fds=(write, theirs.fileno()),
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(write)
        theirs.close()
        return cls(process, read, ours)

    async def request(self, verb: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._control, json.dumps({"id": 1, "verb": verb}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(loop.sock_recv(self._control, 65536), WITHIN))
        return answer

    def hang_up(self) -> None:
        self._control.close()

    async def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, all events, standard error."""
        assert self.process.stderr is not None
        log = (await asyncio.wait_for(self.process.stderr.read(), WITHIN)).decode()
        code = await asyncio.wait_for(self.process.wait(), WITHIN)
        with os.fdopen(self._telemetry) as lines:
            events = [json.loads(line) for line in lines]
        self._control.close()
        return code, events, log


async def test_it_publishes_answers_its_verbs_and_ends_when_told_to() -> None:
    server = TinyServer()
    port = await server.start()
    program = await Running.start(["--url", f"rtmp://127.0.0.1:{port}/live/cam1?key=k", "--size", "160x96"])
    for _ in range(WITHIN * 20):
        if server.accepted and len(server.accepted[0].media) > 30:
            break
        await asyncio.sleep(0.05)
    status = await program.request("status")
    assert (status["ok"], status["connection"], status["reconnects"]) == (True, 1, 0)
    assert (await program.request("ledger"))["connections"] == 1
    assert (await program.request("request_keyframe"))["ok"]
    assert (await program.request("dance"))["ok"] is False
    assert (await program.request("stop"))["ok"]
    code, events, log = await program.end()
    assert code == 0, log
    names = [event["name"] for event in events]
    assert names[0] == "program:ready"
    assert names[-2:] == ["ledger:told", "program:stopped"]
    assert events[-2]["data"]["connections"] == 0
    assert names.count("keyframe:requested") == 2
    assert server.accepted[0].media[0].kind == "script"
    assert server.accepted[0].ended
    server.close()


async def test_it_ends_when_the_harness_is_gone() -> None:
    server = TinyServer()
    port = await server.start()
    program = await Running.start(["--url", f"rtmp://127.0.0.1:{port}/live/cam1?key=k", "--size", "160x96"])
    assert (await program.request("status"))["ok"]
    program.hang_up()
    code, events, log = await program.end()
    assert code == 0, log
    assert events[-1]["data"]["reason"] == "control socket closed"
    server.close()


async def test_a_bad_key_is_an_exit_code_and_a_reason_within_five_seconds() -> None:
    server = TinyServer()
    server.answer = lambda accepted: accepted.connection.refuse_publish(
        "NetStream.Publish.Unauthorized", "wrong key", True
    )
    port = await server.start()
    program = await Running.start(["--url", f"rtmp://127.0.0.1:{port}/live/cam1?key=wrong", "--size", "160x96"])
    code, events, _ = await program.end()
    assert code == 1
    told = {event["name"]: event for event in events}
    assert "wrong key" in told["program:failed"]["data"]["error"]
    assert (told["program:stopped"]["t_ns"] - told["program:ready"]["t_ns"]) / 1e9 < 5
    assert [event["name"] for event in events].count("connect:attempted") == 1
    server.close()


async def test_it_ends_after_the_duration_that_was_asked_for() -> None:
    server = TinyServer()
    port = await server.start()
    program = await Running.start(
        ["--url", f"rtmp://127.0.0.1:{port}/live/cam1?key=k", "--size", "160x96", "--duration", "500 ms"]
    )
    code, events, log = await program.end()
    assert code == 0, log
    assert events[-1]["data"]["reason"] == "duration"
    server.close()
