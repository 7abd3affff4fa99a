"""RTMP over asyncio: one :class:`asyncio.Protocol` per connection, callbacks instead of coroutines.

What holds for all three connections
------------------------------------
* Callbacks are called in the event loop, from inside ``data_received`` or a loop callback, never from inside a method
  that you call (so ``abort()`` does not call ``connection_lost`` before it returns). They may call any method.
* Every connection that was made ends with exactly one ``connection_lost(conn, exc)``, also when you ended it yourself,
  and after it nothing is called. After ``abort``, ``close`` or ``finish`` nothing *but* it is called.
* ``exc`` is the **first** cause: an :class:`OSError` of the kernel (ETIMEDOUT, ECONNRESET, …, also where asyncio only
  saw an end of file), a :class:`RemoteProtocolError` if the peer broke the protocol (the connection is then dropped),
  or None if the peer closed in order or you ended it.
* A connect that never came about calls nothing: ``create_connection`` raises.
* ``send`` never blocks; what the kernel does not take waits in the transport, without limit: watch ``queued_bytes``.
* ``close`` and ``finish`` send what waits and end our direction; the connection is lost when the peer ends its own, or
  after CLOSE_LIMIT. (Closing at once while the peer still sends makes the kernel send a RST, which destroys the last
  words: the reason of a refusal, FCUnpublish.) On a dead path they take as long as the kernel tries: bound them with
  ``abort``, which may be called at any time and any number of times.
* An exception out of your callback ends the connection and comes back in ``connection_lost``.

:class:`PublishConnection`
--------------------------
``connection_made`` sends nothing; ``start()`` begins with the handshake (once; :class:`LocalProtocolError` otherwise).
Then exactly one of ``publish_started(conn)`` and ``publish_refused(conn, code, description)``, unless the connection is
lost before. A refusal does not end the connection (nginx-rtmp keeps it open): close or abort it. ``publish_refused``
may also come later, when the server revokes a publish that it had started; node-media-server says *started* to a
duplicate key and then closes, so a start is good only if the connection is still open a moment later.
``send`` raises :class:`ConnectionError` unless publishing. ``reconnect_requested(conn, url or None)`` (E-RTMP v2) is
called if the listener has it; None means the same address. There is no time limit here: it is the owner's.

:class:`PlayConnection`
-----------------------
``start()`` likewise; then ``play_started(conn)`` or ``play_refused(conn, code)``; ``media(conn, message)`` in order;
``play_ended(conn, code)`` when the source is gone, after which the server may close, do nothing, or start again
(``play_started`` comes a second time).

:class:`ServerConnection`
-------------------------
``connected(conn)`` once, if the listener has it. ``publish_requested(conn, app, stream)`` with the stream as sent
(``cam1?key=…``): answer now or later with ``accept_publish()`` or ``refuse_publish(code, description, close=…)``;
``refuse_publish`` also revokes a running publish. Then ``media``. ``publish_ended(conn, how)`` (``how`` is the client's
command: FCUnpublish, deleteStream, closeStream) once per publish, *only* if the client ended it in order: a connection
that breaks off calls ``connection_lost`` alone. It may come before your answer, which then raises
:class:`LocalProtocolError`. The same connection may publish again.
``play_requested(conn, app, stream)``: ``accept_play()`` or ``refuse_play(code, description, close=…)``; then ``send``,
which drops the message if the connection is on its way out, so that a fan-out need not look first. A player that takes
leave in order is told by ``play_ended(conn)`` if the listener has it, and the connection is closed. ``end_play()``
tells the player that the source is gone.
A peer that has asked for nothing ``setup_limit`` seconds after it connected is dropped.

*Refused and kept open*: ``refuse_publish(…, close=False)``. *Refused and closed*: ``close=True``. *Start, then end of
file* (node-media-server): ``accept_publish(); close()``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from reference_impl.rtmp import protocol as rtmp
from reference_impl.rtmp import tcp_state
from reference_impl.rtmp.errors import RemoteProtocolError
from reference_impl.rtmp.limits import DEFAULT_LIMITS, Limits
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.rtmp.protocol import ClientProtocol, ServerProtocol
from reference_impl.rtmp.states import ClientState, ServerState
from reference_impl.rtmp.url import RtmpUrl

CHUNK_SIZE = 4096
SETUP_LIMIT = 10.0
"""Seconds; a handshake with publish takes 1.1 s at a round trip of 150 ms to the slowest known peer."""


CLOSE_LIMIT = 2.0
"""Seconds that a closed connection waits for the peer to close; a satellite's round trip is 0.6 s."""


