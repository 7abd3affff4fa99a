"""Playbooks as pytest items.

Every ``*.playbook.yaml`` that pytest is pointed at is an item (``--repeat N``: N items with seeds of their own). A
claim that does not hold fails the item and points at the playbook's line; a run that proved nothing (*unknown*) is a
pytest error. ``deadair run`` is a door to this plugin, not another runner.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the product is imported when a playbook is met, not in every pytest run of this environment
    from harness.playbook.model import Playbook
    from harness.report.model import RunModel
    from harness.runs import RunOptions

SUFFIX = ".playbook.yaml"
UNKNOWN_EXIT = 2
_RUN = "deadair-run"
_MODELS = pytest.StashKey[dict[str, "RunModel"]]()
_RUN_DIRS = pytest.StashKey[dict[str, None]]()
_OUT = pytest.StashKey[Path]()
REPORTER = "deadair-reporter"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("deadair", "network chaos for live-streaming gateways")
    group.addoption("--engine", default="netns", help="where playbooks run: netns (default)")
    group.addoption("--seed", type=int, default=1, help="seed of everything random in a run (default 1)")
    group.addoption("--repeat", type=int, default=1, metavar="N", help="run every playbook N times, seeds counted up")
    group.addoption("--system", action="append", default=[], metavar="ROLE=NAME", help="who plays a role; repeat")
    group.addoption("--out", type=Path, metavar="DIR", help="where to write (default: a new folder in reports/)")
    group.addoption("--no-packets", action="store_true", help="write no capture.pcapng")
    group.addoption("--soak", action="store_true", help="also playbooks that take longer than two minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MODELS] = {}
    config.stash[_RUN_DIRS] = {}
    config.pluginmanager.register(_Gatherer(config), "deadair-gatherer")


class UnknownRunError(Exception):
    """The run proved nothing; the harness or this machine is to blame."""


class FailedRunError(Exception):
    """At least one claim does not hold."""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name.endswith(SUFFIX):
        collector: pytest.Collector = PlaybookFile.from_parent(parent, path=file_path)
        return collector
    return None


class PlaybookFile(pytest.File):
    """One playbook; mistakes in it are collection errors with line and column."""

    def collect(self) -> Iterator[pytest.Item]:
        from harness.playbook.loader import load_playbook
        from harness.runs import cast_of, engine_named, need_codecs

        playbook = load_playbook(self.path)
        if playbook.soak and not self.config.getoption("soak") and not _named_outright(self.config, self.path):
            return
        options = options_of(self.config)
        # what cannot run is told before anything runs
        engine_named(options.engine)
        need_codecs(cast_of(playbook, options))
        for number in range(self.config.getoption("repeat")):
            seed = options.seed + number
            name = playbook.handle if number == 0 else f"{playbook.handle}[seed {seed}]"
            yield PlaybookItem.from_parent(self, name=name, playbook=playbook, seed=seed)

    # pytest's own Collector narrows Node's signature in the same way
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        from harness.errors import DeadairError

        told = isinstance(excinfo.value, DeadairError | pytest.UsageError)
        return str(excinfo.value) if told else super().repr_failure(excinfo)


class PlaybookItem(pytest.Item):
    """One run of one playbook. It happens in set-up, so that *unknown* is an error and *failed* a failure."""

    def __init__(self, *, playbook: Playbook, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.playbook = playbook
        self.seed = seed
        self.model: RunModel | None = None
        # every wait inside a run has its own bound; a limit for unit tests must not cut a long scenario
        self.add_marker(pytest.mark.timeout(0))

    def setup(self) -> None:
        from dataclasses import replace

        from harness.checks import Outcome
        from harness.report.terminal import failure_blocks
        from harness.runs import execute, refuse_used

        run_dir = (out_dir(self.config) / self.name.replace("[seed ", "-seed").rstrip("]")).resolve()
        options = replace(options_of(self.config), seed=self.seed)
        refuse_used(run_dir)
        self.user_properties.append((_RUN, str(run_dir)))
        self.config.stash[_RUN_DIRS][str(run_dir)] = None  # an interrupted run is reported too, and has no test report
        self.model = execute(self.playbook, options, run_dir=run_dir, progress=_progress(self.config))
        self.config.stash[_MODELS][str(run_dir)] = self.model
        if self.model.outcome is Outcome.UNKNOWN:
            raise UnknownRunError("\n\n".join(failure_blocks([self.model])) or self.model.sentence)

    def runtest(self) -> None:
        from harness.checks import Outcome
        from harness.report.terminal import failure_blocks

        assert self.model is not None
        if self.model.outcome is Outcome.FAIL:
            raise FailedRunError("\n\n".join(failure_blocks([self.model])))

    def said(self, error: BaseException) -> str:
        """What a person reads about the run's failure, without a traceback; empty for what is our own mistake."""
        from harness.errors import DeadairError

        if isinstance(error, UnknownRunError | FailedRunError | DeadairError):
            return f"{self.path}:{self._line() + 1}\n{error}"
        return ""

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self._line(), self.name

    def _line(self) -> int:
        """Of the first claim that does not hold, counted from 0."""
        from harness.checks import Outcome

        verdicts = self.model.view.verdicts if self.model is not None else ()
        wrong = [verdict.line for verdict in verdicts if verdict.outcome is not Outcome.PASS and verdict.line]
        return max(0, (wrong or [1])[0] - 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The words of a playbook's failure, in the place of a traceback (``repr_failure`` is not asked in set-up)."""
    report = yield
    if isinstance(item, PlaybookItem) and call.excinfo is not None:
        report.longrepr = item.said(call.excinfo.value) or report.longrepr
    return report


# --- options and places --------------------------------------------------------------------------------------


def options_of(config: pytest.Config) -> RunOptions:
    """What the command line says about runs; raises :class:`pytest.UsageError` for a ``--system`` that is no pair."""
    from harness.runs import RunOptions

    systems: dict[str, str] = {}
    for pair in config.getoption("system"):
        role, separator, name = pair.partition("=")
        if not separator or not role or not name:
            raise pytest.UsageError(f"--system {pair!r}: write ROLE=NAME, for example publisher=reference-no-idr")
        systems[role] = name
    return RunOptions(
        engine=config.getoption("engine"),
        seed=config.getoption("seed"),
        systems=systems,
        capture=not config.getoption("no_packets"),
    )


def out_dir(config: pytest.Config) -> Path:
    """The directory of this invocation; xdist's workers are told the controller's."""
    from harness.runs import new_invocation

    if _OUT not in config.stash:
        given = getattr(config, "workerinput", {}).get(_RUN)
        config.stash[_OUT] = Path(given) if given else new_invocation(config.getoption("out"))
    return config.stash[_OUT]


def written_to(config: pytest.Config) -> Path | None:
    """The directory of this invocation; None while nothing has been written."""
    return config.stash.get(_OUT, None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: one directory for all workers."""
    from harness.errors import DeadairError

    try:
        node.workerinput[_RUN] = str(out_dir(node.config))
    except DeadairError as error:
        raise pytest.UsageError(str(error)) from None


def _progress(config: pytest.Config) -> Callable[[str], None]:
    """``deadair run`` shows what happens while it happens; plain pytest and xdist's workers are silent."""
    reporter = config.pluginmanager.get_plugin(REPORTER)
    return reporter.progress if reporter is not None else _silent


def _silent(_line: str) -> None:
    return


def _named_outright(config: pytest.Config, path: Path) -> bool:
    return any(Path(argument).resolve() == path for argument in config.args)


# --- the end -------------------------------------------------------------------------------------------------


class _Gatherer:
    """Gathers the run directories that test reports name, wherever the run took place."""

    def __init__(self, config: pytest.Config) -> None:
        self._run_dirs = config.stash[_RUN_DIRS]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if run_dir_of(report):
            self._run_dirs[run_dir_of(report)] = None


def run_dir_of(report: pytest.TestReport) -> str:
    """The directory of the run that a test report is about; empty for a test that is no run."""
    return str(dict(report.user_properties).get(_RUN, ""))


def models_of(config: pytest.Config) -> list[RunModel]:
    """The runs of this session, also those of xdist's workers; a run that left nothing to judge is not among them."""
    from harness.errors import DeadairError
    from harness.runs import model_of

    models = config.stash[_MODELS]
    for run_dir in config.stash[_RUN_DIRS]:
        if run_dir not in models:
            with suppress(DeadairError):
                models[run_dir] = model_of(Path(run_dir))
    return list(models.values())


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The common report; exit status 2 where nothing failed but something proved nothing."""
    config = session.config
    if hasattr(config, "workerinput") or not config.stash[_RUN_DIRS]:
        return
    from harness.checks import Outcome
    from harness.errors import DeadairError
    from harness.report.files import write_invocation

    models = models_of(config)
    if models:
        try:
            write_invocation(models, out_dir(config))
        except DeadairError as error:
            print(f"deadair: {error}", file=sys.stderr)
            session.exitstatus = UNKNOWN_EXIT
            return
    outcomes = {model.outcome for model in models}
    if exitstatus == pytest.ExitCode.TESTS_FAILED and Outcome.FAIL not in outcomes and Outcome.UNKNOWN in outcomes:
        session.exitstatus = UNKNOWN_EXIT
