"""The gateway: who may publish what, which session that is, who watches it, and the ordered end of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reference_impl import program
from reference_impl.gateway.broadcast import Broadcast
from reference_impl.gateway.credentials import Request, StreamKeys, read_request
from reference_impl.gateway.output import Egress, Outside, UrlSlots
from reference_impl.gateway.parts import GatewayParts
from reference_impl.gateway.records import Records, end_leftover
from reference_impl.gateway.settings import GatewaySettings, Output
from reference_impl.gateway.viewer import Viewer
from reference_impl.rtmp.endpoint import ServerConnection
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.telemetry import Telemetry

EGRESSES_WITHIN = 7.0
"""Seconds that the workers have to end when the gateway stops, of the 10 s that the whole stop may take."""
VIEWERS_WITHIN = 5.0
"""Seconds that a viewer has to take the rest of a stream that has ended."""
CLOSED_WITHIN = 1.0
"""Seconds that connections have to deliver what was sent to them last."""


@dataclass(slots=True)
class Publishing:
    """A connection that publishes."""

    broadcast: Broadcast
    epoch: int


@dataclass(slots=True)
class Watching:
    """A connection that plays."""

    broadcast: Broadcast
    viewer: Viewer


class Gateway:
    """Listens, routes, and holds what :class:`reference_impl.gateway.parts.GatewayParts` made for it."""

    def __init__(
        self, settings: GatewaySettings, parts: GatewayParts, telemetry: Telemetry, *, telemetry_fd: int | None
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._telemetry = telemetry
        self._keys = StreamKeys(settings.streams)
        self._records = Records(settings.state)
        self._incarnation = self._records.next_incarnation()
        self._numbers = itertools.count(1)
        self._viewer_numbers = itertools.count(1)
        self._live: dict[str, Broadcast] = {}
        self._egresses: set[Egress] = set()
        self._connections: dict[ServerConnection, Publishing | Watching | None] = {}
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._last_gone = asyncio.Event()
        self._outside = Outside(telemetry, parts.launcher(telemetry_fd), self._records, UrlSlots(), settings.push)

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """End what an earlier gateway left, then listen. Raises :class:`OSError` if the port is taken."""
        await self._end_leftovers()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, self._settings.host, self._settings.port, backlog=512)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def stop(self, reason: str) -> None:
        """Accept nobody any more, end the sessions, tell the viewers, end the workers; within 10 s in all."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for broadcast in list(self._live.values()):
            broadcast.end(f"the gateway stops ({reason})")
        for connection in [other for other, use in self._connections.items() if use is None]:
            connection.close()
        await self._await_egresses()
        await self._await_connections()
        self.tell_ledger()

    async def _end_leftovers(self) -> None:
        terminate_for = self._settings.egress.terminate_for
        for record in list(self._records.leftovers()):
            how = await end_leftover(record, terminate_for=terminate_for)
            self._records.remove(record.pid)
            if how:
                self._telemetry.tell("egress:leftover_ended", egress=record.egress, worker=record.pid, how=how)

    async def _await_egresses(self) -> None:
        waits = [asyncio.create_task(egress.gone()) for egress in self._egresses]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=EGRESSES_WITHIN)
        for egress in self._egresses:
            egress.kill()
        for wait in late:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def _await_connections(self) -> None:
        if self._connections:
            self._last_gone.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._last_gone.wait(), CLOSED_WITHIN)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    # --- connections (the listener of every ServerConnection) ------------------------------------------------------

    def _connection(self) -> ServerConnection:
        return ServerConnection(self)

    def connected(self, connection: ServerConnection) -> None:
        """A TCP connection was accepted."""
        self._connections[connection] = None

    def publish_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        """A client wants to publish."""
        request = read_request(app, stream)
        code, reason = self._why_not(request)
        if reason:
            self._reject(connection, request, code, reason)
            return
        broadcast = self._live.get(request.stream) or self._open(request.stream)
        epoch = broadcast.publish(connection, request, connection.peer)
        if epoch:
            self._connections[connection] = Publishing(broadcast, epoch)

    def media(self, connection: ServerConnection, message: MediaMessage) -> None:
        """A publisher sent something."""
        use = self._connections.get(connection)
        if isinstance(use, Publishing):
            use.broadcast.media(use.epoch, message)

    def publish_ended(self, connection: ServerConnection, how: str) -> None:
        """A publisher ended in order."""
        use = self._connections.get(connection)
        if isinstance(use, Publishing):
            use.broadcast.unpublished(use.epoch)

    def play_requested(self, connection: ServerConnection, app: str, stream: str) -> None:
        """A client wants to watch."""
        request = read_request(app, stream)
        broadcast = self._live.get(request.stream)
        if broadcast is None or self._stopping:
            connection.refuse_play("NetStream.Play.StreamNotFound", f"{request.stream} is not live", close=True)
            return
        connection.accept_play()
        viewer = self._viewer(connection)
        self._connections[connection] = Watching(broadcast, viewer)
        broadcast.join(viewer)

    def connection_lost(self, connection: ServerConnection, exc: Exception | None) -> None:
        """A connection is gone."""
        use = self._connections.pop(connection, None)
        if not self._connections:
            self._last_gone.set()
        if isinstance(use, Publishing):
            reason = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the publisher"
            use.broadcast.closed(use.epoch, reason)
        elif isinstance(use, Watching):
            use.broadcast.leave(use.viewer)

    # --- control verbs ---------------------------------------------------------------------------------------------

    async def status(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Every session with its state, viewers and egresses."""
        return {"sessions": [broadcast.describe() for broadcast in self._live.values()]}

    async def ledger(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the gateway holds, counted."""
        return self._ledger()

    async def start_egress(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """``stream``, ``url``: push it there, too; an output that was stopped or failed is started again."""
        broadcast = self._named(request)
        output = Output.parse(str(request["url"]))
        known = next((egress for egress in broadcast.egresses if egress.url == output.url), None)
        egress = known or self._add_egress(broadcast, output)
        egress.user_start()
        if known is None:
            egress.source_live()
        return egress.describe()

    async def stop_egress(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """``stream``, ``url``: end this push; it is not started again by itself."""
        broadcast = self._named(request)
        url = Output.parse(str(request["url"])).url
        for egress in broadcast.egresses:
            if egress.url == url:
                egress.user_stop()
                return egress.describe()
        raise LookupError(f"{broadcast.stream} is not pushed to {url}")

    async def end_session(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """``stream``: end its session now, whatever its window."""
        self._named(request).end("user")
        return {}

    def tell_ledger(self) -> None:
        """Tell what the gateway still holds."""
        self._telemetry.tell("ledger:told", **self._ledger())

    # --- inside ----------------------------------------------------------------------------------------------------

    def _why_not(self, request: Request) -> tuple[str, str]:
        """RTMP code and reason of a refusal that the session has no say in; empty for none.

        Clients ask again after BadName, which says that the name is taken for now, but not after Unauthorized.
        """
        if self._stopping:
            return "NetStream.Publish.BadName", "the gateway is stopping"
        if not self._keys.admits(request):
            return "NetStream.Publish.Unauthorized", "unknown stream or wrong key"
        return "", ""

    def _reject(self, connection: ServerConnection, request: Request, code: str, reason: str) -> None:
        connection.refuse_publish(code, reason, close=True)
        self._telemetry.tell(
            "publish:rejected",
            stream=request.stream,
            peer=connection.peer,
            code=code,
            reason=reason,
            setting="--stream",
        )

    def _open(self, stream: str) -> Broadcast:
        broadcast = Broadcast(
            f"{stream}#{self._incarnation}.{next(self._numbers)}",
            stream,
            self._parts.session(self._settings.session),
            self._parts.gate(self._settings.gate),
            self._parts.watcher(self._telemetry),
            self._telemetry,
            on_ended=self._broadcast_ended,
        )
        self._live[stream] = broadcast
        for output in self._settings.outputs:
            if output.stream in ("", stream):
                self._add_egress(broadcast, output)
        return broadcast

    def _add_egress(self, broadcast: Broadcast, output: Output) -> Egress:
        egress = Egress(
            f"{broadcast.name}>{RtmpUrl.parse(output.url).host}/{len(broadcast.egresses) + 1}",
            broadcast.name,
            output.url,
            self._parts.supervisor(replace(self._settings.egress, source_lost=output.source_lost)),
            self._parts.join_gate,
            broadcast.headers,
            self._outside,
            on_finished=self._egresses.discard,
        )
        broadcast.egresses.append(egress)
        self._egresses.add(egress)
        return egress

    def _viewer(self, connection: ServerConnection) -> Viewer:
        return Viewer(
            f"{connection.peer}/{next(self._viewer_numbers)}",
            connection,
            self._parts.join_gate(),
            self._settings.viewer,
            on_skipped=self._tell_dropped,
            on_hopeless=self._disconnect,
        )

    def _tell_dropped(self, viewer: Viewer, reason: str) -> None:
        session = next((b.name for b in self._live.values() if viewer.name in b.viewers), "")
        self._telemetry.tell("viewer:dropped", session=session, viewer=viewer.name, reason=reason)

    def _disconnect(self, viewer: Viewer, reason: str) -> None:
        self._tell_dropped(viewer, reason)
        for connection, use in list(self._connections.items()):
            if isinstance(use, Watching) and use.viewer is viewer:
                connection.abort()

    def _broadcast_ended(self, broadcast: Broadcast) -> None:
        if self._live.get(broadcast.stream) is broadcast:
            del self._live[broadcast.stream]
        for connection, use in list(self._connections.items()):
            if isinstance(use, Watching) and use.broadcast is broadcast:
                connection.end_play()
                # A viewer behind a dead path would hold its connection until the kernel gives up.
                asyncio.get_running_loop().call_later(VIEWERS_WITHIN, connection.abort)

    def _named(self, request: Mapping[str, Any]) -> Broadcast:
        stream = str(request["stream"])
        broadcast = self._live.get(stream)
        if broadcast is None:
            raise LookupError(f"{stream} is not live; live are: {', '.join(sorted(self._live)) or 'none'}")
        return broadcast

    def _ledger(self) -> dict[str, int]:
        return {
            "sessions": len(self._live),
            "connections": len(self._connections),
            "viewers": sum(len(broadcast.viewers) for broadcast in self._live.values()),
            "egresses": len(self._egresses),
            "workers": sum(egress.worker_pid != 0 for egress in self._egresses),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": program.open_descriptors(),
        }
