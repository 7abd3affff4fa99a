"""Network faults as real kernels feel them: resets that they must accept, damage that they must notice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.engines.netns import Lab
from harness.engines.netns.probes import denial
from harness.faults import ChangeLink, NatStateLost, TcpReset
from harness.network.presets import HOTSPOT

pytestmark = pytest.mark.netns
WITHIN_S = 20

# Both ends say which error ended their connection; "idle" sends one message, "busy" sends until it ends.
SERVER = """
import socket
listener = socket.create_server(("0.0.0.0", 1935))
print("listening", flush=True)
connection, _ = listener.accept()
try:
    while data := connection.recv(65536):
        print("got", len(data), flush=True)
    print("ended: eof", flush=True)
except OSError as error:
    print("ended:", type(error).__name__, flush=True)
"""
CLIENT = """
import socket, sys, time
connection = socket.create_connection(("gateway.test", 1935))
connection.sendall(b"hello")
try:
    while sys.argv[1] == "busy":
        connection.sendall(b"x" * 5000)
        time.sleep(0.005)
    connection.recv(1)
    print("ended: eof", flush=True)
except OSError as error:
    print("ended:", type(error).__name__, flush=True)
"""

WATCH_CHECKSUMS = """
import socket, time
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("0.0.0.0", 5000))
receiver.setblocking(False)
print("bound", flush=True)
errors = received = 0
while errors + received < 5:
    names, values = [line.split() for line in open("/proc/net/snmp") if line.startswith("Udp:")]
    errors = int(values[names.index("InCsumErrors")])
    try:
        receiver.recv(2000)
        received += 1
    except BlockingIOError:
        time.sleep(0.01)
print(f"ended: {errors} checksum errors, {received} received", flush=True)
"""
SEND_DATAGRAMS = """
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5):
    sender.sendto(b"x" * 500, ("viewer.test", 5000))
"""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The hotspot, with a server at the gateway that is listening."""
    if denial(rootless=True) and denial(rootless=False):
        pytest.skip(f"no namespaces: {denial(rootless=True)}")

    def ignore(t_ns: int, node: str, source: str, name: str, data: Mapping[str, Any]) -> None:
        """Events are told to the fabric's own tests."""

    made = await Lab.up(HOTSPOT, seed=1, run_dir=tmp_path, on_event=ignore)
    try:
        await start(made, "gateway", SERVER)
        await logged(tmp_path, "gateway", "listening")
        yield made
    finally:
        await made.close()


async def start(lab: Lab, node: str, script: str, *arguments: str) -> None:
    argv = [sys.executable, "-c", script, *arguments]
    await lab.start(node, source=node, program="script", argv=argv, harnessed=False)


async def logged(run_dir: Path, source: str, text: str) -> str:
    """Wait until a program has printed ``text``; the line."""
    path = run_dir / "logs" / f"{source}.log"
    async with asyncio.timeout(WITHIN_S):
        while True:
            lines = path.read_text().splitlines() if path.exists() else []
            found = next((line for line in lines if text in line), None)
            if found is not None:
                return found
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["idle", "busy"])
@pytest.mark.parametrize("side", ["both", "client", "server"])
async def test_kernels_accept_an_injected_reset(lab: Lab, tmp_path: Path, kind: str, side: str) -> None:
    await start(lab, "phone", CLIENT, kind)
    await logged(tmp_path, "gateway", "got")
    await asyncio.sleep(0.2)  # the handshake's and the first data's last ACKs: an idle connection is idle then
    await lab.schedule("f", TcpReset(flow="publisher.rtmp", side=side), enter_ns=None, leave_ns=None)  # type: ignore[arg-type]
    if side in ("both", "client"):
        assert await logged(tmp_path, "phone", "ended") == "ended: ConnectionResetError"
    if side in ("both", "server"):
        assert await logged(tmp_path, "gateway", "ended") == "ended: ConnectionResetError"


async def test_a_connection_whose_nat_state_is_lost_is_reset_by_the_far_kernel(lab: Lab, tmp_path: Path) -> None:
    """The gateway sees a segment in the middle of a connection that it doesn't know, and says so."""
    await start(lab, "phone", CLIENT, "busy")
    await logged(tmp_path, "gateway", "got")
    await lab.schedule("f", NatStateLost(router="hotspot"), enter_ns=None, leave_ns=None)
    assert await logged(tmp_path, "phone", "ended") == "ended: ConnectionResetError"
    assert "ended" not in (tmp_path / "logs/gateway.log").read_text(), "the server's side is left hanging"


async def test_a_kernel_counts_every_corrupt_datagram_as_a_checksum_error(lab: Lab, tmp_path: Path) -> None:
    await lab.schedule("f", ChangeLink(link="wifi", direction="up", corrupt_share=1.0), enter_ns=None, leave_ns=None)
    await start(lab, "viewer", WATCH_CHECKSUMS)
    await logged(tmp_path, "viewer", "bound")
    await start(lab, "phone", SEND_DATAGRAMS)
    assert await logged(tmp_path, "viewer", "ended") == "ended: 5 checksum errors, 0 received"
