"""One event of a run, and the names that the harness itself may tell.

Events of the programs (publisher, gateway, …) are defined in ``reference_impl/telemetry.py``; the table here holds
what the network, the engine and the runner tell. Both share one form: ``category:past_tense`` and exactly the
fields of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reference_impl import telemetry

EVENTS: dict[str, telemetry.Fields] = {
    # --- runner --------------------------------------------------------------------------------------------
    # the first event of every history; `roles` maps a role to its node, `systems` a role to its system's name.
    "run:started": {
        "playbook": str,
        "engine": str,
        "seed": int,
        "topology": str,
        "roles": dict,
        "systems": dict,
    },
    "steady:reached": {"took_ms": (int, float)},
    "steady:missed": {"missing": str, "within_ms": (int, float)},
    # times of the playbook's steps count from here.
    "script:started": {"steps": int},
    "step:begun": {"step": int, "line": int, "text": str, "late_ms": (int, float)},
    "step:failed": {"step": int, "line": int, "error": str},
    # checks of what happened end here: everything later is the ordered shut-down. So settling time belongs before it.
    "script:ended": {"steps": int},
    "person:asked": {"step": int, "question": str, "answer": str},
    "run:interrupted": {"by": str},
    # the harness or the host let the run down: why there is no run:ended.
    "run:failed": {"error": str},
    "run:ended": {},
    # --- faults; `fault` is unique in the run and joins entered, left and flow receipts --------------------
    # `what` is the fault in one sentence, `scope` network | node | process, `target` link, node or role.
    "fault:entered": {"fault": str, "kind": str, "scope": str, "target": str, "what": str, "settings": dict},
    # `touched` counts packets dropped or altered, connections reset, processes signalled, …
    "fault:left": {"fault": str, "touched": int, "receipt": dict},
    # --- engine --------------------------------------------------------------------------------------------
    "lab:ready": {"nodes": int, "took_ms": (int, float), "scheduling": str},
    "lab:closed": {"took_ms": (int, float)},
    "process:started": {"pid": int, "program": str, "incarnation": int},
    "process:exited": {
        "pid": int,
        "program": str,
        "incarnation": int,
        "code": int,
        "signal": int,
        "expected": bool,
    },
    "process:signalled": {"pid": int, "signal": str},
    "log:written": {"line": str},
    # what is left inside the lab when the programs have been told to stop: pids, sockets, flows by name. The last one
    # is compared with the first, which is taken before any program is started; a single one with an empty lab.
    "ledger:taken": {"moment": str, "processes": list, "sockets": list},
    # --- network -------------------------------------------------------------------------------------------
    "link:changed": {"link": str, "direction": str, "settings": dict},
    "carrier:changed": {"up": bool},
    "nat:rebound": {"router": str, "mappings": int, "address": str},
    # every 100 ms per flow that moved or was dropped since the last count; counted at the receiving host.
    # `flow` is "phone:40000>gateway:1935/tcp" in the addresses its sender uses.
    "flow:counted": {
        "flow": str,
        "packets": int,
        "bytes": int,
        "dropped": int,
        "dropped_because": dict,
    },
    # what the emulated network lost itself: `ring_lost` had no room on arrival, `unsent` were not taken by a node's
    # interface (which is down while a carrier is off), `malformed` could not be read; `left_out` only of the capture.
    "emulator:measured": {
        "packets": int,
        "late_p50_us": (int, float),
        "late_p99_us": (int, float),
        "late_max_us": (int, float),
        "histogram": dict,
        "ring_lost": int,
        "unsent": int,
        "malformed": int,
        "left_out": int,
    },
}


class UnknownEventError(telemetry.UnknownEventError):
    """A harness event that is not in the table, or has other fields."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    number: int
    """Place in the history, from 0; checks give it as evidence."""
    t_ns: int
    """CLOCK_MONOTONIC since the run's zero (virtual time in the simulator)."""
    node: str
    """Where: a node of the topology, or ``"-"`` for the runner."""
    source: str
    """Who told it: a role (``publisher``), ``egress``, ``network``, ``engine``, ``runner``."""
    name: str
    """``category:past_tense``."""
    data: Mapping[str, Any]
    """Exactly the fields of the table for this name."""
