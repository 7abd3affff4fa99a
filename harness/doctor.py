"""``deadair doctor``: what this machine can do for the harness, tried rather than assumed, and the cure for the rest.

Every finding comes from doing the thing once in a forked child that then ends; kernel versions and configuration files
are not asked, because containers and security modules decide otherwise. A finding is *ok*; *warn* when the harness
works but something is lost (timing, a third-party peer); *fail* when labs cannot be made or nothing can be streamed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from harness.engines.netns import probes
from harness.engines.netns.probes import Probe, in_child
from harness.errors import HarnessError

State = Literal["ok", "warn", "fail"]

_WITHIN_S = 240
_LEAST_PYTHON = (3, 11)
_LEAST_FILES = 1024
_LEAST_DISK_BYTES = 500_000_000
_WORST_TIMER_NS = 2_000_000
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_CLONE_SWITCH = "/proc/sys/kernel/unprivileged_userns_clone"
_MOST_NAMESPACES = "/proc/sys/user/max_user_namespaces"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    name: str
    state: State
    detail: str
    """What was seen, as a sentence or a value."""
    cure: str = ""
    """What to do about it; empty when it is ok."""


def examine() -> list[Finding]:
    """Try everything; takes about a second.

    In an interpreter of its own: probes fork, which is safe only in a process without further threads.
    """
    done = subprocess.run(
        [sys.executable, "-m", "harness.doctor"], capture_output=True, text=True, timeout=_WITHIN_S, check=False
    )
    if done.returncode != 0:
        raise HarnessError(f"the examination failed: {done.stderr.strip()[-300:]}", cure="please report this")
    return [Finding(**found) for found in json.loads(done.stdout)]


def _examine_here() -> list[Finding]:
    way = _way()
    return [_python(), way, *_lab(rootless=_rootless_works(way)), *_host(), *_media(), *_peers()]


def exit_status(findings: Sequence[Finding]) -> int:
    """0 when nothing failed (warnings do not count), 2 otherwise: the harness cannot run fully here."""
    return 2 if any(finding.state == "fail" for finding in findings) else 0


def render(findings: Sequence[Finding], *, as_json: bool = False) -> str:
    """A table for a person, with the cures below their findings; or the same as JSON."""
    if as_json:
        return json.dumps({"ok": exit_status(findings) == 0, "findings": [asdict(one) for one in findings]}, indent=2)
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.state]} {finding.name:<{width}}  {finding.detail}")
        if finding.cure and finding.state != "ok":
            lines.append(f"  {'':<{width + 4}}cure: {finding.cure}")
    return "\n".join([*lines, "", _closing(findings)])


def main(*, as_json: bool = False) -> int:
    """Print the findings; the exit status."""
    findings = examine()
    print(render(findings, as_json=as_json))
    return exit_status(findings)


_MARKS: Mapping[State, str] = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def _closing(findings: Sequence[Finding]) -> str:
    failed = [finding.name for finding in findings if finding.state == "fail"]
    warned = sum(finding.state == "warn" for finding in findings)
    if failed:
        return f"This machine cannot run everything: {', '.join(failed)}."
    return f"This machine can run deadair ({warned} warning{'s' if warned != 1 else ''})."


# --- namespaces ----------------------------------------------------------------------------------------------


def _way() -> Finding:
    """How a lab's namespaces can be made here: as root, in a user namespace, or not at all."""
    as_root, userns = in_child(probes.namespaces_as_root), in_child(probes.user_namespace)
    return judge_way(as_root, userns, settings=_userns_settings())


def judge_way(as_root: Probe, userns: Probe, *, settings: Mapping[str, str]) -> Finding:
    """The finding ``namespaces`` from what both ways answered and what the kernel's switches say."""
    if as_root.ok:
        note = (
            "user namespaces too" if userns.ok else f"user namespaces are denied ({userns.detail}), not needed by root"
        )
        return Finding("namespaces", "ok", f"as root with CAP_SYS_ADMIN; {note}")
    if userns.ok:
        return Finding("namespaces", "ok", "rootless, in a user namespace")
    detail = f"as root: {as_root.detail}; in a user namespace: {userns.detail}"
    return Finding("namespaces", "fail", detail, _userns_cure(settings))


def _userns_settings() -> dict[str, str]:
    found = {}
    for path in (_APPARMOR, _CLONE_SWITCH, _MOST_NAMESPACES):
        try:
            found[path] = Path(path).read_text().strip()
        except OSError:
            continue
    return found


def _userns_cure(settings: Mapping[str, str]) -> str:
    if settings.get(_APPARMOR) == "1":
        return (
            "Ubuntu's AppArmor restricts user namespaces: "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
        )
    if settings.get(_CLONE_SWITCH) == "0":
        return "sudo sysctl kernel.unprivileged_userns_clone=1, or run as root"
    if settings.get(_MOST_NAMESPACES) == "0":
        return "sudo sysctl user.max_user_namespaces=10000, or run as root"
    return (
        "run as root with CAP_SYS_ADMIN; in a container: docker run --cap-add SYS_ADMIN --security-opt "
        "seccomp=unconfined --security-opt apparmor=unconfined, or --privileged"
    )


