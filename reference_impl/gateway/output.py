"""One egress of one session: carries out what its supervisor decides, and feeds its worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from reference_impl.gateway.alarm import Alarm
from reference_impl.gateway.feed import EXIT_COMPLETE, EXIT_FAILED, FrameKind, TextFrame, pack_media, pack_text
from reference_impl.gateway.launcher import Launcher, Worker
from reference_impl.gateway.packets import Packet
from reference_impl.gateway.records import Records, WorkerRecord
from reference_impl.gateway.settings import redacted
from reference_impl.machines import egress
from reference_impl.machines.egress import Exit
from reference_impl.machines.keyframe_gate import JoinGate
from reference_impl.machines.push import PushSettings
from reference_impl.telemetry import Telemetry

FEED_LIMIT = 4 * 1024 * 1024
"""A worker that lags this many bytes behind is skipped to the next IDR (16 s at 2 Mbit/s)."""


class Supervisor(Protocol):
    """What an egress needs of :class:`reference_impl.machines.egress.EgressSupervisor`."""

    @property
    def finished(self) -> bool: ...
    def source_live(self, *, now: float) -> Sequence[egress.Action]: ...
    def source_lost(self, *, now: float) -> Sequence[egress.Action]: ...
    def session_ended(self, *, reason: str, setting: str = "", now: float) -> Sequence[egress.Action]: ...
    def user_stop(self, *, now: float) -> Sequence[egress.Action]: ...
    def user_start(self, *, now: float) -> Sequence[egress.Action]: ...
    def exited(self, how: Exit, *, now: float) -> Sequence[egress.Action]: ...
    def tick(self, *, now: float) -> Sequence[egress.Action]: ...
    def next_deadline(self) -> float | None: ...


class UrlSlots:
    """At most one pusher per URL: platforms refuse the second, or let both corrupt the stream."""

    def __init__(self) -> None:
        self._holders: dict[str, Egress] = {}
        self._waiting: dict[str, list[Egress]] = {}

    def take(self, url: str, wanted_by: Egress) -> bool:
        """Whether ``wanted_by`` may push now; if not, its :meth:`Egress.launch_now` is called when it may."""
        if self._holders.setdefault(url, wanted_by) is wanted_by:
            return True
        self._waiting.setdefault(url, []).append(wanted_by)
        return False

    def leave(self, url: str, egress: Egress) -> None:
        """``egress`` pushes no more, or wants to no more."""
        waiting = self._waiting.get(url, [])
        if egress in waiting:
            waiting.remove(egress)
        if self._holders.get(url) is not egress:
            return
        del self._holders[url]
        if waiting:
            following = waiting.pop(0)
            self._holders[url] = following
            following.launch_now()


@dataclass(frozen=True, slots=True)
class Outside:
    """What an egress uses of the gateway around it."""

    telemetry: Telemetry
    launcher: Launcher
    records: Records
    slots: UrlSlots
    push: PushSettings


class Egress:
    """One destination of one session.

    ``headers`` gives what a worker that starts in the middle of the stream has to know before the next IDR.
    ``on_finished`` is called once, when the session is over and no worker is left.
    """

    def __init__(
        self,
        name: str,
        session: str,
        url: str,
        supervisor: Supervisor,
        gate: Callable[[], JoinGate],
        headers: Callable[[], Iterable[Packet]],
        outside: Outside,
        *,
        on_finished: Callable[[Egress], None],
    ) -> None:
        self.name = name
        self.url = url
        self.state = ""
        """As its worker told it last."""
        self.supervisor = supervisor
        self._session = session
        self._make_gate = gate
        self._gate = gate()
        self._headers = headers
        self._outside = outside
        self._on_finished = on_finished
        self._worker: Worker | None = None
        self._run = 0
        self._waits_for_url = False
        self._alarm = Alarm(self._tick)
        self._gone = asyncio.Event()

    # --- what happens around it ------------------------------------------------------------------------------------

    def source_live(self) -> None:
        """The session has a publisher (again)."""
        self._carry_out(self.supervisor.source_live(now=_now()))

    def source_lost(self) -> None:
        """The publisher is away."""
        self._carry_out(self.supervisor.source_lost(now=_now()))

    def session_ended(self, reason: str, setting: str) -> None:
        """The session is over."""
        self._carry_out(self.supervisor.session_ended(reason=reason, setting=setting, now=_now()))

    def user_stop(self) -> None:
        """A person wants this output to end."""
        self._carry_out(self.supervisor.user_stop(now=_now()))

    def user_start(self) -> None:
        """A person wants this output."""
        self._carry_out(self.supervisor.user_start(now=_now()))

    def give(self, packets: Iterable[Packet], *, has_video: bool) -> None:
        """Feed live packets to the worker, if there is one."""
        worker = self._worker
        if worker is None:
            return
        if worker.queued_bytes > FEED_LIMIT:
            self._gate.skip()
        for packet in packets:
            if self._gate.passes(packet.kind, has_video=has_video):
                worker.write(pack_media(packet.kind, packet.message))

    async def gone(self) -> None:
        """Wait until the session is over and no worker is left."""
        await self._gone.wait()

    def kill(self) -> None:
        """Last resort: SIGKILL now, whatever the supervisor thinks."""
        if self._worker is not None:
            self._worker.kill()

    @property
    def worker_pid(self) -> int:
        """Process id of the current worker, 0 without one."""
        return self._worker.pid if self._worker is not None else 0

    def describe(self) -> dict[str, Any]:
        """For the control verb ``status``."""
        return {"egress": self.label, "url": redacted(self.url), "state": self.state, "worker": self.worker_pid}

    @property
    def label(self) -> str:
        """The egress as events name it: each run of a worker has its own name, so that ends can be counted."""
        return self.name if self._run <= 1 else f"{self.name}~{self._run}"

    # --- the worker speaks -----------------------------------------------------------------------------------------

    def worker_reported(self, frame: TextFrame) -> None:
        """The worker told its state."""
        if frame.kind is FrameKind.STATE:
            self.state = str(frame.data.get("state", ""))

    def worker_exited(self, code: int) -> None:
        """The worker's process is gone."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._outside.records.remove(worker.pid)
        how = {EXIT_COMPLETE: Exit.COMPLETE, EXIT_FAILED: Exit.FAILED}.get(code, Exit.DIED)
        self._finish_run(how, _exit_text(code))

    # --- carrying out ----------------------------------------------------------------------------------------------

    def launch_now(self) -> None:
        """Start the worker: the URL is free."""
        self._waits_for_url = False
        try:
            worker = self._outside.launcher.launch(self)
        except OSError as error:
            self._finish_run(Exit.DIED, f"could not be started: {error}")
            return
        self._worker = worker
        self._gate = self._make_gate()
        self._outside.records.add(WorkerRecord(worker.pid, worker.start_time, self.label, redacted(self.url)))
        worker.write(pack_text(FrameKind.BEGIN, self._instructions()))
        for packet in self._headers():
            worker.write(pack_media(packet.kind, packet.message))
        tell = self._outside.telemetry.tell
        tell("egress:started", session=self._session, egress=self.label, worker=worker.pid, url=redacted(self.url))

    def _instructions(self) -> Mapping[str, Any]:
        return {"egress": self.label, "url": self.url, "push": asdict(self._outside.push)}

    def _finish_run(self, how: Exit, text: str) -> None:
        self._carry_out(self.supervisor.exited(how, now=_now()), exit_text=text)
        if self._worker is None and not self._waits_for_url:
            self._outside.slots.leave(self.url, self)

    def _tick(self) -> None:
        self._carry_out(self.supervisor.tick(now=_now()))

    def _carry_out(self, actions: Sequence[egress.Action], *, exit_text: str = "") -> None:
        for action in actions:
            self._do(action, exit_text)
        self._alarm.set(self.supervisor.next_deadline())
        if self.supervisor.finished and not self._gone.is_set():
            self._alarm.cancel()
            self._gone.set()
            self._on_finished(self)

    def _do(self, action: egress.Action, exit_text: str) -> None:
        match action:
            case egress.Launch(run):
                self._run = run
                self.state = "STARTING"
                self._waits_for_url = True
                if self._outside.slots.take(self.url, self):
                    self.launch_now()
            case egress.AskStop(reason, _):
                self._ask_stop(reason)
            case egress.Terminate() if self._worker is not None:
                self._worker.terminate()
            case egress.Kill():
                self.kill()
            case egress.Stopped(_, reason, _, took_s):
                self._tell_stopped(reason, exit_text, took_s)
            case egress.Restarting(attempt, delay_s):
                self._tell("egress:retried", attempt=attempt, delay_ms=1000 * delay_s)
            case egress.GaveUp(reason, setting) if self.state != "FAILED":
                self.state = "FAILED"
                self._tell("egress:state_changed", state="FAILED", reason=reason, setting=setting)

    def _ask_stop(self, reason: str) -> None:
        tell = self._outside.telemetry.tell
        tell("egress:stop_requested", session=self._session, egress=self.label, reason=reason)
        if self._worker is not None:
            self._worker.write(pack_text(FrameKind.STOP, {"reason": reason}))
        elif self._waits_for_url:
            # There is no process yet whose exit could be awaited.
            self._waits_for_url = False
            asyncio.get_running_loop().call_soon(self._finish_run, Exit.COMPLETE, "never started")

    def _tell_stopped(self, reason: str, exit_text: str, took_s: float) -> None:
        tell = self._outside.telemetry.tell
        took_ms = round(1000 * took_s, 3)
        tell("egress:stopped", session=self._session, egress=self.label, reason=reason, exit=exit_text, took_ms=took_ms)

    def _tell(self, name: str, **data: Any) -> None:
        self._outside.telemetry.tell(name, egress=self.label, **data)


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _now() -> float:
    return asyncio.get_running_loop().time()
