"""One session at work: its publishers in turn, its gate, its viewers, its egresses.

Carries out what :class:`reference_impl.machines.session.SessionMachine` decides, and sends each packet that passes
the gate to everybody who receives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from reference_impl.gateway.alarm import Alarm
from reference_impl.gateway.credentials import Request
from reference_impl.gateway.output import Egress
from reference_impl.gateway.packets import GopCache, Headers, Packet, read_packet
from reference_impl.gateway.viewer import Viewer
from reference_impl.machines import session
from reference_impl.machines.keyframe_gate import PacketKind, Passed, Withheld
from reference_impl.machines.session import SessionMachine, SessionState
from reference_impl.media.live_watch import LiveWatch
from reference_impl.media.watcher import MediaWatcher
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import Telemetry


class Gate(Protocol):
    """What a broadcast needs of :class:`reference_impl.machines.keyframe_gate.KeyframeGate`."""

    def new_epoch(self, *, now: float) -> bool: ...
    def offer(
        self, kind: PacketKind, timestamp: int, *, parameter_sets: bool = False, now: float
    ) -> Passed | Withheld: ...


class Ingest(Protocol):
    """A publisher's connection, as a broadcast uses it."""

    def accept_publish(self) -> None: ...
    def refuse_publish(self, code: str, description: str, *, close: bool) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Broadcast:
    """One session. ``on_ended`` is called exactly once, with the viewers that were left."""

    def __init__(
        self,
        name: str,
        stream: str,
        machine: SessionMachine,
        gate: Gate,
        watcher: MediaWatcher,
        telemetry: Telemetry,
        *,
        on_ended: Callable[[Broadcast], None],
    ) -> None:
        self.name = name
        self.stream = stream
        self.machine = machine
        self.viewers: dict[str, Viewer] = {}
        self.egresses: list[Egress] = []
        self._gate = gate
        self._watch = LiveWatch(watcher, loop=asyncio.get_running_loop())
        self._telemetry = telemetry
        self._on_ended = on_ended
        self._alarm = Alarm(self._tick)
        self._connections: dict[int, Ingest] = {}
        self._incoming = Headers()
        """Of the current epoch, as it announced them."""
        self._outgoing = Headers()
        """What receivers decode with at the moment."""
        self._gop = GopCache()
        self._has_video = False
        self._last_out = 0

    # --- publishers ------------------------------------------------------------------------------------------------

    def publish(self, connection: Ingest, request: Request, peer: str) -> int:
        """A newcomer with the right key; the epoch that it is now, or 0 when it was refused."""
        actions = self.machine.publish(now=_now(), token=request.client)
        for action in actions:
            match action:
                case session.Accepted(epoch):
                    self._accepted(epoch, connection, peer)
                case session.Refused(code, reason, setting):
                    connection.refuse_publish(code, reason, close=True)
                    self._telemetry.tell(
                        "publish:rejected", stream=self.stream, peer=peer, code=code, reason=reason, setting=setting
                    )
                    return 0
                case _:
                    self._do(action)
        self._alarm.set(self.machine.next_deadline())
        for egress in self.egresses:
            egress.source_live()
        return self.machine.epoch

    def media(self, epoch: int, message: MediaMessage) -> None:
        """One message of ``epoch``; of an old epoch it is ignored."""
        now = _now()
        if message.kind != "script" or epoch != self.machine.epoch:
            actions = self.machine.media(epoch, now=now)
            if actions:
                self._carry_out(actions)
        if epoch != self.machine.epoch or self.machine.state is SessionState.ENDED:
            return
        self._watch.feed(message)
        self._offer(read_packet(message), now=now)

    def unpublished(self, epoch: int) -> None:
        """The publisher of ``epoch`` ended in order."""
        self._release(epoch, orderly=True)
        self._carry_out(self.machine.unpublished(epoch, now=_now()))

    def closed(self, epoch: int, reason: str) -> None:
        """The connection of ``epoch`` is gone."""
        ours = self._connections.pop(epoch, None) is None
        if ours and epoch == self.machine.epoch:
            # We let go of it: the machine knows.
            return
        self._carry_out(self.machine.connection_closed(epoch, reason=reason, now=_now()))

    # --- receivers -------------------------------------------------------------------------------------------------

    def join(self, viewer: Viewer) -> None:
        """Another viewer; it gets the pictures since the last IDR at once, unless the publisher is away."""
        self.viewers[viewer.name] = viewer
        self._telemetry.tell("viewer:joined", session=self.name, viewer=viewer.name)
        live = self.machine.state is SessionState.LIVE
        viewer.join(self._outgoing, self._gop if live else GopCache(), timestamp=self._last_out)

    def leave(self, viewer: Viewer) -> None:
        """A viewer is gone."""
        if self.viewers.pop(viewer.name, None) is not None:
            self._telemetry.tell("viewer:left", session=self.name, viewer=viewer.name)

    def headers(self) -> Iterable[Packet]:
        """What a receiver needs before the next IDR."""
        return self._outgoing.packets(timestamp=self._last_out)

    # --- the whole -------------------------------------------------------------------------------------------------

    def end(self, reason: str, setting: str = "") -> None:
        """End the session; harmless when it has ended."""
        self._carry_out(self.machine.end(reason=reason, setting=setting))

    def describe(self) -> dict[str, Any]:
        """For the control verb ``status``."""
        return {
            "session": self.name,
            "stream": self.stream,
            "state": self.machine.state.value,
            "epoch": self.machine.epoch,
            "viewers": sorted(self.viewers),
            "egresses": [egress.describe() for egress in self.egresses],
        }

    # --- inside ----------------------------------------------------------------------------------------------------

    def _accepted(self, epoch: int, connection: Ingest, peer: str) -> None:
        self._connections[epoch] = connection
        connection.accept_publish()
        tell = self._telemetry.tell
        tell("publish:accepted", stream=self.stream, session=self.name, epoch=epoch, peer=peer)
        self._watch.watcher.connection_started()
        was_open = self._gate.new_epoch(now=_now())
        self._incoming = Headers()
        if was_open or epoch == 1:
            tell("gate:closed", session=self.name, reason=f"epoch {epoch} begins")

    def _offer(self, packet: Packet, *, now: float) -> None:
        self._incoming.keep(packet)
        self._has_video = self._has_video or packet.message.kind == "video"
        message = packet.message
        passage = self._gate.offer(packet.kind, message.timestamp, parameter_sets=packet.parameter_sets, now=now)
        if isinstance(passage, Withheld):
            if passage.closed:
                self._telemetry.tell("gate:closed", session=self.name, reason=passage.closed)
            return
        outgoing = [packet.at(passage.timestamp)]
        self._last_out = passage.timestamp
        if passage.opened is not None:
            self._tell_opened(packet, passage)
            self._outgoing = self._incoming
            self._incoming = Headers(self._outgoing.script, self._outgoing.video, self._outgoing.audio)
            outgoing = [*self._outgoing.packets(timestamp=passage.timestamp), *outgoing]
        self._outgoing.keep(packet)
        self._send(outgoing, now=now)

    def _tell_opened(self, packet: Packet, passage: Passed) -> None:
        opened = passage.opened
        if opened is not None:
            self._telemetry.tell(
                "gate:opened",
                session=self.name,
                epoch=self.machine.epoch,
                frame=packet.frame,
                withheld=opened.withheld,
                waited_ms=_ms(opened.waited_s),
            )

    def _send(self, packets: Sequence[Packet], *, now: float) -> None:
        has_video = self._has_video
        for packet in packets:
            self._gop.keep(packet)
        for viewer in list(self.viewers.values()):
            viewer.give(packets, has_video=has_video, now=now)
        for egress in self.egresses:
            egress.give(packets, has_video=has_video)

    def _tick(self) -> None:
        self._carry_out(self.machine.tick(now=_now()))

    def _carry_out(self, actions: Sequence[session.Action]) -> None:
        for action in actions:
            self._do(action)
        self._alarm.set(self.machine.next_deadline())

    def _do(self, action: session.Action) -> None:
        tell, name = self._telemetry.tell, self.name
        match action:
            case session.Opened():
                tell("session:opened", stream=self.stream, session=name)
            case session.Release(epoch, _, orderly):
                self._release(epoch, orderly=orderly)
            case session.TakenOver(old, new, rule):
                tell("session:taken_over", session=name, old_epoch=old, new_epoch=new, rule=rule)
            case session.Stalled(epoch, silent_s, setting):
                tell("session:stalled", session=name, epoch=epoch, silent_ms=_ms(silent_s), setting=setting)
            case session.Recovered(epoch, silent_s):
                tell("session:recovered", session=name, epoch=epoch, silent_ms=_ms(silent_s))
            case session.Lost(epoch, reason, window_s):
                tell("session:lost", session=name, epoch=epoch, reason=reason, window_s=round(window_s, 3))
                for egress in self.egresses:
                    egress.source_lost()
            case session.Resumed(epoch, away_s):
                tell("session:resumed", session=name, epoch=epoch, away_ms=_ms(away_s))
            case session.Stale(epoch, what):
                tell("stale:ignored", session=name, epoch=epoch, what=what)
            case session.Ended(reason, setting):
                self._ended(reason, setting)

    def _release(self, epoch: int, *, orderly: bool) -> None:
        connection = self._connections.pop(epoch, None)
        if connection is None:
            return
        if orderly:
            # After the answer to what the client has just said.
            asyncio.get_running_loop().call_soon(connection.close)
        else:
            connection.abort()

    def _ended(self, reason: str, setting: str) -> None:
        self._alarm.cancel()
        self._telemetry.tell("session:ended", session=self.name, reason=reason, setting=setting)
        self._watch.close(reason)
        for egress in self.egresses:
            egress.session_ended(reason, setting)
        self._gop.clear()
        self._on_ended(self)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
