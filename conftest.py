"""Where CI has installed the third-party peers, a test that is skipped for want of one is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

_REQUIRED = os.environ.get("DEADAIR_PEERS") == "required"
_MARKS = ("peer", "netns")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _REQUIRED and report.skipped and any(item.get_closest_marker(mark) for mark in _MARKS):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, but DEADAIR_PEERS=required: {report.longrepr}"
    return report
