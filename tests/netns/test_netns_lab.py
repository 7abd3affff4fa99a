"""Labs on this machine's kernel: building, programs, names, what is left."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from netns_support import WITHIN_S, Events, MakeLab, ideal

from harness.capture.spool import FILE_NAME, read_packets
from harness.engines.netns import Lab, channel, forgeclient, leftovers
from harness.engines.netns.forgeclient import Forge, shared_forge
from harness.engines.netns.probes import denial
from harness.engines.netns.process import NodeProcess
from harness.errors import HarnessError
from harness.history.events import EVENTS

pytestmark = pytest.mark.netns

TREE = str(Path(leftovers.__file__).parents[3])
SERVER = """
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 1935), family=family)
print('listening', flush=True)
while True:
    taken, _ = listener.accept()
    data = taken.recv(100)
    taken.sendall(data + b' ' + taken.getsockopt(socket.IPPROTO_TCP, 13, 16).rstrip(b'\\0'))
    taken.close()
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 1935), timeout=5) as s:
    s.sendall(b'hello ' + s.getsockopt(socket.IPPROTO_TCP, 13, 16).rstrip(b'\\0'))
    print(s.recv(100).decode(), s.getpeername()[0])
"""
CONTROLLED = """
import asyncio, sys
from reference_impl.program import Program, open_telemetry, add_arguments
import argparse
parser = argparse.ArgumentParser()
add_arguments(parser)
options = parser.parse_args()
telemetry = open_telemetry(options)
async def status(request):
    return {'doubled': request['number'] * 2}
async def shut_down(reason):
    pass
