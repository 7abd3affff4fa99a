"""RTMP as a conversation, both roles, sans-IO: bytes in, events out; commands queue bytes.

    protocol.receive(data)  -> iterator of events; answers that the protocol owes are queued while it is iterated
    protocol.take_output()  -> list of chunks to be written, in order
    protocol.<command>()    -> queues bytes, or raises LocalProtocolError and changes nothing

The state machines are the tables of ``states.py``. What the peer must not do raises :class:`RemoteProtocolError` out
of the iteration, after the events before it; the connection is then of no further use. Iterate to the end (or drop
the connection): a command given while iterating, such as ``accept_publish``, is in force for the messages after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from reference_impl.rtmp import amf0, commands
from reference_impl.rtmp.chunks import Message
from reference_impl.rtmp.commands import Command, UserEvent
from reference_impl.rtmp.errors import RemoteProtocolError
from reference_impl.rtmp.handshake import ClientHandshake, ServerHandshake
from reference_impl.rtmp.limits import DEFAULT_LIMITS, Limits
from reference_impl.rtmp.messages import MediaKind, MediaMessage
from reference_impl.rtmp.states import CLIENT, SERVER, ClientState, ClientStep, Machine, ServerState, ServerStep
from reference_impl.rtmp.timestamps import TimestampUnwrapper, wrap
from reference_impl.rtmp.url import RtmpUrl
from reference_impl.rtmp.wire import HANDSHAKEN, Wire

ACK_WINDOW = 2_500_000
"""Bytes between two acknowledgements; what nginx-rtmp, librtmp and Flash Media Server use."""
PLAY_BUFFER_MS = 1_000
_FIRST_STREAM = 1
_CAN_RECONNECT = 1

_KINDS: dict[int, MediaKind] = {
    commands.AUDIO: "audio",
    commands.VIDEO: "video",
    commands.DATA: "script",
    commands.DATA_AMF3: "script",
}
_TYPES: dict[MediaKind, int] = {"audio": commands.AUDIO, "video": commands.VIDEO, "script": commands.DATA}
_SET_DATA_FRAME: Final = amf0.encode("@setDataFrame")
_ON_METADATA: Final = amf0.encode("onMetaData")

_STARTED = {"NetStream.Publish.Start", "NetStream.Play.Start"}
_ENDED = {
    "NetStream.Play.UnpublishNotify",
    "NetStream.Play.Stop",
    "NetStream.Play.Complete",
    "NetStream.Unpublish.Success",
}
RECONNECT_REQUEST = "NetConnection.Connect.ReconnectRequest"

EndedBy = Literal["FCUnpublish", "deleteStream", "closeStream"]


@dataclass(frozen=True, slots=True)
class Started:
    """Client: the server has started our publish or play. True of a live peer only if it is still open a moment later:
    node-media-server says this and closes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Client: the server will not have it, or no longer; it may keep the connection open (nginx-rtmp does)."""

    code: str
    description: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Client: the stream that we play is over; ``code`` is the server's, or ``"StreamEOF"``."""

    code: str


@dataclass(frozen=True, slots=True)
class ReconnectRequested:
    """Client: the server asks us to move (E-RTMP v2); ``tc_url`` is empty for "here again"."""

    tc_url: str
    description: str


@dataclass(frozen=True, slots=True)
class PublishRequested:
    """Server: a client wants to publish ``stream`` (with its query, as sent) to ``app``."""

    app: str
    stream: str


@dataclass(frozen=True, slots=True)
class PublishEnded:
    """Server: the publisher ended its publish in order; the connection is still open."""

    how: EndedBy


@dataclass(frozen=True, slots=True)
class PlayRequested:
    """Server: a client wants to play ``stream`` of ``app``."""

    app: str
    stream: str


@dataclass(frozen=True, slots=True)
class PlayEnded:
    """Server: the player ended its play in order; the connection is still open."""

    how: EndedBy


ClientEvent = Started | Refused | Ended | ReconnectRequested | MediaMessage
ServerEvent = PublishRequested | PublishEnded | PlayRequested | PlayEnded | MediaMessage


