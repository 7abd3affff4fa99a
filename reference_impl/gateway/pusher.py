"""The inside of an egress worker: one push, from the frames of the feed to the destination's acknowledgements."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from reference_impl.gateway.alarm import Alarm
from reference_impl.gateway.feed import MediaFrame
from reference_impl.gateway.packets import GopCache, Headers, Packet
from reference_impl.machines import push
from reference_impl.machines.keyframe_gate import JoinGate, PacketKind
from reference_impl.machines.push import PushMachine, PushSettings, PushState
from reference_impl.rtmp.endpoint import PublishConnection
from reference_impl.rtmp.tcp_state import tcp_state
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry

SAMPLE_EVERY = 0.25
"""Seconds between two looks at the connection's progress."""
BACKLOG = 1.0
"""How old, in seconds, an IDR may be to begin a connection with: beyond that the next one is waited for."""
QUEUE_LIMIT = 2 * 1024 * 1024
"""A destination that lags this many bytes behind is skipped to the next IDR (8 s at 2 Mbit/s)."""


class StateListener(Protocol):
    """Who hears of the push."""

    def push_changed(self, state: PushState, reason: str) -> None:
        """Called for each change of state; after a final one nothing follows."""


class Pusher:
    """Pushes one stream to one URL, with all connections that takes."""

    def __init__(
        self, name: str, url: RtmpUrl, settings: PushSettings, telemetry: Telemetry, listener: StateListener
    ) -> None:
        self._name = name
        self._url = url
        self._telemetry = telemetry
        self._listener = listener
        self._machine = PushMachine(settings)
        self._alarm = Alarm(self._tick)
        self._connection: PublishConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._sampling: asyncio.TimerHandle | None = None
        self._gate = JoinGate()
        self._headers = Headers()
        self._gop = GopCache()
        self._gop_at = 0.0

    # --- inputs ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start; tells STARTING."""
        self._changed(push.Changed(PushState.STARTING, "the session is live"))
        self._carry_out(self._machine.begin(now=_now()))

    def stop(self, reason: str) -> None:
        """End in order; a second time changes nothing."""
        self._carry_out(self._machine.stop(reason=reason, now=_now()))

    def media(self, frame: MediaFrame) -> None:
        """One message of the stream."""
        packet = Packet(frame.packet, frame.message)
        if packet.kind in (PacketKind.IDR, PacketKind.PICTURE, PacketKind.AUDIO):
            self._machine.fed(now=_now())
        if packet.kind is PacketKind.IDR:
            self._gop_at = _now()
        if self._machine.publishing:
            self._forward(packet)
        self._headers.keep(packet)
        if not self._gate.is_open:
            self._gop.keep(packet)

    # --- the connection speaks -------------------------------------------------------------------------------------

    def publish_started(self, connection: PublishConnection) -> None:
        """The destination accepted the publish."""
        if connection is not self._connection:
            return
        acked, _ = self._progress(connection)
        self._carry_out(self._machine.published(acked_bytes=acked, now=_now()))
        if _now() - self._gop_at <= BACKLOG:
            for packet in self._gop.packets:
                self._forward(packet)
        self._gop.clear()
        self._sample()

    def publish_refused(self, connection: PublishConnection, code: str, description: str) -> None:
        """The destination refused the publish, or the connection before it."""
        if connection is self._connection:
            self._carry_out(self._machine.refused(code=code, description=description, now=_now()))

    def connection_lost(self, connection: PublishConnection, exc: Exception | None) -> None:
        """The connection is gone."""
        if connection is self._connection:
            self._connection = None
            reason = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the destination"
            self._carry_out(self._machine.lost(reason=reason, now=_now()))

    # --- media out -------------------------------------------------------------------------------------------------

    def _forward(self, packet: Packet) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._gate.is_open and connection.transport.get_write_buffer_size() > QUEUE_LIMIT:
            self._gate.skip()
        was_open = self._gate.is_open
        if not self._gate.passes(packet.kind, has_video=self._headers.video is not None):
            return
        if not self._gate.is_open:
            # A header before the first IDR: it is kept, and sent in front of that one.
            return
        try:
            if not was_open:
                for header in self._headers.packets(timestamp=packet.message.timestamp):
                    connection.send(header.message)
            connection.send(packet.message)
        except ConnectionError:
            # connection_lost follows and says why.
            return

    # --- carrying out ----------------------------------------------------------------------------------------------

    def _carry_out(self, actions: Sequence[push.Action]) -> None:
        for action in actions:
            match action:
                case push.Connect():
                    self._opening = asyncio.create_task(self._open())
                case push.Disconnect():
                    self._drop()
                case push.Finish() if self._connection is not None:
                    self._connection.finish()
                case push.Changed():
                    self._changed(action)
                case push.Retrying(attempt, delay_s):
                    self._tell("egress:retried", attempt=attempt, delay_ms=1000 * delay_s)
        self._alarm.set(self._machine.next_deadline())

    def _changed(self, change: push.Changed) -> None:
        self._tell("egress:state_changed", state=change.state.value, reason=change.reason, setting=change.setting)
        self._listener.push_changed(change.state, change.reason)

    def _tell(self, name: str, **data: Any) -> None:
        self._telemetry.tell(name, egress=self._name, **data)

    async def _open(self) -> None:
        connection = PublishConnection(self._url, self)
        self._connection = connection
        self._gate.skip()
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, self._url.host, self._url.port)
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            tell = self._machine.unreachable if unknown else self._machine.lost
            self._unopened(connection, tell, f"{self._url.host}: {error.strerror or error}")
            return
        connection.start()

    def _unopened(self, connection: PublishConnection, tell: Callable[..., Sequence[push.Action]], reason: str) -> None:
        if connection is self._connection:
            self._connection = None
            self._carry_out(tell(reason=reason, now=_now()))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        elif connection is not None:
            connection.abort()
        self._opening = None

    def _tick(self) -> None:
        self._carry_out(self._machine.tick(now=_now()))

    def _sample(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None
        connection = self._connection
        if connection is None or not self._machine.publishing:
            return
        self._sampling = asyncio.get_running_loop().call_later(SAMPLE_EVERY, self._sample)
        acked, waiting = self._progress(connection)
        self._carry_out(self._machine.sampled(acked_bytes=acked, waiting_bytes=waiting, now=_now()))

    def _progress(self, connection: PublishConnection) -> tuple[int, int]:
        """Bytes acknowledged by the destination, and bytes that wait in any buffer of ours."""
        state = tcp_state(connection.transport)
        if state is None:
            return 0, 0
        return state.acked_bytes, state.outstanding_bytes + connection.transport.get_write_buffer_size()


def _now() -> float:
    return asyncio.get_running_loop().time()