class PublishListener(Protocol):
    """Whoever owns a :class:`PublishConnection`; may also have ``reconnect_requested(conn, url: str | None)``."""

    def publish_started(self, connection: PublishConnection, /) -> None:
        """The server takes the stream."""

    def publish_refused(self, connection: PublishConnection, code: str, description: str, /) -> None:
        """The server does not take the stream, or no longer."""

    def connection_lost(self, connection: PublishConnection, exc: Exception | None, /) -> None:
        """The last call."""


class PlayListener(Protocol):
    """Whoever owns a :class:`PlayConnection`."""

    def play_started(self, connection: PlayConnection, /) -> None:
        """The server plays the stream."""

    def media(self, connection: PlayConnection, message: MediaMessage, /) -> None:
        """One message of the stream."""

    def play_refused(self, connection: PlayConnection, code: str, /) -> None:
        """The server does not play the stream."""

    def play_ended(self, connection: PlayConnection, code: str, /) -> None:
        """The stream is over, at least for now."""

    def connection_lost(self, connection: PlayConnection, exc: Exception | None, /) -> None:
        """The last call."""


class ServerListener(Protocol):
    """Whoever answers a :class:`ServerConnection`; may also have ``connected(conn)`` and ``play_ended(conn)``."""

    def publish_requested(self, connection: ServerConnection, app: str, stream: str, /) -> None:
        """A client wants to publish; ``stream`` includes the query."""

    def media(self, connection: ServerConnection, message: MediaMessage, /) -> None:
        """One message of the publisher."""

    def publish_ended(self, connection: ServerConnection, how: str, /) -> None:
        """The publisher ended its publish in order."""

    def play_requested(self, connection: ServerConnection, app: str, stream: str, /) -> None:
        """A client wants to play; ``stream`` includes the query."""

    def connection_lost(self, connection: ServerConnection, exc: Exception | None, /) -> None:
        """The last call."""


class _NotConnected(asyncio.Transport):
    """Stands in until there is a connection."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to abort."""