class _Endpoint:
    """What client and server share: the wire, and media in both directions."""

    def __init__(self, wire: Wire, *, chunk_size: int) -> None:
        self.wire = wire
        self.stream_id = 0
        """Message stream of the publish or play; 0 while there is none."""
        self._chunk_size = chunk_size
        self._unwrapper = TimestampUnwrapper()

    def take_output(self) -> list[bytes]:
        """What is to be written, in order."""
        return self.wire.take_output()

    def _queue_media(self, message: MediaMessage, payload: bytes) -> None:
        self.wire.send(Message(_TYPES[message.kind], self.stream_id, wrap(message.timestamp), payload))

    def _media(self, message: Message) -> MediaMessage:
        payload = message.payload
        if message.type_id == commands.DATA_AMF3:
            payload = payload[1:]
        timestamp = self._unwrapper.unwrap(message.timestamp)
        return MediaMessage(_KINDS[message.type_id], timestamp, payload.removeprefix(_SET_DATA_FRAME))


class ClientProtocol(_Endpoint):
    """Publishes or plays the one stream of ``url``.

    ``pipelined`` sends connect … publish in one go after the handshake, guessing that the server numbers its first
    message stream 1 (every known server does; another number is corrected): one round trip instead of three.
    """

    def __init__(
        self,
        url: RtmpUrl,
        role: Literal["publish", "play"],
        *,
        chunk_size: int = 4096,
        pipelined: bool = True,
        can_reconnect: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(Wire(ClientHandshake(), limits=limits), chunk_size=chunk_size)
        self.url = url
        self.role = role
        self._pipelined = pipelined
        self._can_reconnect = can_reconnect
        self._machine = Machine(CLIENT, ClientState.IDLE)
        self._transaction = 0
        self._waiting: dict[float, str] = {}
        self._abandoned_stream: int | None = None

    @property
    def state(self) -> ClientState:
        """Where the client stands."""
        return self._machine.state

    def start(self) -> None:
        """Queue the first handshake bytes; everything up to publish or play follows by itself."""
        self._machine.ours(ClientStep.START)
        self.wire.open()

    def finish(self) -> None:
        """Take leave: FCUnpublish and deleteStream, as far as there is something to leave."""
        had_stream = self.stream_id != 0 and self.state not in (ClientState.IDLE, ClientState.FINISHED)
        self._machine.ours(ClientStep.FINISH)
        if had_stream and self.role == "publish":
            self._call("FCUnpublish", None, self.url.stream)
        if had_stream:
            self._call("deleteStream", None, float(self.stream_id))

    def send(self, message: MediaMessage) -> None:
        """Queue one media message; :class:`LocalProtocolError` unless a publish is active."""
        if self.role != "publish" or self.state is not ClientState.ACTIVE:
            self._machine.misused(f"media to send as a {self.role} client")
        payload = message.payload
        if message.kind == "script" and payload.startswith(_ON_METADATA):
            payload = _SET_DATA_FRAME + payload
        self._queue_media(message, payload)

    def receive(self, data: bytes) -> Iterator[ClientEvent]:
        """Take ``data``; events as they are parsed. Raises :class:`RemoteProtocolError` while iterating."""
        for message in self.wire.receive(data):
            if message is HANDSHAKEN:
                self._machine.theirs(ClientStep.HANDSHAKEN)
                self._connect()
            elif message.type_id in _KINDS:
                if self.role == "play" and message.stream_id == self.stream_id:
                    yield self._media(message)
            elif self.state is not ClientState.FINISHED:
                yield from self._obey(message)

    def _obey(self, message: Message) -> Iterator[ClientEvent]:
        if message.type_id == commands.USER_CONTROL:
            yield from self._ended("StreamEOF")
        elif message.type_id in (commands.COMMAND, commands.COMMAND_AMF3):
            command = Command.from_message(message)
            if command.name == "_result":
                self._result(command)
            elif command.name == "_error":
                yield from self._error(command)
            elif command.name == "onStatus":
                yield from self._status(command)

    def _connect(self) -> None:
        self.wire.send(commands.set_chunk_size(self._chunk_size))
        properties: dict[str, amf0.Value] = {
            "app": self.url.app,
            "type": "nonprivate",
            "flashVer": "FMLE/3.0 (compatible; deadair)",
            "tcUrl": self.url.tc_url,
        }
        if self.role == "play":
            properties |= {"fpad": False, "capabilities": 15, "audioCodecs": 4071, "videoCodecs": 252}
        if self._can_reconnect:
            properties["capsEx"] = _CAN_RECONNECT
        self._call("connect", properties)
        if self._pipelined:
            self._create_stream()
            self._request(_FIRST_STREAM)

    def _create_stream(self) -> None:
        if self.role == "publish":
            self._call("releaseStream", None, self.url.stream)
            self._call("FCPublish", None, self.url.stream)
        self._call("createStream", None)

    def _request(self, stream_id: int) -> None:
        """Ask for the publish or play on ``stream_id``."""
        self.stream_id = stream_id
        if self.role == "publish":
            self._call("publish", None, self.url.stream, "live", stream_id=stream_id)
        else:
            self.wire.send(commands.user_control(UserEvent.SET_BUFFER_LENGTH, stream_id, PLAY_BUFFER_MS))
            self._call("play", None, self.url.stream, -2000.0, stream_id=stream_id)

    def _call(self, name: str, *arguments: amf0.Value, stream_id: int = 0) -> None:
        self._transaction += 1
        self._waiting[self._transaction] = name
        self.wire.send(Command(name, self._transaction, arguments, stream_id).to_message())

    def _result(self, command: Command) -> None:
        asked = self._waiting.pop(command.transaction, None)
        if asked == "connect":
            self._machine.theirs(ClientStep.CONNECTED)
            if not self._pipelined:
                self._create_stream()
        elif asked == "createStream":
            self._machine.theirs(ClientStep.OPENED)
            self._opened(command)

    def _opened(self, command: Command) -> None:
        number = command.arguments[1] if len(command.arguments) > 1 else None
        if not isinstance(number, float) or not 1 <= number <= 0xFFFF_FFFF:
            raise RemoteProtocolError(f"createStream result without a stream id: {command.arguments!r}")
        if int(number) != self.stream_id:
            # The guess was wrong: what comes back for it is not about our stream.
            self._abandoned_stream = self.stream_id or None
            self._request(int(number))

    def _error(self, command: Command) -> Iterator[ClientEvent]:
        asked = self._waiting.pop(command.transaction, None)
        if asked in ("connect", "createStream", "publish", "play"):
            info = command.object(1)
            code = str(info.get("code", f"_error of {asked}"))
            yield from self._refused(code, str(info.get("description", "")))

    def _status(self, command: Command) -> Iterator[ClientEvent]:
        info = command.object(1)
        code, description = str(info.get("code", "")), str(info.get("description", ""))
        if code == RECONNECT_REQUEST:
            tc_url = info.get("tcUrl")
            yield ReconnectRequested(tc_url if isinstance(tc_url, str) else "", description)
        elif command.stream_id and command.stream_id == self._abandoned_stream:
            return
        elif info.get("level") == "error":
            yield from self._refused(code, description)
        elif code in _STARTED:
            was_active = self.state is ClientState.ACTIVE
            self._machine.theirs(ClientStep.STARTED)
            if not was_active:
                yield Started()
        elif code in _ENDED:
            yield from self._ended(code)

    def _refused(self, code: str, description: str) -> Iterator[ClientEvent]:
        known = self.state is ClientState.REFUSED
        self._machine.theirs(ClientStep.REFUSED)
        if not known:
            yield Refused(code, description)

    def _ended(self, code: str) -> Iterator[ClientEvent]:
        if self.role == "publish":
            yield from self._refused(code, "the server ended the publish")
            return
        known = self.state in (ClientState.OVER, ClientState.REFUSED)
        self._machine.theirs(ClientStep.ENDED)
        if not known:
            yield Ended(code)


class ServerProtocol(_Endpoint):
    """One client's connection: it publishes or plays one stream at a time."""

    def __init__(self, *, chunk_size: int = 4096, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(Wire(ServerHandshake(), limits=limits), chunk_size=chunk_size)
        self.app = ""
        self.capabilities: dict[str, amf0.Value] = {}
        """The client's connect object as it came: flashVer, tcUrl, and what E-RTMP adds (capsEx, fourCcList, …)."""
        self._limits = limits
        self._machine = Machine(SERVER, ServerState.HANDSHAKE)
        self._streams = 0

    @property
    def state(self) -> ServerState:
        """Where the connection stands."""
        return self._machine.state

    @property
    def client_can_reconnect(self) -> bool:
        """Whether the client said (E-RTMP v2, ``capsEx``) that it obeys a reconnect request."""
        flags = self.capabilities.get("capsEx")
        return isinstance(flags, float) and flags.is_integer() and bool(int(flags) & _CAN_RECONNECT)

    def accept_publish(self) -> None:
        """The requested publish begins: StreamBegin, ``NetStream.Publish.Start``."""
        self._machine.ours(ServerStep.ACCEPT_PUBLISH)
        self._unwrapper = TimestampUnwrapper()
        self.wire.send(commands.user_control(UserEvent.STREAM_BEGIN, self.stream_id))
        self._status("NetStream.Publish.Start", "publishing")

    def refuse_publish(self, code: str, description: str) -> None:
        """Refuse the requested publish, or revoke a running one; the connection stays as it is."""
        self._machine.ours(ServerStep.REFUSE_PUBLISH)
        self._status(code, description, level="error")
        self.stream_id = 0

    def accept_play(self) -> None:
        """The requested play begins: StreamBegin, ``NetStream.Play.Reset``, ``NetStream.Play.Start``."""
        self._machine.ours(ServerStep.ACCEPT_PLAY)
        self.wire.send(commands.user_control(UserEvent.STREAM_BEGIN, self.stream_id))
        self._status("NetStream.Play.Reset", "reset")
        self._status("NetStream.Play.Start", "playing")

    def refuse_play(self, code: str, description: str) -> None:
        """Refuse the requested play."""
        self._machine.ours(ServerStep.REFUSE_PLAY)
        self._status(code, description, level="error")
        self.stream_id = 0

    def end_play(self, code: str, description: str) -> None:
        """Tell the player that its stream is over: ``code``, StreamEOF."""
        if self.state is not ServerState.PLAYING:
            self._machine.misused("end of a play")
        self._machine.ours(ServerStep.END)
        self._status(code, description)
        self.wire.send(commands.user_control(UserEvent.STREAM_EOF, self.stream_id))
        self.stream_id = 0

    def request_reconnect(self, tc_url: str, description: str) -> None:
        """Ask the client to open a new connection (E-RTMP v2); an empty ``tc_url`` means "here again"."""
        if self.state in (ServerState.HANDSHAKE, ServerState.UNCONNECTED):
            self._machine.misused("reconnect request")
        details = {"tcUrl": tc_url} if tc_url else {}
        self.wire.send(commands.status(0, RECONNECT_REQUEST, description, details=details))

    def send(self, message: MediaMessage) -> None:
        """Queue one media message for the player; :class:`LocalProtocolError` unless it is playing."""
        if self.state is not ServerState.PLAYING:
            self._machine.misused("media to send")
        self._queue_media(message, message.payload)

    def receive(self, data: bytes) -> Iterator[ServerEvent]:
        """Take ``data``; events as they are parsed. Raises :class:`RemoteProtocolError` while iterating."""
        for message in self.wire.receive(data):
            if message is HANDSHAKEN:
                self._machine.theirs(ServerStep.HANDSHAKEN)
            elif message.type_id in _KINDS:
                # Media before our Publish.Start, or trailing after its end, is nobody's; real servers ignore it too.
                if self.state is ServerState.PUBLISHING and message.stream_id == self.stream_id:
                    yield self._media(message)
            elif message.type_id in (commands.COMMAND, commands.COMMAND_AMF3):
                yield from self._command(Command.from_message(message))

    def _command(self, command: Command) -> Iterator[ServerEvent]:
        name = command.name
        if name == "connect":
            self._connect(command)
        elif name == "createStream":
            self._create_stream(command)
        elif name in ("publish", "play"):
            yield self._requested(command)
        elif name == "FCUnpublish":
            if self.state in (ServerState.PUBLISH_REQUESTED, ServerState.PUBLISHING):
                yield from self._end("FCUnpublish")
        elif name == "deleteStream":
            if command.arguments[1:2] == (float(self.stream_id),):
                yield from self._end("deleteStream")
        elif name == "closeStream":
            if command.stream_id == self.stream_id:
                yield from self._end("closeStream")
        elif name in ("releaseStream", "FCPublish", "_checkbw", "getStreamLength"):
            self._answer_formality(command)

    def _connect(self, command: Command) -> None:
        properties = command.object(0)
        app = properties.get("app")
        if not isinstance(app, str) or not app:
            raise RemoteProtocolError(f"connect without an application: {dict(properties)!r}")
        self._machine.theirs(ServerStep.CONNECT)
        self.app, self.capabilities = app.strip("/"), dict(properties)
        self.wire.announce_window(ACK_WINDOW)
        self.wire.send(commands.set_peer_bandwidth(ACK_WINDOW))
        self.wire.send(commands.set_chunk_size(self._chunk_size))
        info = {
            "level": "status",
            "code": "NetConnection.Connect.Success",
            "description": "connected",
            "objectEncoding": 0,
        }
        self._result(command, {"fmsVer": "FMS/3,5,7,7009", "capabilities": 31}, info)

    def _create_stream(self, command: Command) -> None:
        if self._streams >= self._limits.message_streams:
            raise RemoteProtocolError(f"more message streams than the limit of {self._limits.message_streams}")
        self._machine.theirs(ServerStep.CREATE_STREAM)
        self._streams += 1
        self._result(command, None, float(self._streams))

    def _requested(self, command: Command) -> ServerEvent:
        stream = command.text(1)
        if not 1 <= command.stream_id <= self._streams:
            raise RemoteProtocolError(f"{command.name} on message stream {command.stream_id}, created: {self._streams}")
        if command.name == "publish":
            self._machine.theirs(ServerStep.PUBLISH)
            self.stream_id = command.stream_id
            return PublishRequested(self.app, stream)
        self._machine.theirs(ServerStep.PLAY)
        self.stream_id = command.stream_id
        return PlayRequested(self.app, stream)

    def _end(self, how: EndedBy) -> Iterator[ServerEvent]:
        publish = self.state in (ServerState.PUBLISH_REQUESTED, ServerState.PUBLISHING)
        play = self.state in (ServerState.PLAY_REQUESTED, ServerState.PLAYING)
        self._machine.theirs(ServerStep.END)
        if publish:
            self._status("NetStream.Unpublish.Success", "unpublished")
            yield PublishEnded(how)
        elif play:
            yield PlayEnded(how)
        self.stream_id = 0

    def _answer_formality(self, command: Command) -> None:
        # GStreamer sends releaseStream and FCPublish with transaction 0, which asks for no answer.
        if command.name == "FCPublish":
            info = {"code": "NetStream.Publish.Start", "description": "FCPublish"}
            self.wire.send(Command("onFCPublish", 0, (None, info)).to_message())
        if command.transaction:
            value = 0.0 if command.name == "getStreamLength" else amf0.UNDEFINED
            self._result(command, None, value)

    def _result(self, command: Command, *values: amf0.Value) -> None:
        self.wire.send(Command("_result", command.transaction, values).to_message())

    def _status(self, code: str, description: str, *, level: str = "status") -> None:
        self.wire.send(commands.status(self.stream_id, code, description, level=level))
