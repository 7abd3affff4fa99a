"""Programs on the nodes of a lab: how PID 1 starts them, and what is known of each."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from harness.engines.netns import syscalls

CONTROL_FD = 3
TELEMETRY_FD = 4
CHANNEL_OPTIONS = ("--control-fd", str(CONTROL_FD), "--telemetry-fd", str(TELEMETRY_FD))
"""What a program of the reference needs on its command line to find its control socket and its telemetry pipe."""
_ABOVE = 10


@dataclass(frozen=True, slots=True)
class StartOrder:
    """One program to start. Three descriptors come with it: control socket, telemetry pipe, log file."""

    node: str
    source: str
    program: str
    incarnation: int
    argv: Sequence[str]
    env: Mapping[str, str]
    directory: str
    harnessed: bool = True
    """A program of the reference: it answers on the control socket, and tells events only."""


@dataclass(slots=True)
class Running:
    """A program that was started and has not been reaped."""

    pid: int
    order: StartOrder
    paused: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: exit ``code``, or the number of the ``signal`` that ended it; the other one is 0."""

    t_ns: int
    pid: int
    code: int
    signal: int


def decode_status(t_ns: int, pid: int, status: int) -> Exit:
    """Of a status from waitpid."""
    if os.WIFSIGNALED(status):
        return Exit(t_ns, pid, 0, os.WTERMSIG(status))
    return Exit(t_ns, pid, os.WEXITSTATUS(status), 0)


def spawn(
    order: StartOrder, *, namespace: int, hosts: Mapping[str, str], descriptors: Sequence[int]
) -> tuple[int, int]:
    """Fork and execute ``order`` in the node's namespace.

    Returns the process id and a pipe that is closed by a successful exec and otherwise tells what went wrong, so
    that nobody has to wait here.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(order, namespace, hosts, descriptors, writer)
    os.close(writer)
    return pid, reader


def _become(
    order: StartOrder, namespace: int, hosts: Mapping[str, str], descriptors: Sequence[int], writer: int
) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        _own_view(hosts)
        _place(descriptors)
        os.chdir(order.directory)
        os.execvpe(order.argv[0], list(order.argv), dict(order.env))
    except BaseException as error:
        os.write(writer, f"{order.argv[0]}: {getattr(error, 'strerror', '') or repr(error)}".encode())
    os._exit(127)


def _own_view(hosts: Mapping[str, str]) -> None:
    """A mount namespace in which names resolve from the node's own hosts file and from nothing else."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    for target, source in hosts.items():
        if Path(target).exists():
            syscalls.mount(source, str(Path(target).resolve()), flags=syscalls.MS_BIND)


def _place(descriptors: Sequence[int]) -> None:
    control, telemetry, log = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for one in descriptors)
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((empty, 0), (log, 1), (log, 2), (control, CONTROL_FD), (telemetry, TELEMETRY_FD)):
        os.dup2(source, target, inheritable=True)
