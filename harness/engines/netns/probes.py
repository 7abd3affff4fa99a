"""The single capabilities of a machine that a lab needs, each tried for real in a forked child that then ends.

A probe returns a sentence about what it saw, or raises :class:`OSError`. Used by ``deadair doctor``. Forking is for
processes with one thread: in a child of any other, a lock that another thread held stays locked for ever. Whoever may
have more (codecs start some) asks with :func:`denial`, which starts an interpreter of its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from harness.engines.netns import netlink, syscalls
from harness.engines.netns.namespaces import leave_host
from harness.engines.netns.nodes import CONGESTION_CONTROL, Node
from harness.engines.netns.packetsocket import PacketSocket
from harness.engines.netns.plan import NODE_INDEX, PortPlan
from harness.engines.netns.scheduling import take_best_class

_WITHIN_S = 10


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe came to."""

    ok: bool
    detail: str


@cache
def denial(rootless: bool) -> str:
    """Why namespaces cannot be made in this way; empty where they can."""
    command = [sys.executable, "-m", "harness.engines.netns.probes", *(["rootless"] if rootless else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * _WITHIN_S, check=False)
    return "" if done.returncode == 0 else done.stdout.strip() or done.stderr.strip() or "the probe told nothing"


def in_child(probe: Callable[[], str]) -> Probe:
    """Run ``probe`` in a forked child, which is killed when it gives no answer in time, and with this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(probe, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        ready, _, _ = select.select([file], [], [], _WITHIN_S)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        data = file.read() if ready else b""
    os.waitpid(pid, 0)
    return pickle.loads(data) if data else Probe(False, f"no answer within {_WITHIN_S} s")


def _answer(probe: Callable[[], str], writer: int) -> NoReturn:
    # of a PID 1 that hangs the kernel keeps away every signal but this one from outside
    syscalls.die_with_parent(signal.SIGKILL)
    try:
        answer = Probe(True, probe())
    except (OSError, ImportError, RuntimeError) as error:
        answer = Probe(False, str(getattr(error, "strerror", None) or error))
    except BaseException as error:
        answer = Probe(False, repr(error))
    with contextlib.suppress(OSError):
        os.write(writer, pickle.dumps(answer))
    os._exit(0)


def in_lab(probe: Callable[[], str], *, rootless: bool) -> str:
    """``probe`` as PID 1 of fresh namespaces, the way a lab is made."""
    leave_host(rootless)
    answer = in_child(probe)
    if not answer.ok:
        raise OSError(0, answer.detail)
    return answer.detail


def namespaces_as_root() -> str:
    """Mount, PID and network namespaces without a user namespace."""
    return _namespaces(rootless=False)


def user_namespace() -> str:
    """The same inside a new user namespace."""
    return _namespaces(rootless=True)


def _namespaces(*, rootless: bool) -> str:
    leave_host(rootless)
    # Ubuntu's AppArmor lets the unshare pass and takes the capabilities away: only using one tells.
    with contextlib.closing(netlink.Rtnl()) as rtnl:
        batch = netlink.Batch()
        batch.link(index=1, up=True)
        rtnl.commit(batch)
    return "user, mount, PID and network namespaces" if rootless else "mount, PID and network namespaces"


def pid_namespace() -> str:
    """Whether the child really is PID 1."""
    if os.getpid() != 1:
        raise OSError(0, f"the first process of a new PID namespace has pid {os.getpid()}")
    return "a lab's first process is PID 1, and everything ends with it"


_PLAN = PortPlan(
    key="probe",
    number=0,
    node="probe",
    interface="eth0",
    node_index=NODE_INDEX,
    addresses=(("10.255.0.1", 24), ("fd00:da::1", 64)),
    mtu=1500,
    link="probe",
)


def _wired() -> Node:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    rtnl = netlink.Rtnl()
    node = Node("probe", home)
    syscalls.setns(home, syscalls.CLONE_NEWNET)
    batch = netlink.Batch()
    batch.veth(
        name=_PLAN.fabric_name,
        index=_PLAN.fabric_index,
        mac=_PLAN.fabric_mac,
        peer_name=_PLAN.interface,
        peer_index=_PLAN.node_index,
        peer_mac=_PLAN.mac,
        peer_ns=node.namespace,
    )
    batch.link(index=_PLAN.fabric_index, up=True, noarp=True)
    rtnl.commit(batch)
    return node


def veth() -> str:
    """A pair across two network namespaces."""
    _wired()
    return "a pair across two network namespaces"


def congestion() -> str:
    """Addresses and routes of both IP versions with the congestion control pinned."""
    _wired().configure([_PLAN])
    return f"{CONGESTION_CONTROL} pinned per route, IPv4 and IPv6"


def packet_socket() -> str:
    """A packet socket with a mapped ring on a veth."""
    _wired()
    with contextlib.closing(PacketSocket(mtu=_PLAN.mtu)) as packets:
        packets.listen(packets.make_ring(), [_PLAN])
        return "with a mapped receive ring and kernel time stamps"


def offload_off() -> str:
    """Checksum offload switched off by ioctl in another namespace."""
    _wired().offload_off(_PLAN.interface)
    return "switched off on the node's device by ioctl"


def step_between() -> str:
    """Into another network namespace and back."""
    node = _wired()
    names = node.inside(lambda: [name for _, name in socket.if_nameindex()])
    if "eth0" not in names:
        raise OSError(0, f"inside the node there are only {names}")
    return "into a node's network namespace and back"


def bind_mount() -> str:
    """A file over /etc/hosts in a mount namespace of its own."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    with tempfile.NamedTemporaryFile(mode="w") as file:
        file.write("192.0.2.1 deadair.test\n")
        file.flush()
        syscalls.mount(file.name, os.path.realpath("/etc/hosts"), flags=syscalls.MS_BIND)
        address = socket.gethostbyname("deadair.test")
    if address != "192.0.2.1":
        raise OSError(0, f"deadair.test resolved to {address}")
    return "names resolve from a node's own hosts file"


def own_proc() -> str:
    """A /proc of the lab's own."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "/proc", "proc", flags)
    return "a lab has a /proc of its own"


def scheduling() -> str:
    """The best scheduling class that the forwarder would get."""
    name = take_best_class()
    if not name.startswith(("SCHED_FIFO", "nice")):
        raise OSError(0, f"the forwarder runs with {name}: late by 1 ms now and then on a busy machine")
    return f"the forwarder runs with {name}"


def codecs() -> str:
    """PyAV with the encoders of the reference publisher."""
    import av

    for name in ("libx264", "aac"):
        av.codec.Codec(name, "w")
    return f"{av.__version__} with libx264 and AAC"


if __name__ == "__main__":
    found = in_child(user_namespace if "rootless" in sys.argv else namespaces_as_root)
    print(found.detail)
    sys.exit(0 if found.ok else 1)