program = Program('publisher', telemetry, verbs={'status': status})
sys.exit(asyncio.run(program.run(control_fd=options.control_fd, detail='test', shut_down=shut_down)))
"""


async def _run(lab: Lab, node: str, code: str, *arguments: str, source: str = "") -> NodeProcess:
    argv = [sys.executable, "-c", code, *arguments]
    return await lab.start(node, source=source or node, program="python", argv=argv, harnessed=False)


async def _ended(process: NodeProcess) -> Any:
    await asyncio.wait_for(process.exited.wait(), WITHIN_S)
    return process.exit


def _holds(path: Path, text: str) -> bool:
    return path.exists() and text in path.read_text()


async def _logged(path: Path, text: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not _holds(path, text):  # noqa: ASYNC110 (a file tells nobody)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("rootless", [False, True], ids=["root", "rootless"])
async def test_tcp_crosses_the_network_by_name_with_cubic_pinned_on_both_ends(
    make_lab: MakeLab, tmp_path: Path, rootless: bool
) -> None:
    if reason := denial(rootless):
        pytest.skip(reason)
    lab = await make_lab(rootless=rootless)
    assert lab.facts["rootless"] is rootless
    await _run(lab, "gateway", SERVER, "0.0.0.0")
    await _logged(tmp_path / "logs/gateway.log", "listening")
    client = await _run(lab, "phone", CLIENT, "gateway.test")
    assert (await _ended(client)).code == 0
    assert (tmp_path / "logs/phone.log").read_text().split() == ["hello", "cubic", "cubic", "198.18.2.2"]


async def test_tcp_crosses_the_network_over_ipv6(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = await make_lab()
    await _run(lab, "gateway", SERVER, "::")
    await _logged(tmp_path / "logs/gateway.log", "listening")
    client = await _run(lab, "phone", CLIENT, "gateway.ipv6.test")
    assert (await _ended(client)).code == 0
    assert (tmp_path / "logs/phone.log").read_text().split() == ["hello", "cubic", "cubic", "2001:db8:0:2::2"]


async def test_the_set_delay_is_the_delay(make_lab: MakeLab) -> None:
    lab = await make_lab(ideal(delay_ns=20_000_000))
    trips = sorted(await lab.echo("phone", "gateway", count=20))
    assert len(trips) == 20
    assert 40_000_000 < trips[10] < 42_000_000


async def test_names_of_the_world_do_not_resolve(make_lab: MakeLab) -> None:
    lab = await make_lab()
    code = "import socket; socket.getaddrinfo('example.org', 80)"
    assert (await _ended(await _run(lab, "phone", code))).code == 1


async def test_a_program_of_the_reference_answers_and_its_telemetry_arrives(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    argv = [sys.executable, "-c", CONTROLLED]
    program = await lab.start("phone", source="publisher", program="x", argv=argv, env={"PYTHONPATH": TREE})
    assert await events.until("program:ready") == {"role": "publisher", "detail": "test"}
    assert await program.request("status", number=21) == {"doubled": 42}
    with pytest.raises(HarnessError, match="no verb 'dance'"):
        await program.request("dance")
    await program.stop()
    assert (await events.until("process:exited"))["expected"] is True
    assert [name for _, _, source, name, _ in events.told if source == "publisher"] == [
        "process:started",
        "program:ready",
        "program:stopped",
        "process:exited",
    ]
    with pytest.raises(HarnessError):
        await program.request("status", number=1)


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); print(1, flush=True); time.sleep(99)"


@pytest.mark.parametrize("harnessed", [True, False], ids=["reference", "third-party"])
async def test_a_program_that_does_not_stop_is_killed_and_that_is_not_an_expected_end(
    make_lab: MakeLab, events: Events, tmp_path: Path, harnessed: bool
) -> None:
    lab = await make_lab()
    argv = [sys.executable, "-c", STUBBORN]
    stubborn = await lab.start("phone", source="phone", program="python", argv=argv, harnessed=harnessed)
    await _logged(tmp_path / "logs/phone.log", "1")
    await asyncio.wait_for(stubborn.stop(within_ns=300_000_000), WITHIN_S)
    exited = await events.until("process:exited")
    assert (exited["signal"], exited["expected"]) == (9, False)
    assert [data["signal"] for _, data in events.named("process:signalled")] == ["SIGTERM", "SIGKILL"]


async def test_a_program_that_does_not_answer_gets_time_for_sigterm(
    make_lab: MakeLab, events: Events, tmp_path: Path
) -> None:
    lab = await make_lab()
    deaf = await lab.start("phone", source="phone", program="python", argv=[sys.executable, "-c", DEAF])
    await _logged(tmp_path / "logs/phone.log", "1")
    await asyncio.wait_for(deaf.stop(within_ns=2_000_000_000), WITHIN_S)
    exited = await events.until("process:exited")
    assert (exited["code"], exited["signal"], exited["expected"]) == (0, 0, True)


async def test_a_program_of_the_reference_that_stops_with_another_code_than_0_has_crashed(
    make_lab: MakeLab, events: Events
) -> None:
    lab = await make_lab()
    code = CONTROLLED.replace("sys.exit(asyncio.run(", "sys.exit(3 + asyncio.run(")
    argv = [sys.executable, "-c", code]
    program = await lab.start("phone", source="publisher", program="x", argv=argv, env={"PYTHONPATH": TREE})
    await events.until("program:ready")
    await program.stop()
    exited = await events.until("process:exited")
    assert (exited["code"], exited["expected"]) == (3, False)


async def test_a_third_party_program_may_end_with_a_code_of_its_own_when_it_is_stopped(
    make_lab: MakeLab, events: Events, tmp_path: Path
) -> None:
    """ffmpeg ends with 255 after SIGTERM and calls that a normal exit."""
    lab = await make_lab()
    program = await _run(lab, "phone", DEAF.replace("exit(0)", "exit(255)"))
    await _logged(tmp_path / "logs/phone.log", "1")
    await program.stop()
    exited = await events.until("process:exited")
    assert (exited["code"], exited["expected"]) == (255, True)


async def test_an_exit_is_told_with_its_code_and_as_unexpected(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    await _run(lab, "viewer", "raise SystemExit(7)")
    exited = await events.until("process:exited")
    assert (exited["code"], exited["signal"], exited["expected"]) == (7, 0, False)


async def test_a_program_that_does_not_exist_is_named(make_lab: MakeLab) -> None:
    lab = await make_lab()
    with pytest.raises(HarnessError, match="no-such-program: No such file"):
        await lab.start("phone", source="x", program="x", argv=["no-such-program"], harnessed=False)
    with pytest.raises(HarnessError, match="no node 'fone'; the lab has phone, gateway"):
        await lab.start("fone", source="x", program="x", argv=["true"], harnessed=False)
    assert lab.processes() == []


async def test_the_ledger_names_orphans_and_sockets(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = await make_lab()
    assert (await lab.ledger("before"))["processes"] == []
    await _run(lab, "gateway", SERVER, "0.0.0.0", source="gateway")
    await _logged(tmp_path / "logs/gateway.log", "listening")
    parent = await lab.start(
        "viewer", source="viewer", program="sh", argv=["sh", "-c", "setsid sleep 99 & sleep 0.2"], harnessed=False
    )
    await _ended(parent)
    taken = await lab.ledger("after")
    found = {entry["command"].split()[0].rsplit("/")[-1]: entry["source"] for entry in taken["processes"]}
    assert found["sleep"] == ""
    assert "gateway" in found.values()
    assert {
        "node": "gateway",
        "protocol": "tcp",
        "local": "0.0.0.0:1935",
        "remote": "0.0.0.0:0",
        "state": "LISTEN",
    } in (taken["sockets"])


async def test_every_event_of_the_engine_is_in_the_table(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    await lab.echo("phone", "gateway", count=3)
    await lab.ledger("end")
    await lab.close()
    assert {"lab:ready", "flow:counted", "ledger:taken", "emulator:measured", "lab:closed"} <= {
        name for _, _, _, name, _ in events.told
    }
    for _, _, _, name, data in events.told:
        assert data.keys() == EVENTS[name].keys()
        assert all(isinstance(data[field], kind) for field, kind in EVENTS[name].items())


async def test_flows_are_counted_in_the_addresses_of_their_sender(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    await lab.echo("phone", "gateway", count=4)
    await lab.close()
    counts = [data for _, data in events.named("flow:counted") if data["flow"].startswith("phone:")]
    assert sum(data["packets"] for data in counts) == 4
    assert counts[0]["flow"].endswith("/udp")
    assert ">gateway:" in counts[0]["flow"]


async def test_a_capture_holds_each_packet_where_it_was_sent_and_delivered(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = await make_lab(capture=True)
    await lab.echo("phone", "gateway", count=2)
    await lab.close()
    packets = list(read_packets(tmp_path / FILE_NAME))
    assert [(packet.interface, packet.fate) for packet in packets[:2]] == [
        ("phone/wlan0", "sent"),
        ("gateway/eth0", "delivered"),
    ]
    assert len(packets) == 8
    assert packets[0].raw[12:16] != packets[1].raw[12:16], "the NAT must show"
    assert [packet.t_ns for packet in packets] == sorted(packet.t_ns for packet in packets)


async def test_closing_twice_is_harmless_and_leaves_no_process(make_lab: MakeLab) -> None:
    lab = await make_lab()
    await _run(lab, "phone", "import time; time.sleep(99)")
    namespaces_before = _lab_processes()
    assert namespaces_before
    await asyncio.gather(lab.close(), lab.close())
    await lab.close()
    assert _all_gone()
    with pytest.raises(HarnessError):
        await lab.ledger("late")


def _lab_processes() -> list[int]:
    """Processes that descend from our forge, by what they carry in their environment."""
    token = shared_forge().token.encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if token in (folder / "environ").read_bytes() and int(folder.name) != shared_forge().pid:
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def _all_gone() -> bool:
    """The supervisor lets go of the packet socket when everybody else is gone: some 20 ms more."""
    deadline = time.monotonic() + 1
    while _lab_processes() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not _lab_processes()


async def test_ctrl_c_in_the_terminal_does_not_reach_the_lab(make_lab: MakeLab) -> None:
    lab = await make_lab()
    program = await _run(lab, "phone", "import time; time.sleep(99)")
    sessions = {os.getsid(pid) for pid in _lab_processes()}
    assert os.getsid(0) not in sessions
    assert not program.exited.is_set()


async def test_a_lab_whose_forwarder_was_killed_says_so_and_is_gone(make_lab: MakeLab) -> None:
    lab = await make_lab()
    (wire,) = [pid for pid in _lab_processes() if leftovers._comm(pid) == "deadair-wire"]
    os.kill(wire, 9)
    with pytest.raises(HarnessError, match=r"forwarder ended by itself.*signal=9"):
        async with asyncio.timeout(WITHIN_S):
            while True:
                await lab.ledger("dead?")
    await lab.close()
    assert _all_gone()


async def test_a_lab_whose_forwarder_fails_says_why_at_every_call(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = await make_lab()
    program = await _run(lab, "phone", "import time; time.sleep(99)")
    channel.send(lab._wire._end, ("an order without a number",))
    async with asyncio.timeout(WITHIN_S):
        await asyncio.wait([lab._init.closed])
        for call in (lab.ledger("dead?"), lab.measure(), lab.heal("f1"), program.stop()):
            with pytest.raises(HarnessError, match=r"forwarder failed: ValueError.*not enough values") as caught:
                await call
            assert "forwarder.log" in caught.value.cure
    log = (tmp_path / "logs/forwarder.log").read_text()
    assert log.count("Traceback") == 1
    assert log.rstrip().splitlines()[-1].startswith("ValueError: not enough values")
    await lab.close()
    assert _all_gone()


async def test_a_lab_that_cannot_be_built_says_why(tmp_path: Path, namespaces: None, events: Events) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv to take a capability away")
    without = [setpriv, "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    forge = Forge(prefix=without)
    try:
        with pytest.raises(HarnessError, match=r"no namespaces.*Operation not permitted(?s:.*)deadair doctor"):
            await Lab.up(ideal(), seed=1, run_dir=tmp_path, on_event=events, forge=forge, rootless=False)
    finally:
        forge.close()


SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups"]
POWERLESS = ["--bounding-set=-all,+setfcap", "--inh-caps=-all"]
"""Root without capabilities; the kernel wants CAP_SETFCAP of whoever maps user 0 into a namespace (since 5.12)."""


def _unprivileged() -> list[Any]:
    """(options of setpriv, interpreter): nobody too, where there is a like interpreter that nobody can execute."""
    ways = [pytest.param(POWERLESS, sys.executable, id="powerless root")]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if Path(SYSTEM_PYTHON).resolve().name == f"python{version}":
        ways.append(pytest.param(NOBODY, SYSTEM_PYTHON, id="nobody"))
    return ways


@pytest.fixture
def open_tree(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that everybody can read, with all that the forge imports, whoever may read the checkout."""
    found = "import sys, harness.engines.netns.forge; print(*{name.partition('.')[0] for name in sys.modules})"
    listed = subprocess.run(
        [sys.executable, "-P", "-c", found],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([TREE, *sys.path])},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    packages = [TREE, *(entry for entry in sys.path if entry.endswith("site-packages"))]
    with tempfile.TemporaryDirectory(prefix="deadair-open-", dir="/tmp") as name:
        tree = Path(name)
        for source in (Path(root, module) for root in packages for module in listed.stdout.split()):
            if source.is_dir():
                shutil.copytree(source, tree / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.with_suffix(".py").is_file():
                shutil.copy(source.with_suffix(".py"), tree)
        for entry in [tree, *tree.rglob("*")]:
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        monkeypatch.setattr(forgeclient, "_TREE", name)
        monkeypatch.setattr(forgeclient, "_START", str(tree / "harness/engines/netns/forgestart.py"))
        monkeypatch.setattr(sys, "path", [name])
        monkeypatch.chdir(name)
        yield tree


@pytest.mark.parametrize(("options", "python"), _unprivileged())
async def test_an_unprivileged_user_gets_a_lab(
    open_tree: Path, namespaces: None, events: Events, options: list[str], python: str
) -> None:
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("needs root and setpriv to give privileges up")
    if denial(rootless=True):
        pytest.skip("user namespaces are denied")
    run_dir = open_tree / "run"
    run_dir.mkdir(mode=0o755)
    forge = Forge(prefix=[setpriv, *options], python=python)
    try:
        forge.wait_ready()
        lab = await Lab.up(ideal(), seed=1, run_dir=run_dir, on_event=events, forge=forge)
        try:
            assert lab.facts["rootless"] is True
            assert len(await lab.echo("phone", "gateway", count=3)) == 3
            argv = ["sh", "-c", "getent hosts gateway.test"]
            process = await lab.start("phone", source="id", program="sh", argv=argv, harnessed=False)
            assert (await _ended(process)).code == 0
            assert "198.18.2.2" in (run_dir / "logs/id.log").read_text()
        finally:
            await lab.close()
    finally:
        forge.close()


async def test_a_capture_whose_writer_dies_is_cut_and_the_lab_goes_on(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab(capture=True)
    (writer,) = [pid for pid in _lab_processes() if leftovers._comm(pid) == "deadair-capture"]
    os.kill(writer, 9)
    assert len(await lab.echo("phone", "gateway", count=3)) == 3
    await asyncio.sleep(0.25)  # over two of the capture's flushes
    assert len(await lab.echo("phone", "gateway", count=3)) == 3
    await lab.close()
    assert events.named("emulator:measured")[0][1]["left_out"] > 0


async def test_a_lab_of_five_nodes_comes_up_and_goes_quickly(make_lab: MakeLab) -> None:
    shared_forge().wait_ready()
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        lab = await make_lab()
        await lab.close()
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.5, "the goal is 0.07 s; a machine shared with other tests gets room"


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_left_a_second_after_sigkill_at_a_random_moment(namespaces: None, seed: int) -> None:
    trial = leftovers.kill_trial(random.Random(seed))
    assert trial.leftovers == (), trial


def test_the_leftover_search_finds_a_process_that_stays(tmp_path: Path) -> None:
    """A check that cannot fail is none: a process with the marker that nobody kills must be found."""
    with leftovers._victim("planted", str(tmp_path)) as process:
        time.sleep(0.05)
        assert process.pid in leftovers.marked("planted")
        took, left = leftovers._wait_clean(lambda: leftovers._anything("planted", leftovers._host_state()))
        assert took > 1
        assert any(str(process.pid) in entry for entry in left)
