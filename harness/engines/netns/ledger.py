"""Which processes are alive in the lab's PID namespace, orphans included."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

_ZOMBIE = "Z"


def living(*, ours: Set[int], known: Mapping[int, str]) -> list[dict[str, Any]]:
    """Every live process of this PID namespace except ``ours``: pid, state, command line, and source.

    ``source`` is "" for one that a program started itself. Works on the lab's own /proc and on the host's, whose
    process ids are translated.
    """
    namespace = str(Path("/proc/self/ns/pid").readlink())
    folders = [folder for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    found = [entry for folder in folders if (entry := _describe(folder, namespace)) is not None]
    mine = [{**entry, "source": known.get(entry["pid"], "")} for entry in found if entry["pid"] not in ours]
    return sorted(mine, key=lambda entry: int(entry["pid"]))


def _describe(folder: Path, namespace: str) -> dict[str, Any] | None:
    try:
        if str((folder / "ns/pid").readlink()) != namespace:
            return None
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip()
    except (OSError, ValueError):
        return None
    if status["State"].startswith(_ZOMBIE):
        return None
    name = command.decode(errors="replace") or status["Name"]
    return {"pid": int(status["NSpid"].split()[-1]), "state": status["State"], "command": name}
