"""Writes what is derived from a run into its directory, and the page of a whole invocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.report.html import render_models
from harness.report.junit import render_junit
from harness.report.model import RunModel, RunView, build_model
from harness.report.summary import render_summary
from harness.report.trace import render_trace


def write_run(run: RunView) -> RunModel:
    """Write ``report.html``, ``summary.md``, ``junit.xml`` and ``trace.json`` into the run's directory.

    Returns the model, for the terminal and :func:`write_invocation`. Raises :class:`HarnessError` where a file cannot
    be written, or ValueError for a run without a directory.
    """
    if run.run_dir is None:
        raise ValueError("a run without a directory has nowhere to write its report")
    model = build_model(run)
    texts = {
        "report.html": render_models([model], base=run.run_dir),
        "summary.md": render_summary([model]),
        "junit.xml": render_junit([model]),
        "trace.json": render_trace(model),
    }
    _write(run.run_dir, texts)
    return model


def write_invocation(models: Sequence[RunModel], directory: Path) -> Path:
    """Write the page, the summary and the test report of several runs into ``directory``; the page's path."""
    texts = {
        "report.html": render_models(models, base=directory),
        "summary.md": render_summary(models),
        "junit.xml": render_junit(models),
    }
    _write(directory, texts)
    return directory / "report.html"


def _write(directory: Path, texts: Mapping[str, str]) -> None:
    for name, content in texts.items():
        path = directory / name
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise HarnessError(f"the report {path} cannot be written ({error.strerror or error})") from error