def _rootless_works(way: Finding) -> bool:
    return way.state == "ok" and way.detail.startswith("rootless")


_LAB_PROBES: tuple[tuple[str, Callable[[], str], State, str], ...] = (
    ("pid namespace", probes.pid_namespace, "fail", "allow PID namespaces (user.max_pid_namespaces), see 'namespaces'"),
    ("veth", probes.veth, "fail", "load the module: sudo modprobe veth"),
    ("packet socket", probes.packet_socket, "fail", "the container needs CAP_NET_RAW, the kernel CONFIG_PACKET"),
    ("checksum offload off", probes.offload_off, "fail", "a kernel whose veth takes ETHTOOL_STXCSUM (any since 3.x)"),
    ("setns", probes.step_between, "fail", "see 'namespaces': CAP_SYS_ADMIN in the namespace is needed"),
    ("congestion control", probes.congestion, "fail", "load the module: sudo modprobe tcp_cubic"),
    ("hosts file", probes.bind_mount, "fail", "allow mounts in the container: --security-opt apparmor=unconfined"),
    (
        "own /proc",
        probes.own_proc,
        "warn",
        "none needed: the container masks /proc, process ids are translated",
    ),
    ("scheduling", probes.scheduling, "warn", "run as root, or: docker run --cap-add SYS_NICE --ulimit rtprio=99"),
)


def _lab(*, rootless: bool) -> list[Finding]:
    findings = []
    for name, probe, otherwise, cure in _LAB_PROBES:
        answer = in_child(lambda probe=probe: probes.in_lab(probe, rootless=rootless))  # type: ignore[misc]
        findings.append(Finding(name, "ok" if answer.ok else otherwise, answer.detail, "" if answer.ok else cure))
    return findings


# --- the host ------------------------------------------------------------------------------------------------


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= _LEAST_PYTHON
    return Finding("python", "ok" if good else "fail", version, "" if good else "install Python 3.11 or later")


def _host() -> list[Finding]:
    return [_files(), _timers(), _disk(Path.cwd()), _cores()]


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES
    return Finding(
        "open files", "ok" if good else "warn", f"limit {soft} (hard {hard})", "" if good else "ulimit -n 4096"
    )


def _timers() -> Finding:
    """How late a sleep of 1 ms ends: the median of twenty."""
    late = []
    for _ in range(20):
        begun = time.monotonic_ns()
        time.sleep(0.001)
        late.append(time.monotonic_ns() - begun - 1_000_000)
    median = sorted(late)[len(late) // 2]
    good = median < _WORST_TIMER_NS
    cure = "" if good else "the machine is overloaded, or its kernel has no high-resolution timers"
    return Finding("timers", "ok" if good else "warn", f"a sleep of 1 ms ends {median / 1000:.0f} µs late", cure)


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    try:
        with tempfile.TemporaryFile(dir=place):
            writable = True
    except OSError:
        writable = False
    good = writable and free > _LEAST_DISK_BYTES
    detail = f"{free / 1e9:.1f} GB free in {place}" if writable else f"{place} cannot be written to"
    return Finding("disk", "ok" if good else "warn", detail, "" if good else "choose another place with --out DIR")


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0))
    cure = "give the machine a second core: the emulator competes with what it tests"
    return Finding("cores", "ok" if count > 1 else "warn", f"{count} usable", "" if count > 1 else cure)


def _media() -> list[Finding]:
    cure = "pip install 'deadair[media]'"
    if find_spec("av") is None:
        return [Finding("PyAV", "fail", "not installed: the reference programs cannot encode or decode", cure)]
    answer = in_child(probes.codecs)
    state: State = "ok" if answer.ok else "fail"
    return [Finding("PyAV", state, answer.detail, "" if answer.ok else "pip install --force-reinstall av")]


_PEERS = (
    ("ffmpeg", ("ffmpeg",), "apt install ffmpeg"),
    ("nginx-rtmp", ("nginx", "/usr/sbin/nginx"), "apt install nginx libnginx-mod-rtmp"),
    ("chromium", ("chromium", "chromium-browser", "google-chrome"), "apt install chromium"),
    ("tshark", ("tshark",), "apt install tshark"),
)
_RTMP_MODULES = ("/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/share/nginx/modules/ngx_rtmp_module.so")


def _peers() -> list[Finding]:
    findings = []
    for name, commands, cure in _PEERS:
        path = next((found for command in commands if (found := shutil.which(command))), None)
        if name == "nginx-rtmp" and path and not any(Path(module).exists() for module in _RTMP_MODULES):
            path = None
        missing = "not installed: scenarios and tests with it are skipped"
        findings.append(Finding(name, "ok" if path else "warn", path or missing, "" if path else cure))
    return findings


if __name__ == "__main__":
    print(json.dumps([asdict(found) for found in _examine_here()]))
