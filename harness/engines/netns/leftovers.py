"""Does anything outlive a killed harness? One trial: start a harness, kill one of its processes, count what is left.

``python -m harness.engines.netns.leftovers FOLDER`` is the victim: a harness that makes lab after lab with programs
that fork and change their session, until it is killed. :func:`kill_trial` runs one and kills the harness, the forge, a
supervisor, a PID 1 or a forwarder at a random moment of its life.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.engines.netns.plan import RESOLVER_FILES

MARKER = "DEADAIR_TRIAL"
"""Environment variable that the victim and all that descends from it carry."""
VICTIMS = ("harness", "forge", "supervisor", "init", "forwarder")
_NAMES = {"forge": "deadair-forge", "supervisor": "deadair-lab", "init": "deadair-pid1", "forwarder": "deadair-wire"}
_LIFE_S = 2.0
_WITHIN_S = 1.0
_POLL_S = 0.01
_AGAIN_S = 0.05
_TREE = str(Path(harness.__file__).resolve().parents[1])


@dataclass(frozen=True, slots=True)
class Trial:
    """What one kill left behind."""

    victim: str
    """Which process was killed; ``"harness"`` also where the chosen one did not exist at that moment."""
    after_s: float
    """Age of the harness when it happened."""
    clean_after_s: float
    """Seconds until nothing was left."""
    leftovers: tuple[str, ...]
    """What was left a second later, as sentences."""


def kill_trial(rng: random.Random) -> Trial:
    """One trial; takes up to about 2.5 s. ``rng`` decides the moment and the victim.

    Where the harness was spared, it may go on to make another lab with another forge; what must be gone is what was
    there when the victim died. Then the harness is killed too, and everything must be gone.
    """
    token = secrets.token_hex(8)
    before = _host_state()
    wanted, after_s = rng.choice(VICTIMS), rng.uniform(0.0, _LIFE_S)
    with tempfile.TemporaryDirectory(prefix="deadair-trial-") as folder:
        with _victim(token, folder) as process:
            time.sleep(after_s)
            victim, doomed = _kill(process, wanted, token)
            clean_after_s, left = _wait_clean(lambda: _still_there(token, doomed)) if doomed else (0.0, [])
        if not left:
            took, left = _wait_clean(lambda: _anything(token, before))
            clean_after_s = max(clean_after_s, took)
    return Trial(victim, after_s, clean_after_s, tuple(left))


@contextlib.contextmanager
def _victim(token: str, folder: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, MARKER: token, "PYTHONPATH": os.pathsep.join([_TREE, *filter(None, sys.path)])}
    command = [sys.executable, "-m", "harness.engines.netns.leftovers", folder]
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(command, env=environment, stdout=nowhere, stderr=nowhere, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _kill(process: subprocess.Popen[bytes], wanted: str, token: str) -> tuple[str, set[str]]:
    """SIGKILL one process of the wanted kind, or the harness where there is none right now.

    Returns which kind it was and the PID namespaces of the labs that must go with it (none for the harness, with which
    all go).
    """
    candidates = [pid for pid in marked(token) if pid != process.pid and _comm(pid) == _NAMES.get(wanted)]
    if wanted != "harness" and candidates:
        doomed = _doomed_with(candidates[0], wanted, token)
        with contextlib.suppress(ProcessLookupError):
            os.kill(candidates[0], signal.SIGKILL)
            return wanted, doomed
    process.kill()
    process.wait()
    return "harness", set()


def _doomed_with(pid: int, kind: str, token: str) -> set[str]:
    """PID namespaces that must go with this process: all labs with the forge, else the one lab."""
    if kind == "forge":
        doomed = {_pid_namespace(one) for one in marked(token)}
    else:
        doomed = {_pid_namespace(pid, "pid_for_children")}
    return doomed - {_pid_namespace(os.getpid()), ""}


def _pid_namespace(pid: int, name: str = "pid") -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{name}").readlink())
    except OSError:
        return ""


def _wait_clean(look: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Until ``look`` finds nothing, at most a second: (seconds it took, what is left).

    Looked at again a moment later, since a process in the middle of an exec has no environment to be known by.
    """
    begun = time.monotonic()
    while True:
        left = look()
        took = time.monotonic() - begun
        if not left:
            time.sleep(_AGAIN_S)
            left = look()
        if not left or took > _WITHIN_S:
            return took, left
        time.sleep(_POLL_S)


def _still_there(token: str, doomed: set[str]) -> list[str]:
    """Processes of labs that should have gone with one of their own."""
    return [f"process {pid} {_comm(pid)!r}" for pid in marked(token) if _pid_namespace(pid) in doomed]


def _anything(token: str, before: Counter[str]) -> list[str]:
    """Marked processes, the network namespaces they hold, and what is new in the host's own namespaces."""
    alive = [f"process {pid} {_comm(pid)!r}" for pid in marked(token)]
    return alive + sorted(held_namespaces(token)) + sorted((_host_state() - before).elements())


def marked(token: str) -> list[int]:
    """Processes that carry the trial's marker (a zombie has no environment any more and is nobody's trouble)."""
    needle = f"{MARKER}={token}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if needle in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def held_namespaces(token: str) -> set[str]:
    """Network namespaces that marked processes are in or hold open, other than the host's."""
    found = set()
    for pid in marked(token):
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            paths = [folder / "ns/net", *(folder / "fd").iterdir()]
            for path in paths:
                with contextlib.suppress(OSError):
                    found.add(str(path.readlink()))
    own = str(Path("/proc/self/ns/net").readlink())
    return {name for name in found if name.startswith("net:[") and name != own}


def _host_state() -> Counter[str]:
    """What a lab could leave in the host's own namespaces if something went wrong.

    Its mounts are over these files, its interfaces and sockets have these names; what others do on the machine at the
    same time is not counted.
    """
    mounts = [line.split()[4] for line in _lines("/proc/self/mountinfo")]
    interfaces = [line.split(":")[0].strip() for line in _lines("/proc/net/dev")[2:]]
    sockets = [line.split()[-1] for line in _lines("/proc/net/unix")[1:] if "deadair" in line]
    return Counter(
        [f"mount {point}" for point in mounts if point in ("/proc", "/etc/hosts", *RESOLVER_FILES)]
        + [f"interface {name}" for name in interfaces if name.startswith("port")]
        + [f"socket {name}" for name in sockets]
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def live_until_killed(folder: Path) -> None:
    """The victim's life: lab after lab, each with programs that leave their parent and their session."""
    from harness.engines.netns.lab import Lab
    from harness.network.presets import PRESETS

    rng = random.Random(os.getpid())
    stubborn = ["sh", "-c", "trap '' TERM HUP; sleep 1000 & setsid sleep 1000 & wait"]
    while True:
        lab = await Lab.up(PRESETS["hotspot"], seed=1, run_dir=folder, on_event=lambda *_: None, capture=True)
        for node in ("phone", "gateway"):
            await lab.start(node, source=node, program="sh", argv=stubborn, harnessed=False)
        await lab.echo("phone", "gateway", count=1, within_ns=200_000_000)
        await asyncio.sleep(rng.uniform(0, 0.1))
        await lab.close()


if __name__ == "__main__":
    asyncio.run(live_until_killed(Path(sys.argv[1])))