class _Connection(asyncio.Protocol):
    """Between an asyncio transport and a sans-IO protocol."""

    _protocol: ClientProtocol | ServerProtocol
    _lost: Callable[[Exception | None], None]
    _on: dict[type[Any], Callable[[Any], None]]

    def __init__(self) -> None:
        self.transport: asyncio.Transport = _NotConnected()
        self.received_bytes = 0
        """What came from the transport so far."""
        self.written_bytes = 0
        """What was handed to the transport so far; less ``queued_bytes`` is what the kernel took."""
        self._over = False
        self._cause: Exception | None = None
        self._closing: asyncio.TimerHandle | None = None

    @property
    def queued_bytes(self) -> int:
        """What waits in the transport because the kernel does not take it."""
        return self.transport.get_write_buffer_size()

    @property
    def peer(self) -> str:
        """The other end as ``address:port``, ``[address]:port`` for IPv6, empty if there is none."""
        name = self.transport.get_extra_info("peername")
        if not isinstance(name, tuple) or len(name) < 2:
            return ""
        host = f"[{name[0]}]" if ":" in str(name[0]) else name[0]
        return f"{host}:{name[1]}"

    @property
    def acknowledged_bytes(self) -> int:
        """What the peer's RTMP (not only its kernel) says it got, modulo 2**32; it says so every few megabytes."""
        return self._protocol.wire.acknowledged_bytes

    def ping(self, timestamp: int) -> None:
        """Send a ping request; :attr:`last_pong` shows ``timestamp`` (ms, 32 bits) when the answer has come."""
        self._protocol.wire.ping(timestamp)
        self._flush()

    @property
    def last_pong(self) -> int | None:
        """The time stamp of the last ping response."""
        return self._protocol.wire.last_ping_response

    def close(self) -> None:
        """Send what waits, then close in order. Harmless twice."""
        self._over = True
        if self._closing is None and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError as error:
                # The peer has reset the connection and nobody has read that yet.
                self._fail(error)
                return
            self._closing = asyncio.get_running_loop().call_later(CLOSE_LIMIT, self.transport.close)

    def abort(self) -> None:
        """Throw away what waits and reset the connection (RST)."""
        self._over = True
        tcp_state.abort(self.transport)

    # --- asyncio -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the TCP connection is up."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of the peer."""
        self.received_bytes += len(data)
        try:
            self._dispatch(self._protocol.receive(data))
        except RemoteProtocolError as error:
            self._fail(error)

    def eof_received(self) -> None:
        """asyncio: the peer, or the kernel, has ended the stream."""
        if not self._over:
            self._note(tcp_state.error_at_end(self.transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is over."""
        self._over = True
        if self._closing is not None:
            self._closing.cancel()
        self._note(exc)
        self._lost(self._cause)

    # --- inside ------------------------------------------------------------------------------------------------

    def _dispatch(self, events: Iterator[rtmp.ClientEvent | rtmp.ServerEvent]) -> None:
        if self._over:
            return
        handlers = self._on
        for event in events:
            handlers[type(event)](event)
            if self._over:
                return
        self._flush()

    def _flush(self) -> None:
        chunks = self._protocol.take_output()
        if chunks and not self._over and not self.transport.is_closing():
            data = b"".join(chunks)
            self.written_bytes += len(data)
            self.transport.write(data)

    def _fail(self, error: Exception) -> None:
        """Drop the connection because of ``error``."""
        self._note(error)
        self._over = True
        self.transport.abort()

    def _note(self, cause: Exception | None) -> None:
        """Keep the first cause: what the kernel reports after it is only its consequence."""
        if self._cause is None:
            self._cause = cause


class _ClientConnection(_Connection):
    """What :class:`PublishConnection` and :class:`PlayConnection` share."""

    _protocol: ClientProtocol

    @property
    def state(self) -> ClientState:
        """Where the conversation stands."""
        return self._protocol.state

    def start(self) -> None:
        """Begin: handshake, then everything up to publish or play."""
        self._protocol.start()
        self._flush()

    def finish(self) -> None:
        """Take leave in order (FCUnpublish and deleteStream as far as they apply), then close. Harmless twice."""
        if self._over:
            return
        self._protocol.finish()
        self._flush()
        self.close()


class PublishConnection(_ClientConnection):
    """Publishes one stream; see the module's docstring."""

    def __init__(
        self,
        url: RtmpUrl,
        listener: PublishListener,
        *,
        chunk_size: int = CHUNK_SIZE,
        pipelined: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__()
        self.url = url
        reconnect = getattr(listener, "reconnect_requested", None)
        self._protocol = ClientProtocol(
            url,
            "publish",
            chunk_size=chunk_size,
            pipelined=pipelined,
            can_reconnect=reconnect is not None,
            limits=limits,
        )
        self._lost = lambda exc: listener.connection_lost(self, exc)
        self._on = {
            rtmp.Started: lambda _event: listener.publish_started(self),
            rtmp.Refused: lambda event: listener.publish_refused(self, event.code, event.description),
            rtmp.ReconnectRequested: lambda event: reconnect(self, event.tc_url or None) if reconnect else None,
        }

    def send(self, message: MediaMessage) -> None:
        """Publish one message. Raises :class:`ConnectionError` if nothing is being published (any more)."""
        if self._over or self.state is not ClientState.ACTIVE:
            raise ConnectionError(f"{self.url.tc_url}: not publishing, {'closed' if self._over else self.state.value}")
        self._protocol.send(message)
        self._flush()


class PlayConnection(_ClientConnection):
    """Plays one stream; see the module's docstring."""

    def __init__(
        self,
        url: RtmpUrl,
        listener: PlayListener,
        *,
        chunk_size: int = CHUNK_SIZE,
        pipelined: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__()
        self.url = url
        self._protocol = ClientProtocol(url, "play", chunk_size=chunk_size, pipelined=pipelined, limits=limits)
        self._lost = lambda exc: listener.connection_lost(self, exc)
        self._on = {
            MediaMessage: lambda message: listener.media(self, message),
            rtmp.Started: lambda _event: listener.play_started(self),
            rtmp.Refused: lambda event: listener.play_refused(self, event.code),
            rtmp.Ended: lambda event: listener.play_ended(self, event.code),
            rtmp.ReconnectRequested: lambda _event: None,
        }


class ServerConnection(_Connection):
    """One client of a server; see the module's docstring."""

    _protocol: ServerProtocol

    def __init__(
        self,
        listener: ServerListener,
        *,
        chunk_size: int = CHUNK_SIZE,
        setup_limit: float | None = SETUP_LIMIT,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__()
        self._protocol = ServerProtocol(chunk_size=chunk_size, limits=limits)
        self._listener = listener
        self._setup_limit = setup_limit
        self._setup: asyncio.TimerHandle | None = None
        self._lost = lambda exc: listener.connection_lost(self, exc)
        self._on = {
            MediaMessage: lambda message: listener.media(self, message),
            rtmp.PublishRequested: self._publish_requested,
            rtmp.PublishEnded: lambda event: listener.publish_ended(self, event.how),
            rtmp.PlayRequested: self._play_requested,
            rtmp.PlayEnded: self._play_ended,
        }

    @property
    def state(self) -> ServerState:
        """Where the conversation stands."""
        return self._protocol.state

    @property
    def client_can_reconnect(self) -> bool:
        """Whether the client said that it obeys :meth:`request_reconnect`."""
        return self._protocol.client_can_reconnect

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the TCP connection is up."""
        super().connection_made(transport)
        if self._setup_limit is not None:
            self._setup = asyncio.get_running_loop().call_later(self._setup_limit, self._setup_expired)
        connected = getattr(self._listener, "connected", None)
        if connected is not None:
            connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is over."""
        self._set_up()
        super().connection_lost(exc)

    def accept_publish(self) -> None:
        """Let the client publish. Raises :class:`LocalProtocolError` if it does not (or no longer) ask for it."""
        self._protocol.accept_publish()
        self._flush()

    def refuse_publish(self, code: str, description: str, close: bool = False) -> None:
        """Refuse or revoke the publish; ``code`` such as ``NetStream.Publish.BadName``."""
        self._protocol.refuse_publish(code, description)
        self._flush()
        if close:
            self.close()

    def accept_play(self) -> None:
        """Let the client play. Raises :class:`LocalProtocolError` if it does not (or no longer) ask for it."""
        self._protocol.accept_play()
        self._flush()

    def refuse_play(self, code: str, description: str, close: bool = False) -> None:
        """Refuse the play; ``code`` such as ``NetStream.Play.StreamNotFound``."""
        self._protocol.refuse_play(code, description)
        self._flush()
        if close:
            self.close()

    def send(self, message: MediaMessage) -> None:
        """Play one message. Dropped if the connection is on its way out; otherwise :class:`LocalProtocolError` unless
        the client plays."""
        if not self._over:
            self._protocol.send(message)
            self._flush()

    def end_play(
        self,
        code: str = "NetStream.Play.UnpublishNotify",
        description: str = "the stream has ended",
        *,
        close: bool = True,
    ) -> None:
        """Tell the player that its stream is over, and close unless it may wait for another. Harmless when over."""
        if self._over:
            return
        self._protocol.end_play(code, description)
        self._flush()
        if close:
            self.close()

    def request_reconnect(self, url: str | None = None, description: str = "please reconnect") -> None:
        """Ask the client to move (E-RTMP v2) to ``url``, or to connect here again; many clients ignore it."""
        self._protocol.request_reconnect(url or "", description)
        self._flush()

    # --- inside ------------------------------------------------------------------------------------------------

    def _publish_requested(self, event: rtmp.PublishRequested) -> None:
        self._set_up()
        self._listener.publish_requested(self, event.app, event.stream)

    def _play_requested(self, event: rtmp.PlayRequested) -> None:
        self._set_up()
        self._listener.play_requested(self, event.app, event.stream)

    def _play_ended(self, _event: rtmp.PlayEnded) -> None:
        play_ended = getattr(self._listener, "play_ended", None)
        if play_ended is not None:
            play_ended(self)
        self.close()

    def _set_up(self) -> None:
        if self._setup is not None:
            self._setup.cancel()
            self._setup = None

    def _setup_expired(self) -> None:
        self._setup = None
        self._fail(
            RemoteProtocolError(
                f"neither publish nor play within setup_limit={self._setup_limit:g} s, it was {self.state.value}"
            )
        )


async def serve(
    host: str | None,
    port: int,
    listener_factory: Callable[[], ServerListener],
    *,
    chunk_size: int = CHUNK_SIZE,
    setup_limit: float | None = SETUP_LIMIT,
    limits: Limits = DEFAULT_LIMITS,
    backlog: int = 512,
) -> asyncio.Server:
    """Listen on ``host`` (None: every address, IPv4 and IPv6; "::": IPv6) with one listener per connection.

    Raises :class:`OSError` if the port is taken. Closing the server closes no connection.
    """

    def connection() -> ServerConnection:
        return ServerConnection(listener_factory(), chunk_size=chunk_size, setup_limit=setup_limit, limits=limits)

    loop = asyncio.get_running_loop()
    return await loop.create_server(connection, host, port, backlog=backlog)
