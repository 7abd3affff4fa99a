"""The publisher's driver: carries out what the machines decide, tells what happened, decides nothing itself.

One source, one reconnect machine, one watchdog, one timer. A :class:`Line` is one TCP connection with its number;
the number goes with every callback, so that the machine knows a late one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference_impl.client.dialer import Dialer, UnknownHostError
from reference_impl.client.line import Line
from reference_impl.client.outlet import Outlet
from reference_impl.client.parts import PublisherParts
from reference_impl.machines import reconnect_events as rc
from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect import ReconnectSettings
from reference_impl.machines.stall import Look
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.source import SourceMessage
from reference_impl.program import open_descriptors
from reference_impl.rtmp.endpoint import PublishConnection
from reference_impl.rtmp.tcp_state import TcpOptions, TcpState, set_options, tcp_state
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry

log = logging.getLogger(__name__)

_SAMPLE_EVERY = 0.25
_FLUSH_EVERY = 0.02
_GOODBYE_WITHIN = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """What the options of the program say; durations in seconds."""

    source: SourceSettings = field(default_factory=SourceSettings)
    media: Path | None = None
    reconnect: ReconnectSettings = field(default_factory=ReconnectSettings)
    watchdog: str = "ack_progress"
    stall_after: float = 1.0
    poll: float | None = None
    """None: the watchdog's own (0.1 s for ack_progress, 0.5 s for bytes_accepted)."""
    queue_limit: float = 2.0
    tcp: TcpOptions = field(default_factory=TcpOptions)
    """By default the kernel's own: SO_SNDBUF ends autotuning, which bounds the worst case and worsens the usual one
    (measured at 2.5 Mbit/s: full after 0.92 s with 128 kB set, 0.22 s without); TCP_USER_TIMEOUT ends the held
    connection without telling the server, so that the next publish meets a stale publisher."""
    seed: int = 0


