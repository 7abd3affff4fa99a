"""What a person reads while a run goes on: a line for each event that changes the picture."""

from __future__ import annotations

from collections.abc import Mapping

from harness.playbook.board import Told


class ProgressLines:
    """The lines of one run."""

    def __init__(self) -> None:
        self._gates: set[str] = set()
        """Sources whose gate has been open before."""

    def line(self, told: Told) -> str:
        """``"gateway     egress started, worker 11"``; empty for an event that is not shown."""
        form = _SHOWN.get(told.name)
        if form is None:
            return ""
        again = "again " if told.source in self._gates else ""
        if told.name == "gate:opened":
            self._gates.add(told.source)
        return f"{told.source:<12}{form.format(**told.data, again=again)}"


_SHOWN: Mapping[str, str] = {
    "lab:ready": "{nodes} nodes up in {took_ms:.0f} ms",
    "steady:reached": "everything flows",
    "script:started": "script begins",
    "fault:entered": "BROKEN: {what}",
    "fault:left": "healed ({touched} touched)",
    "stall:detected": "stall detected by {watchdog} after {age_ms:.0f} ms",
    "stall:cleared": "stall over, the old connection delivers",
    "connection:lost": "connection lost: {reason}",
    "reconnect:completed": "reconnected in {took_ms:.0f} ms, {attempts} attempts",
    "reconnect:gave_up": "gave up after {attempts} attempts",
    "session:lost": "publisher lost ({reason}); waiting {window_s:.0f} s for it",
    "session:taken_over": "taken over by epoch {new_epoch}: {rule}",
    "session:resumed": "session resumed after {away_ms:.0f} ms",
    "session:ended": "session ended: {reason}",
    "gate:opened": "forwards {again}from an IDR (frame {frame})",
    "media:frozen": "picture frozen at frame {last_frame}",
    "media:resumed": "picture back after {gap_ms:.0f} ms (IDR: {idr})",
    "egress:started": "egress started, worker {worker}",
    "egress:stopped": "egress stopped: {reason}",
    "egress:leftover_ended": "leftover egress worker {worker} ended",
    "process:exited": "process {pid} ended (code {code}, signal {signal})",
    "script:ended": "script is over",
    "lab:closed": "lab down in {took_ms:.0f} ms",
    "run:interrupted": "interrupted by {by}",
    "run:failed": "CANNOT GO ON: {error}",
}
