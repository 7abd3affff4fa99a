"""The few system calls that Python 3.11 lacks or hides, through ctypes; each raises :class:`OSError` by name.

``os.unshare`` and ``os.setns`` came with Python 3.12; ``mount``, ``prctl`` and ``sched_setattr`` never came.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

CAP_NET_RAW = 13
CAP_SYS_ADMIN = 21

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_TIMERSLACK = 29
_SCHED_SETATTR = {
    "x86_64": 314,
    "aarch64": 274,
    "riscv64": 274,
    "armv7l": 380,
    "i686": 351,
    "ppc64le": 355,
    "s390x": 345,
}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(descriptor: int, kind: int = 0) -> None:
    """Enter the namespace that ``descriptor`` (an open ``/proc/…/ns/…`` file) holds."""
    _checked(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), f"setns({descriptor})")


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """mount(2) without data; bind mounts and propagation changes are all the engine needs."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _checked(result, f"mount({source!r} on {target!r})")


def bind_packet_socket(descriptor: int, protocol: int) -> None:
    """Make a packet socket hear ``protocol`` on every interface; Python's own bind insists on one interface's name."""
    address = struct.pack("=HHi12x", 17, socket.htons(protocol), 0)
    _checked(_libc.bind(descriptor, address, len(address)), "bind(packet socket)")


def _prctl(option: int, argument: ctypes.c_ulong | bytes, what: str) -> None:
    _checked(_libc.prctl(ctypes.c_int(option), argument, 0, 0, 0), what)


def die_with_parent(signal_number: int) -> None:
    """Ask for ``signal_number`` when the *thread* that forked this process ends. A backstop, never the mechanism."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), "prctl(PR_SET_PDEATHSIG)")


def set_process_name(name: str) -> None:
    """What ``ps`` shows, at most 15 bytes."""
    _prctl(_PR_SET_NAME, name.encode()[:15], "prctl(PR_SET_NAME)")


def set_timer_slack(nanoseconds: int) -> None:
    """How late the kernel may be on purpose when this thread sleeps; the default is 50 µs."""
    _prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds), "prctl(PR_SET_TIMERSLACK)")


def set_time_slice(nanoseconds: int) -> None:
    """Ask the fair scheduler for a short slice, which needs no privilege (Linux 6.12 and later; earlier ignore it)."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        raise OSError(38, f"sched_setattr: its number on {platform.machine()} is not known here")
    attributes = struct.pack("IIQiIQQQ", 48, os.SCHED_OTHER, 0, 0, 0, nanoseconds, 0, 0)
    result = _libc.syscall(ctypes.c_long(number), 0, attributes, 0)
    _checked(result, "sched_setattr(slice)")


def effective_capabilities(status: str) -> int:
    """The effective capability bits in the text of a ``/proc/<pid>/status``."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_capability(number: int) -> bool:
    """Whether this process may use capability ``number`` now."""
    with open("/proc/self/status") as file:
        return bool(effective_capabilities(file.read()) >> number & 1)