class Publisher:
    """Publishes until stopped, refused or given up; ``on_finished(reason, failed)`` is called once, then."""

    def __init__(
        self,
        url: RtmpUrl,
        settings: PublisherSettings,
        *,
        telemetry: Telemetry,
        loop: asyncio.AbstractEventLoop,
        on_finished: Callable[[str, bool], None],
        parts: PublisherParts,
    ) -> None:
        self.loop = loop
        self.url = url
        self._telemetry = telemetry
        self._parts = parts
        self._on_finished = on_finished
        self._machine = parts.reconnect(settings.reconnect, Backoff(random.Random(settings.seed)))
        self._watchdog = parts.watchdog(settings.watchdog, settings.stall_after, settings.poll)
        self._source = parts.source(settings.source, settings.media, self._on_media, loop)
        self._outlet: Outlet = parts.outlet(
            headers=self._source.sequence_headers,
            request_keyframe=self.request_keyframe,
            telemetry=telemetry,
            queue_limit=settings.queue_limit,
        )
        self._tcp_options = settings.tcp
        self._dialer = Dialer(url.host, url.port, self, loop=loop)
        self._lines: dict[int, Line] = {}
        self._events: deque[rc.Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._sample_at = 0.0
        self._stalled = False
        self._source_runs = False
        self._progress = 0
        self._all_lines_gone = asyncio.Event()
        self._performers: Mapping[type, Callable[[Any], None]] = {
            rc.OpenConnection: self._open,
            rc.StartPublish: self._start_publish,
            rc.RequestKeyframe: lambda action: self.request_keyframe(action.reason),
            rc.UseConnection: self._use,
            rc.ResetConnection: self._reset,
            rc.CloseConnection: self._close,
            rc.FinishConnection: self._finish_connection,
            rc.Ignore: self._ignore,
            rc.Tell: lambda action: self._tell(action.name, **action.data),
            rc.Finish: lambda action: self._on_finished(action.reason, action.failed),
        }

    # --- for the program ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._sample_at = self.loop.time()
        self._feed(rc.Start())

    async def stop(self, reason: str) -> None:
        """End in order: no more media, goodbye on the open connection, at most a second; idempotent."""
        self._source.stop()
        self._feed(rc.Stop(reason))
        self._outlet.close()
        await self._dialer.close()
        await self._lines_gone()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def request_keyframe(self, reason: str) -> None:
        """The next picture shall be an IDR."""
        self._tell("keyframe:requested", reason=reason)
        self._source.request_keyframe(reason)

    def status(self) -> dict[str, Any]:
        """The control verb's answer."""
        return {
            "status": self._machine.status,
            "state": self._machine.state.value,
            "connection": self._machine.main,
            "attempts": self._machine.attempts,
            "open_attempts": len(self._machine.open_attempts),
            "reconnects": self._machine.reconnects,
            "queued_bytes": self._outlet.queued_bytes,
        }

    def ledger(self) -> dict[str, int]:
        """What is still held, in the fields of ``ledger:told``."""
        return {
            "sessions": int(any(not line.let_go for line in self._lines.values())),
            "connections": len(self._lines) + self._dialer.under_way,
            "viewers": 0,
            "egresses": 0,
            "workers": 0,
            "tasks": len(asyncio.all_tasks(self.loop)),
            "descriptors": open_descriptors(),
        }

    # --- what happened -----------------------------------------------------------------------------------------

    def connected(self, number: int, transport: asyncio.Transport, _protocol: asyncio.BaseProtocol) -> None:
        """The dialer: a connect is up."""
        line = self._lines[number]
        try:
            if transport.is_closing():
                raise ConnectionResetError("closed as soon as it was up")
            set_options(transport, self._tcp_options)
        except OSError as error:
            self.not_connected(number, error)
            transport.abort()
            return
        took = (self.loop.time() - line.opened_at) * 1000
        local, remote = (_address(transport.get_extra_info(key)) for key in ("sockname", "peername"))
        self._tell(
            "connect:established",
            connection=number,
            attempt=line.attempt,
            took_ms=took,
            local=local,
            remote=remote,
        )
        self._feed(rc.ConnectionUp(number))

    def not_connected(self, number: int, error: OSError) -> None:
        """The dialer: a connect failed."""
        line = self._lines.pop(number)
        line.let_go = True
        reason = str(error) or type(error).__name__
        self._tell("connect:failed", connection=number, attempt=line.attempt, reason=reason)
        refused = isinstance(error, (ConnectionRefusedError, ConnectionResetError))
        self._feed(rc.ConnectFailed(number, reason, refused, isinstance(error, UnknownHostError)))

    def publish_started(self, line: Line) -> None:
        """RTMP: the server takes our stream."""
        took = (self.loop.time() - line.started_at) * 1000
        if not line.let_go:
            self._tell("publish:started", connection=line.number, took_ms=took)
        self._feed(rc.PublishStarted(line.number))

    def publish_refused(self, line: Line, code: str, description: str) -> None:
        """RTMP: the server does not take our stream."""
        if not line.let_go:
            self._tell("publish:refused", connection=line.number, code=code, description=description)
        self._feed(rc.PublishRefused(line.number, code, description))

    def connection_lost(self, line: Line, error: Exception | None) -> None:
        """TCP: the connection is gone, by our doing or not."""
        if line.number in self._machine.open_attempts:
            return  # it failed before the dialer saw it; the dialer is about to tell
        self._lines.pop(line.number, None)
        if not self._lines:
            self._all_lines_gone.set()
        if line.let_go:
            return
        reason = "end of file" if error is None else str(error) or type(error).__name__
        self._tell("connection:lost", connection=line.number, reason=reason)
        self._tell_unacknowledged(line)
        self._outlet.detach(f"connection lost: {reason}")
        self._feed(rc.ConnectionLost(line.number, reason))

    def _on_media(self, message: SourceMessage) -> None:
        if message.idr:
            self._tell("keyframe:encoded", frame=message.frame, reason=message.reason)
        self._outlet.offer(message, now=self.loop.time())
        if self._outlet.waiting:
            self._arm()

    # --- what to do --------------------------------------------------------------------------------------------

    def _feed(self, event: rc.Event) -> None:
        """Give the machine an event and do what it says; events that come meanwhile wait their turn."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                for action in self._machine.handle(self._events.popleft(), now=self.loop.time()):
                    self._performers[type(action)](action)
        finally:
            self._handling = False
        self._arm()

    def _open(self, action: rc.OpenConnection) -> None:
        line = Line(action.connection, action.attempt, self, opened_at=self.loop.time())
        line.connection = self._parts.connection(self.url, line)
        self._lines[line.number] = line
        target = {"host": self.url.host, "port": self.url.port}
        self._tell("connect:attempted", connection=line.number, attempt=line.attempt, **target)
        self._dialer.dial(line.number, attempt=line.attempt, protocol=lambda: line.connection)

    def _start_publish(self, action: rc.StartPublish) -> None:
        line = self._lines[action.connection]
        line.started_at = self.loop.time()
        self._progress = 0
        self._restart_watchdog()
        line.connection.start()

    def _use(self, action: rc.UseConnection) -> None:
        self._outlet.use(self._lines[action.connection])
        self._restart_watchdog()
        if not self._source_runs:
            self._source_runs = True
            self._source.start()

    def _reset(self, action: rc.ResetConnection) -> None:
        line = self._lines.get(action.connection)
        self._outlet.detach(action.reason)
        self._tell("connection:reset", connection=action.connection, reason=action.reason)
        if line is not None:
            self._tell_unacknowledged(line)
            line.let_go = True
            line.connection.abort()

    def _close(self, action: rc.CloseConnection) -> None:
        if self._dialer.drop(action.connection):
            line = self._lines.pop(action.connection)
            self._tell(
                "connect:failed", connection=line.number, attempt=line.attempt, reason=f"dropped: {action.reason}"
            )
        elif (open_line := self._lines.get(action.connection)) is not None:
            open_line.let_go = True
            self._outlet.detach(action.reason)
            open_line.connection.close()

    def _finish_connection(self, action: rc.FinishConnection) -> None:
        line = self._lines.get(action.connection)
        if line is not None:
            line.let_go = True
            line.connection.finish()

    def _ignore(self, action: rc.Ignore) -> None:
        log.info("connection %d: ignored: %s", action.connection, action.what)
        line = self._lines.get(action.connection)
        if line is not None and not line.let_go:
            line.let_go = True
            line.connection.abort()

    async def _lines_gone(self) -> None:
        """Wait for the goodbyes; what has not gone by then is cut off."""
        if not self._lines:
            return
        self._all_lines_gone.clear()
        try:
            await asyncio.wait_for(self._all_lines_gone.wait(), _GOODBYE_WITHIN)
        except TimeoutError:
            log.info("no answer to the goodbye within %g s", _GOODBYE_WITHIN)
            for line in list(self._lines.values()):
                line.connection.transport.abort()
            await self._all_lines_gone.wait()  # an aborted transport is lost in the loop's next round

    # --- time --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the one timer to the earliest deadline."""
        deadline = self._next_deadline()
        if self._timer is not None:
            if deadline is not None and abs(self._timer.when() - deadline) < 1e-6:
                return
            self._timer.cancel()
        self._timer = None if deadline is None else self.loop.call_at(deadline, self._on_timer)

    def _next_deadline(self) -> float | None:
        deadlines = [self._machine.next_deadline()]
        if self._machine.main is not None:
            deadlines += [self._watchdog.next_deadline(), self._sample_at]
        if self._outlet.waiting:
            deadlines.append(self.loop.time() + _FLUSH_EVERY)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _on_timer(self) -> None:
        self._timer = None
        now = self.loop.time()
        self._outlet.flush(now=now)
        line = self._lines.get(self._machine.main) if self._machine.main is not None else None
        if line is not None:
            self._watch(line, now)
        self._feed(rc.Tick())

    def _watch(self, line: Line, now: float) -> None:
        due = now >= self._watchdog.next_deadline() - 1e-6, now >= self._sample_at - 1e-6
        if not any(due):
            return
        state = tcp_state(line.connection.transport)
        if due[1]:
            self._sample_at = now + _SAMPLE_EVERY
            if state is not None:
                self._tell_sample(line, state)
        if due[0]:
            self._judge(line, state, now)

    def _restart_watchdog(self) -> None:
        self._watchdog.restart(now=self.loop.time())
        self._stalled = False

    def _judge(self, line: Line, state: TcpState | None, now: float) -> None:
        """Show the watchdog the connection's counters and tell the machine what changed."""
        look = _look(line.connection, state, self._outlet.queued_bytes)
        verdict = self._watchdog.observe(look, now=now)
        if state is None and line.connection.transport.is_closing():
            return  # its end is about to be told
        line.acknowledge(look.acked_bytes if state else look.accepted_bytes)
        progress = look.accepted_bytes if state is None else look.acked_bytes
        moved, self._progress = progress > self._progress, progress
        if verdict.stalled and not self._stalled:
            self._stalled = True
            setting = self._watchdog.setting()
            self._feed(rc.StallDetected(line.number, self._watchdog.name, verdict.age, setting))
        elif not verdict.stalled and (moved or self._stalled):
            self._stalled = False
            self._feed(rc.ProgressSeen(line.number, self._watchdog.name))

    def _tell_unacknowledged(self, line: Line) -> None:
        """Pictures that went into the connection and perhaps never came out; the last look may be a poll old."""
        if (state := tcp_state(line.connection.transport)) is not None:
            line.acknowledge(state.acked_bytes)
        if (frames := line.unacknowledged()) is not None:
            reason = f"not acknowledged on connection {line.number}"
            self._tell("frames:dropped", first=frames[0], last=frames[1], reason=reason)

    def _tell_sample(self, line: Line, state: TcpState) -> None:
        self._tell(
            "tcp:sampled",
            connection=line.number,
            outstanding_bytes=state.outstanding_bytes,
            unsent_bytes=state.unsent_bytes,
            acked_bytes=state.acked_bytes,
            last_ack_age_ms=round(state.last_ack_age * 1000, 3),
            rto_ms=round(state.rto * 1000, 3),
            srtt_ms=round(state.srtt * 1000, 3),
            backoff=state.backoff,
            queued_bytes=self._outlet.queued_bytes + line.connection.queued_bytes,
        )

    def _tell(self, name: str, **data: Any) -> None:
        self._telemetry.tell(name, **data)


def _look(connection: PublishConnection, state: TcpState | None, queued_bytes: int) -> Look:
    """The counters; where TCP cannot be looked into nothing is outstanding, which never is a stall."""
    return Look(
        accepted_bytes=connection.written_bytes - connection.queued_bytes,
        waiting_bytes=queued_bytes + connection.queued_bytes,
        acked_bytes=state.acked_bytes if state else 0,
        outstanding_bytes=state.outstanding_bytes if state else 0,
        srtt=state.srtt if state else 0.0,
    )


def _address(name: Any) -> str:
    """``"10.0.0.2:41234"`` of a socket name."""
    if not isinstance(name, tuple):
        return str(name)
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"
