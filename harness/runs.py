"""One run from playbook to report: picks the engine and the cast, performs, writes every file of the run.

The files are explained in ``reports/README.md``. All but ``events.jsonl`` and ``run.json`` are derived, and
:func:`model_of` derives the verdicts of an earlier run again.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import platform
import shlex
import shutil
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
from harness.checks import Outcome, evaluate
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
from harness.systems.reference import ReferenceSystem
from harness.systems.registry import system_for

PROVENANCE_FILE = "run.json"
PLAYBOOK_FILE = "playbook.yaml"
"""The run's own copy: it is judged by what was claimed at the time, wherever it is moved."""
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


def need_codecs(cast: Mapping[str, System]) -> None:
    """Raises :class:`DeadairError` where a program of the reference would end at once for lack of PyAV."""
    if importlib.util.find_spec("av") is None and any(isinstance(system, ReferenceSystem) for system in cast.values()):
        raise DeadairError("the reference programs need PyAV; install the extra: pip install 'deadair[media]'")


def _played_by(playbook: Playbook, role: str, instead: str | None) -> System:
    choice = playbook.cast[role]
    try:
        return system_for(role, instead or choice.system)
    except DeadairError as error:
        if instead or not choice.line:
            raise
        raise PlaybookError(playbook.path, [Problem(choice.line, choice.column, str(error))]) from None


def refuse_used(run_dir: Path) -> None:
    """Raise :class:`HarnessError` where a run stands already: two in one directory would be neither."""
    if (run_dir / HISTORY_FILE).exists():
        raise HarnessError(f"{run_dir} holds an earlier run", cure="name another place with --out, or remove it")


def execute(
    playbook: Playbook, options: RunOptions, *, run_dir: Path, progress: Progress, ask: AskPerson | None = None
) -> RunModel:
    """Run the playbook once and write everything about it into ``run_dir``."""
    engine, cast = engine_named(options.engine), cast_of(playbook, options)
    _make(run_dir)
    run_dir = run_dir.resolve()
    with _writing(run_dir):
        shutil.copyfile(playbook.path, run_dir / PLAYBOOK_FILE)
    record = _Record(playbook, options, run_dir)

    async def run() -> RunOutcome:
        record.start()
        return await perform(
            playbook,
            engine=engine,
            cast=cast,
            seed=options.seed,
            run_dir=run_dir,
            capture=options.capture,
            progress=progress,
            ask=ask,
        )

    try:
        outcome = asyncio.run(run())
    except BaseException as ended:
        why = "the run was interrupted" if isinstance(ended, KeyboardInterrupt) else f"the run broke off: {ended!r}"
        with suppress(DeadairError, OSError):  # what ended the run is the one to tell
            record.save(History.load(run_dir / HISTORY_FILE), Outcome.UNKNOWN, error=why)
        raise
    record.zero_ns = outcome.zero_ns
    return record.save(outcome.history, outcome.outcome, error=outcome.error)


class _Record:
    """What is written about a run when it is over, however that came."""

    def __init__(self, playbook: Playbook, options: RunOptions, run_dir: Path) -> None:
        self.zero_ns = time.monotonic_ns()
        """The run's zero on CLOCK_MONOTONIC, to a millisecond until the run itself tells it."""
        self._playbook = playbook
        self._options = options
        self._run_dir = run_dir
        self._wall_minus_monotonic = time.time_ns() - self.zero_ns
        self._before = os.times()

    def start(self) -> None:
        """The run begins now."""
        self.zero_ns = time.monotonic_ns()

    def save(self, history: History, outcome: Outcome, *, error: str) -> RunModel:
        """Every file of the run; no spool stays behind, whatever cannot be written."""
        after, wall_zero = os.times(), self._wall_minus_monotonic + self.zero_ns
        provenance = _provenance(self._playbook, self._options, history, wall_zero_ns=wall_zero, error=error)
        spent = after.user + after.system - self._before.user - self._before.system
        provenance["cpu_of_harness_s"] = round(spent, 2)
        spool = self._run_dir / SPOOL_FILE
        try:
            with _writing(self._run_dir):
                text = json.dumps(provenance, indent=2) + "\n"
                (self._run_dir / PROVENANCE_FILE).write_text(text, encoding="utf-8")
                if spool.exists():
                    write_capture(
                        spool,
                        history.events,
                        self._run_dir / "capture.pcapng",
                        zero_monotonic_ns=self.zero_ns,
                        zero_wall_ns=wall_zero,
                        comment=outcome.value,
                    )
        finally:
            spool.unlink(missing_ok=True)
        return write_run(_view(history, self._playbook, provenance, self._run_dir))


def model_of(run_dir: Path) -> RunModel:
    """Judge an earlier run again, wherever it lies now, from its history and its own copy of the playbook."""
    try:
        provenance = json.loads((run_dir / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"{run_dir} is not a run: {error}", cure="name a directory under reports/") from error
    playbook = load_playbook(run_dir / provenance["path"])
    return write_run(_view(History.load(run_dir / HISTORY_FILE), playbook, provenance, run_dir))


def new_invocation(out: Path | None, *, latest: bool = True) -> Path:
    """The directory for the runs of one command; ``reports/latest`` points at it where no other was named.

    Not so without ``latest``: for runs that are meant to fail, which nobody looks for under that name.
    """
    if out is not None:
        _make(out)
        return out
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    with _writing(REPORTS):
        REPORTS.mkdir(parents=True, exist_ok=True)
        directory = _made_anew(stamp)
    if latest:
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
    """The command that repeats a run, as it can be typed here and now."""
    inside = playbook.path.resolve().is_relative_to(SCENARIOS)
    words = [*_ourselves(), "run", playbook.handle if inside else _from_here(playbook.path)]
    words += ["--seed", str(options.seed)]
    words += ["--engine", options.engine] if options.engine != "netns" else []
    words += [word for role, system in sorted(options.systems.items()) for word in ("--system", f"{role}={system}")]
    words += [] if options.capture else ["--no-packets"]
    return shlex.join(words)


def _ourselves() -> list[str]:
    """``deadair``, or what to write where it is not on the PATH."""
    if shutil.which("deadair") is not None:
        return ["deadair"]
    script = Path(sys.executable).with_name("deadair")
    return [_from_here(script)] if script.exists() else [_from_here(Path(sys.executable)), "-m", "harness.cli"]


def _from_here(path: Path) -> str:
    """Relative where it lies below the working directory; symbolic links stay (a venv's python is one)."""
    absolute = Path.cwd() / path
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


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


def _provenance(
    playbook: Playbook, options: RunOptions, history: History, *, wall_zero_ns: int, error: str
) -> dict[str, Any]:
    ready = history.first("lab:ready")
    return {
        "playbook": playbook.handle,
        "path": PLAYBOOK_FILE,
        "name": playbook.name,
        "why": playbook.why,
        "engine": options.engine,
        "seed": options.seed,
        "replay": replay_line(playbook, options),
        "error": error,
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
