"""Who pushes for us: records on disk that outlive the gateway, and what the next start does with them.

A worker that survived its gateway's SIGKILL would go on holding the destination's stream key. The next gateway finds
it by its record and ends it before it starts its own. A recycled process id is never touched: a record holds the
process's start time too, and the process is held by a pidfd while both are compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker process, as the state directory remembers it."""

    pid: int
    start_time: int
    """Clock ticks since boot (field 22 of ``/proc/<pid>/stat``); with ``pid`` it names one process."""
    egress: str
    url: str
    """Without its stream key."""


class Records:
    """The state directory; without one nothing is remembered."""

    def __init__(self, directory: Path | None) -> None:
        self._workers = directory / "egress" if directory is not None else None
        self._count = directory / "incarnation" if directory is not None else None
        if self._workers is not None:
            self._workers.mkdir(parents=True, exist_ok=True)

    def next_incarnation(self) -> int:
        """How many gateways have used this directory, this one included: it makes session names unique."""
        if self._count is None:
            return 1
        try:
            number = int(self._count.read_text()) + 1
        except (OSError, ValueError):
            number = 1
        _write_whole(self._count, str(number))
        return number

    def add(self, record: WorkerRecord) -> None:
        """Remember a worker; before it is told to begin, so that no push is ever without a record."""
        if self._workers is not None:
            _write_whole(self._workers / f"{record.pid}.json", json.dumps(asdict(record)))

    def remove(self, pid: int) -> None:
        """The worker is gone and has been waited for."""
        if self._workers is not None:
            (self._workers / f"{pid}.json").unlink(missing_ok=True)

    def leftovers(self) -> Iterator[WorkerRecord]:
        """What an earlier gateway left, whether its processes still live or not; unreadable records are dropped."""
        if self._workers is None:
            return
        for path in sorted(self._workers.glob("*.json")):
            try:
                yield WorkerRecord(**json.loads(path.read_text()))
            except (OSError, ValueError, TypeError) as error:
                print(f"gateway: dropping the unreadable record {path}: {error}", file=sys.stderr)
                path.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # one of a crash keeps its mode otherwise
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def start_time_of(pidfd: int) -> int | None:
    """The start time of the process behind ``pidfd``; ``None`` if it is gone or /proc does not show it.

    The way leads over ``/proc/self/fdinfo``: in a PID namespace whose /proc belongs to an outer one, the process
    has another number there.
    """
    try:
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                shown = int(line.split()[1])
                stat = Path(f"/proc/{shown}/stat").read_text() if shown > 0 else ""
                # The command's name, in parentheses, may hold anything, blanks and parentheses too.
                return int(stat.rpartition(")")[2].split()[19]) if stat else None
    except (OSError, ValueError, IndexError):
        pass
    return None


async def end_leftover(record: WorkerRecord, *, terminate_for: float, kill_for: float = 1.0) -> str:
    """End the process of ``record`` if it is still the same one; how it ended.

    ``"terminated"`` (SIGTERM was enough), ``"killed"``, ``"survived SIGKILL"`` (it hangs in the kernel), or ``""``
    when there was nothing to end.
    """
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return ""
    try:
        if start_time_of(pidfd) != record.start_time:
            return ""
        for number, patience, how in (
            (signal.SIGTERM, terminate_for, "terminated"),
            (signal.SIGKILL, kill_for, "killed"),
        ):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if await _gone(pidfd, within=patience):
                return how
        return "survived SIGKILL"
    finally:
        os.close(pidfd)


async def _gone(pidfd: int, *, within: float) -> bool:
    """Whether the process ends in time; a pidfd becomes readable when it does."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, readable)
    try:
        await asyncio.wait_for(ended, within)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
