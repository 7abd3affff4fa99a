"""The one step out of the host: into namespaces of one's own, as root or in a user namespace."""

from __future__ import annotations

import os

from harness.engines.netns import syscalls

_LAB_NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET


def leave_host(rootless: bool | None = None) -> bool:
    """Enter new namespaces; the PID namespace holds the children only. Returns whether a user namespace was made."""
    if rootless is None:
        rootless = not syscalls.has_capability(syscalls.CAP_SYS_ADMIN)
    if rootless:
        user, group = os.geteuid(), os.getegid()
        syscalls.unshare(syscalls.CLONE_NEWUSER | _LAB_NAMESPACES)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1")
        _write("/proc/self/gid_map", f"0 {group} 1")
    else:
        syscalls.unshare(_LAB_NAMESPACES)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    return rootless


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {text!r} to {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
