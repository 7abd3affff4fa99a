"""``junit.xml``: one test case for each verdict, in the xunit1 form that every CI system reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from harness.checks.verdict import Outcome, Verdict
from harness.report.model import Failure, RunModel

# XML 1.0 has no way to write these characters, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(models: Sequence[RunModel]) -> str:
    """Each run as one test suite; *unknown* is an ``error``, as in pytest's exit code 2."""
    root = ET.Element("testsuites")
    root.extend(_suite(model) for model in models)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def _suite(model: RunModel) -> ET.Element:
    cases = [_case(model, verdict) for verdict in model.view.verdicts] or [_no_verdict(model)]
    suite = ET.Element("testsuite")
    attributes = {
        "name": model.title,
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "skipped": "0",
        "time": _seconds(model.took_ns),
    }
    for key, value in attributes.items():
        suite.set(key, _clean(value))
    suite.append(_properties(model))
    suite.extend(cases)
    return suite


def _properties(model: RunModel) -> ET.Element:
    properties = ET.Element("properties")
    values = {"seed": str(model.seed), "engine": model.engine, "replay": model.replay, "verdict": model.sentence}
    if model.view.run_dir is not None:
        values["run_dir"] = str(model.view.run_dir)
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=_clean(value))
    return properties


def _case(model: RunModel, verdict: Verdict) -> ET.Element:
    case = ET.Element("testcase", classname=_clean(model.title), name=_clean(verdict.check), time="0.000")
    if verdict.line:
        case.set("line", str(verdict.line))
    failure = next((failure for failure in model.failures if failure.verdict is verdict), None)
    if failure is not None:
        case.append(_problem(model, failure))
    return case


def _problem(model: RunModel, failure: Failure) -> ET.Element:
    verdict = failure.verdict
    tag = "failure" if verdict.outcome is Outcome.FAIL else "error"
    message = f"{verdict.claim}: expected {verdict.expected}, observed {verdict.observed}"
    problem = ET.Element(tag, message=_clean(message), type=verdict.outcome.value)
    lines = [message, verdict.because, f"active fault: {failure.active_fault}"]
    lines += [f"decided by: {failure.setting}"] if failure.setting else []
    problem.text = _clean("\n".join(line for line in [*lines, f"replay: {model.replay}"] if line))
    return problem


def _no_verdict(model: RunModel) -> ET.Element:
    """A run without a verdict must not look like an empty success."""
    case = ET.Element("testcase", classname=_clean(model.title), name="run", time="0.000")
    ET.SubElement(case, "error", message=_clean(model.sentence), type=Outcome.UNKNOWN.value)
    return case


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.3f}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
