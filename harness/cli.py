"""``deadair``: the command line."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DeadairError

PROGRAMS = {
    "gateway": "reference_impl.gateway.serve",
    "publish": "reference_impl.client.publish",
    "watch": "reference_impl.client.watch",
    "destination": "reference_impl.destination.serve",
}
UNUSABLE = 2
"""Exit code for *unknown*, for a wrong command line and for a harness that could not run."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 all passed, 1 something failed, 2 unknown or the harness could not run."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in PROGRAMS:
            return _program(words[0], words[1:])
        options = _parser().parse_args(words)
        handler: Callable[[argparse.Namespace], int] = options.handler
        return handler(options)
    except DeadairError as error:
        print(f"deadair: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except KeyboardInterrupt:
        print("deadair: interrupted; nothing was left behind", file=sys.stderr)
        return UNUSABLE


def _as_ctrl_c(_number: int, _frame: object) -> None:
    """Whoever handles Ctrl-C at this moment (asyncio, pytest) takes everything down in order."""
    signal.raise_signal(signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deadair", description="Break the network, watch the stream, get a verdict.", epilog=_programs_text()
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    run = verbs.add_parser("run", help="run playbooks: all, or those named (hotspot/backhaul_drop_4s, a folder: tcp)")
    run.add_argument("playbooks", nargs="*", metavar="PLAYBOOK")
    _run_options(run)
    run.add_argument("--json", action="store_true", help="print the verdicts as JSON instead of a table")
    run.set_defaults(handler=_run)
    planted = verbs.add_parser("planted", help="run every planted defect against the playbook that must catch it")
    planted.add_argument("systems", nargs="*", metavar="SYSTEM", help="only these, for example reference-no-idr")
    planted.add_argument("--jobs", type=_positive, default=1, metavar="N", help="how many at a time (default 1)")
    planted.add_argument("--out", type=Path, metavar="DIR")
    planted.set_defaults(handler=_planted)
    listing = verbs.add_parser("list", help="what there is: playbooks, or one of these")
    for what in ("systems", "defects", "checks", "faults", "topologies"):
        listing.add_argument(f"--{what}", action="append_const", const=what, dest="what")
    listing.set_defaults(handler=_list)
    explain = verbs.add_parser("explain", help="a playbook as prose, with times and what to expect in the logs")
    explain.add_argument("playbook", metavar="PLAYBOOK")
    explain.set_defaults(handler=_explain)
    doctor = verbs.add_parser("doctor", help="what this machine can do, and the cure for what it can't")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(handler=_doctor)
    bench = verbs.add_parser("bench", help="the project's own figures")
    bench.add_argument("names", nargs="*", metavar="NAME")
    bench.add_argument("--json", action="store_true")
    bench.add_argument("--kills", type=_positive, default=100, metavar="N", help="trials of leftovers_after_kill")
    bench.set_defaults(handler=_bench)
    report = verbs.add_parser("report", help="judge an earlier run again and write its report anew")
    report.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    report.set_defaults(handler=_report)
    packet = verbs.add_parser("packet", help="one packet of a capture, dissected (needs the extra 'craft')")
    packet.add_argument("capture", type=Path, metavar="CAPTURE.pcapng")
    packet.add_argument("number", type=_positive, metavar="NUMBER")
    packet.set_defaults(handler=_packet)
    schema = verbs.add_parser("schema", help="the JSON Schema of playbooks, for editors")
    schema.set_defaults(handler=_schema)
    return parser


def _programs_text() -> str:
    return f"The reference programs by themselves: {', '.join(f'deadair {name}' for name in PROGRAMS)} (see --help)."


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="netns", help="netns (the only one so far)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="run each N times, seeds counted up")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="how many at a time (default 1)")
    parser.add_argument("--system", action="append", default=[], metavar="ROLE=NAME", help="who plays a role; repeat")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: a new folder in reports/")
    parser.add_argument("--no-packets", action="store_true", help="write no capture.pcapng")
    parser.add_argument("--soak", action="store_true", help="also playbooks of more than two minutes")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


# --- run -----------------------------------------------------------------------------------------------------


def find_playbooks(names: Sequence[str]) -> list[Path]:
    """Playbooks by name (``hotspot/backhaul_drop_4s``), folder (``tcp``) or path; all of them for no names."""
    from harness.playbook.loader import SCENARIOS, SUFFIX, handle_of

    known = {handle_of(path): path for path in sorted(SCENARIOS.rglob(f"*{SUFFIX}"))}
    found: list[Path] = []
    for name in names or [""]:
        path = Path(name)
        if name and path.is_file():
            found.append(path)
            continue
        folder = name.rstrip("/")
        chosen = [known[handle] for handle in known if handle == name or not name or handle.startswith(f"{folder}/")]
        if not chosen:
            raise DeadairError(f"no playbook is called {name!r}; {_hint(name, list(known))}")
        found += chosen
    return list(dict.fromkeys(found))


def _hint(name: str, known: Sequence[str]) -> str:
    """What was probably meant, else what is in the folder that was named, else where to look."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    folder = name.partition("/")[0]
    beside = [handle for handle in known if handle.startswith(f"{folder}/")]
    return f"in {folder} there is {', '.join(beside)}" if beside else "see `deadair list`"


def _run(options: argparse.Namespace) -> int:
    from harness.reporter import Reporter

    arguments = [str(path) for path in find_playbooks(options.playbooks)]
    arguments += ["--engine", options.engine, "--seed", str(options.seed), "--repeat", str(options.repeat)]
    arguments += [word for pair in options.system for word in ("--system", pair)]
    arguments += ["--out", str(options.out)] if options.out else []
    arguments += [flag for flag in ("--no-packets", "--soak") if getattr(options, flag[2:].replace("-", "_"))]
    arguments += ["-n", str(options.jobs)] if options.jobs > 1 else []
    return run_pytest(arguments, Reporter(as_json=options.json, quiet=options.jobs > 1))


def run_pytest(arguments: Sequence[str], reporter: Any) -> int:
    """One pytest session whose only output is the reporter's."""
    fixed = [
        "-p",
        "no:terminal",
        "--capture=no",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-c",
        os.devnull,
        "--rootdir",
        str(Path.cwd()),
    ]
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's background job; SIGTERM goes this way too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = int(pytest.main([*fixed, *arguments], plugins=[reporter]))
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(reporter.exit_code(code))


def _planted(options: argparse.Namespace) -> int:
    from harness.planted import run_planted

    return run_planted(options.systems, jobs=options.jobs, out=options.out)


# --- the other verbs -----------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from harness.catalogue import listing

    for what in options.what or ["playbooks"]:
        print(listing(what))
    return 0


def _explain(options: argparse.Namespace) -> int:
    from harness.playbook.explain import explain
    from harness.playbook.loader import load_playbook

    for path in find_playbooks([options.playbook]):
        print(explain(load_playbook(path)))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from harness import doctor

    return doctor.main(as_json=options.json)


def _bench(options: argparse.Namespace) -> int:
    from harness.bench import run_benches, table

    results = run_benches(
        options.names, kills=options.kills, progress=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if options.json:
        print(json.dumps({result.name: result.to_json() for result in results}, indent=2, ensure_ascii=False))
    else:
        print(table(results))
    return UNUSABLE if any(result.error for result in results) else 0


def _report(options: argparse.Namespace) -> int:
    from harness.checks import Outcome
    from harness.report.terminal import render
    from harness.runs import model_of

    model = model_of(options.run_dir)
    print(render([model], report=str(options.run_dir / "report.html")), end="")
    return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.UNKNOWN: UNUSABLE}[model.outcome]


def _packet(options: argparse.Namespace) -> int:
    from harness.capture.inspect import show

    print(show(options.capture, options.number))
    return 0


def _schema(_options: argparse.Namespace) -> int:
    from harness.playbook.schema import render_schema
    from harness.systems.registry import names_by_role

    print(render_schema(names_by_role()), end="")
    return 0


def _program(name: str, argv: Sequence[str]) -> int:
    """One of the reference's programs; its codecs are an extra."""
    try:
        module = importlib.import_module(PROGRAMS[name])
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise DeadairError(f"{name} needs PyAV; install the extra: pip install 'deadair[media]'") from None
    return int(module.main(argv))


if __name__ == "__main__":
    sys.exit(main())
