"""One run from playbook to report: picks the engine and the cast, performs, writes every file of the run.

The files are explained in ``reports/README.md``. All but ``events.jsonl`` and ``run.json`` are derived, and
:func:`model_of` derives the verdicts of an earlier run again.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from harness.capture.merge import write_capture
from harness.capture.spool import FILE_NAME as SPOOL_FILE
from harness.checks import evaluate
from harness.engines.netns.engine import NetnsEngine
from harness.errors import DeadairError, HarnessError, PlaybookError, Problem
from harness.history.query import History
from harness.playbook.engine import Engine, System
from harness.playbook.loader import SCENARIOS, load_playbook
from harness.playbook.model import Playbook
from harness.playbook.runner import HISTORY_FILE, Progress, RunOutcome, perform
from harness.playbook.script import AskPerson
from harness.report.files import write_run
from harness.report.model import RunModel, RunView
from harness.systems.registry import system_for

PROVENANCE_FILE = "run.json"
REPORTS = Path("reports")
_PACKAGES = ("deadair", "av", "pyroute2", "pytest")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line may change about a run."""

    engine: str = "netns"
    seed: int = 1
    systems: Mapping[str, str] = field(default_factory=dict)
    """Role → system, over what the playbook says."""
    capture: bool = True


def engine_named(name: str) -> Engine:
    """Raises :class:`DeadairError` naming the engines there are."""
    if name == "netns":
        return NetnsEngine()
    raise DeadairError(f"no engine is called {name!r}; there is netns (the simulator, sim, is not built yet)")


def cast_of(playbook: Playbook, options: RunOptions) -> Mapping[str, System]:
    """Who plays each role: the command line's choice before the playbook's."""
    unknown = sorted(set(options.systems) - set(playbook.cast))
    if unknown:
        roles = ", ".join(playbook.cast)
        raise DeadairError(f"{playbook.handle} has no role {unknown[0]!r} to give a system to; its roles: {roles}")
    return {role: _played_by(playbook, role, options.systems.get(role)) for role in playbook.cast}


def _played_by(playbook: Playbook, role: str, instead: str | None) -> System:
    choice = playbook.cast[role]
    try:
        return system_for(role, instead or choice.system)
    except DeadairError as error:
        if instead or not choice.line:
            raise
        raise PlaybookError(playbook.path, [Problem(choice.line, choice.column, str(error))]) from None


def execute(
    playbook: Playbook, options: RunOptions, *, run_dir: Path, progress: Progress, ask: AskPerson | None = None
) -> RunModel:
    """Run the playbook once and write everything about it into ``run_dir``."""
    engine, cast = engine_named(options.engine), cast_of(playbook, options)
    _make(run_dir)
    run_dir = run_dir.resolve()
    started = time.time_ns() - time.monotonic_ns()
    before = os.times()
    outcome = asyncio.run(
        perform(
            playbook,
            engine=engine,
            cast=cast,
            seed=options.seed,
            run_dir=run_dir,
            capture=options.capture,
            progress=progress,
            ask=ask,
        )
    )
    after = os.times()
    wall_zero = started + outcome.zero_ns
    provenance = _provenance(playbook, options, outcome, wall_zero_ns=wall_zero)
    provenance["cpu_of_harness_s"] = round(after.user + after.system - before.user - before.system, 2)
    with _writing(run_dir):
        (run_dir / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        if options.capture:
            _write_capture(outcome, wall_zero_ns=wall_zero)
    return write_run(_view(outcome.history, playbook, provenance, run_dir))


def model_of(run_dir: Path) -> RunModel:
    """Judge an earlier run again, from its history and its playbook."""
    try:
        provenance = json.loads((run_dir / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{run_dir} is not a run: {error}", cure="name a directory under reports/") from error
    playbook = load_playbook(Path(provenance["path"]))
    return write_run(_view(History.load(run_dir / HISTORY_FILE), playbook, provenance, run_dir))


def new_invocation(out: Path | None) -> Path:
    """The directory for the runs of one command; ``reports/latest`` points at it where no other was named."""
    if out is not None:
        _make(out)
        return out
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    with _writing(REPORTS):
        REPORTS.mkdir(parents=True, exist_ok=True)
        directory = _made_anew(stamp)
    with suppress(OSError):  # a convenience; not every file system has symbolic links
        _point_latest(directory)
    return directory


def _made_anew(stamp: str) -> Path:
    """A directory that nobody else has, also if somebody runs deadair in the same second."""
    for number in count(1):
        directory = REPORTS / (stamp if number == 1 else f"{stamp}-{number}")
        with suppress(FileExistsError):
            directory.mkdir()
            return directory
    raise AssertionError("unreachable")


def replay_line(playbook: Playbook, options: RunOptions) -> str:
    """The command that repeats a run."""
    inside = playbook.path.resolve().is_relative_to(SCENARIOS)
    words = ["deadair", "run", playbook.handle if inside else str(playbook.path), "--seed", str(options.seed)]
    words += ["--engine", options.engine] if options.engine != "netns" else []
    words += [word for role, system in sorted(options.systems.items()) for word in ("--system", f"{role}={system}")]
    return shlex.join(words)


def _point_latest(directory: Path) -> None:
    latest, fresh = REPORTS / "latest", REPORTS / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(directory.name)
    fresh.replace(latest)


def _make(directory: Path) -> None:
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """A full disk or a forbidden place is told with its cure."""
    try:
        yield
    except OSError as error:
        where, why = error.filename or place, error.strerror or error
        raise HarnessError(
            f"{where} cannot be written ({why})", cure="free some space, or name another place with --out"
        ) from error


def _view(history: History, playbook: Playbook, provenance: Mapping[str, Any], run_dir: Path) -> RunView:
    verdicts = evaluate(history, playbook.expectations)
    return RunView.of(history, verdicts, provenance=provenance, run_dir=run_dir)


def _write_capture(outcome: RunOutcome, *, wall_zero_ns: int) -> None:
    spool = outcome.run_dir / SPOOL_FILE
    if not spool.exists():
        return
    write_capture(
        spool,
        outcome.history.events,
        outcome.run_dir / "capture.pcapng",
        zero_monotonic_ns=outcome.zero_ns,
        zero_wall_ns=wall_zero_ns,
        comment=outcome.outcome.value,
    )
    spool.unlink()


def _provenance(playbook: Playbook, options: RunOptions, outcome: RunOutcome, *, wall_zero_ns: int) -> dict[str, Any]:
    ready = outcome.history.first("lab:ready")
    return {
        "playbook": playbook.handle,
        "path": str(playbook.path),
        "name": playbook.name,
        "why": playbook.why,
        "engine": options.engine,
        "seed": options.seed,
        "replay": replay_line(playbook, options),
        "error": outcome.error,
        "command": shlex.join(sys.argv),
        "started": datetime.fromtimestamp(wall_zero_ns / 1e9, UTC).isoformat(),
        "wall_clock_at_zero_ns": wall_zero_ns,
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "rootless": os.geteuid() != 0,
            "scheduling": "" if ready is None else ready.data["scheduling"],
        },
        "versions": {name: _version(name) for name in _PACKAGES},
        "revision": _revision(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    """The commit of the harness's own checkout, with ``+`` where it has changes; empty outside one."""
    here = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
