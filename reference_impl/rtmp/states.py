"""The two state machines of RTMP, as tables.

A step that the table does not allow raises and changes nothing: :class:`LocalProtocolError` when our own code took
it, :class:`RemoteProtocolError` when the peer did.

Client: it publishes or plays one stream.

    IDLE ─START─► HANDSHAKE ─HANDSHAKEN─► CONNECTING ─CONNECTED─► OPENING ─OPENED─► REQUESTED ─STARTED─► ACTIVE
    ACTIVE ─ENDED─► OVER ─STARTED─► ACTIVE          any of these ─REFUSED─► REFUSED     any ─FINISH─► FINISHED

Server: a connection carries one publish or one play at a time.

    HANDSHAKE ─HANDSHAKEN─► UNCONNECTED ─CONNECT─► CONNECTED ─PUBLISH─► PUBLISH_REQUESTED ─ACCEPT─► PUBLISHING
                                                       │ ▲                     │ REFUSE                  │ END
                                                       │ └─────────────────────┴─────────────────────────┘
                                                       └─PLAY─► PLAY_REQUESTED ─ACCEPT─► PLAYING  (likewise)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, NoReturn, TypeVar

from reference_impl.rtmp.errors import LocalProtocolError, RemoteProtocolError


class ClientState(Enum):
    """Where a client stands."""

    IDLE = "not started"
    HANDSHAKE = "shaking hands"
    CONNECTING = "connecting to the application"
    OPENING = "waiting for a message stream"
    REQUESTED = "waiting for the server to start the stream"
    ACTIVE = "active"
    OVER = "ended by the server"
    REFUSED = "refused"
    FINISHED = "finished"


class ClientStep(Enum):
    """What moves a client."""

    START = "start"
    HANDSHAKEN = "handshake"
    CONNECTED = "connect result"
    OPENED = "createStream result"
    STARTED = "start of the stream"
    ENDED = "end of the stream"
    REFUSED = "refusal"
    FINISH = "finish"


class ServerState(Enum):
    """Where a server's connection stands."""

    HANDSHAKE = "shaking hands"
    UNCONNECTED = "waiting for connect"
    CONNECTED = "connected"
    PUBLISH_REQUESTED = "publish requested"
    PUBLISHING = "publishing"
    PLAY_REQUESTED = "play requested"
    PLAYING = "playing"


class ServerStep(Enum):
    """What moves a server's connection."""

    HANDSHAKEN = "handshake"
    CONNECT = "connect"
    CREATE_STREAM = "createStream"
    PUBLISH = "publish"
    PLAY = "play"
    ACCEPT_PUBLISH = "accept_publish"
    REFUSE_PUBLISH = "refuse_publish"
    ACCEPT_PLAY = "accept_play"
    REFUSE_PLAY = "refuse_play"
    END = "end of the stream"


State = TypeVar("State", bound=Enum)
Step = TypeVar("Step", bound=Enum)
Table = Mapping[State, Mapping[Step, State]]

_C, _CS = ClientState, ClientStep
CLIENT: Table[ClientState, ClientStep] = {
    _C.IDLE: {_CS.START: _C.HANDSHAKE, _CS.FINISH: _C.FINISHED},
    _C.HANDSHAKE: {_CS.HANDSHAKEN: _C.CONNECTING, _CS.FINISH: _C.FINISHED},
    _C.CONNECTING: {_CS.CONNECTED: _C.OPENING, _CS.REFUSED: _C.REFUSED, _CS.FINISH: _C.FINISHED},
    _C.OPENING: {_CS.OPENED: _C.REQUESTED, _CS.REFUSED: _C.REFUSED, _CS.FINISH: _C.FINISHED},
    _C.REQUESTED: {
        _CS.STARTED: _C.ACTIVE,
        _CS.ENDED: _C.OVER,
        _CS.REFUSED: _C.REFUSED,
        _CS.FINISH: _C.FINISHED,
    },
    _C.ACTIVE: {_CS.STARTED: _C.ACTIVE, _CS.ENDED: _C.OVER, _CS.REFUSED: _C.REFUSED, _CS.FINISH: _C.FINISHED},
    _C.OVER: {_CS.STARTED: _C.ACTIVE, _CS.ENDED: _C.OVER, _CS.REFUSED: _C.REFUSED, _CS.FINISH: _C.FINISHED},
    # After a refusal of connect, the answers to what was pipelined behind it still come.
    _C.REFUSED: {
        _CS.CONNECTED: _C.REFUSED,
        _CS.OPENED: _C.REFUSED,
        _CS.STARTED: _C.REFUSED,
        _CS.ENDED: _C.REFUSED,
        _CS.REFUSED: _C.REFUSED,
        _CS.FINISH: _C.FINISHED,
    },
    _C.FINISHED: {_CS.FINISH: _C.FINISHED},
}

_S, _SS = ServerState, ServerStep
SERVER: Table[ServerState, ServerStep] = {
    _S.HANDSHAKE: {_SS.HANDSHAKEN: _S.UNCONNECTED},
    _S.UNCONNECTED: {_SS.CONNECT: _S.CONNECTED},
    _S.CONNECTED: {
        _SS.CREATE_STREAM: _S.CONNECTED,
        _SS.PUBLISH: _S.PUBLISH_REQUESTED,
        _SS.PLAY: _S.PLAY_REQUESTED,
        _SS.END: _S.CONNECTED,
    },
    _S.PUBLISH_REQUESTED: {
        _SS.CREATE_STREAM: _S.PUBLISH_REQUESTED,
        _SS.ACCEPT_PUBLISH: _S.PUBLISHING,
        _SS.REFUSE_PUBLISH: _S.CONNECTED,
        _SS.END: _S.CONNECTED,
    },
    _S.PUBLISHING: {
        _SS.CREATE_STREAM: _S.PUBLISHING,
        _SS.REFUSE_PUBLISH: _S.CONNECTED,
        _SS.END: _S.CONNECTED,
    },
    _S.PLAY_REQUESTED: {
        _SS.CREATE_STREAM: _S.PLAY_REQUESTED,
        _SS.ACCEPT_PLAY: _S.PLAYING,
        _SS.REFUSE_PLAY: _S.CONNECTED,
        _SS.END: _S.CONNECTED,
    },
    _S.PLAYING: {_SS.CREATE_STREAM: _S.PLAYING, _SS.END: _S.CONNECTED},
}


class Machine(Generic[State, Step]):
    """A state, and the table that says where it may go."""

    def __init__(self, table: Table[State, Step], start: State) -> None:
        self.state = start
        self._table = table

    def ours(self, step: Step) -> None:
        """We take ``step``; :class:`LocalProtocolError` if the table has none."""
        self._take(step, LocalProtocolError)

    def theirs(self, step: Step) -> None:
        """The peer takes ``step``; :class:`RemoteProtocolError` if the table has none."""
        self._take(step, RemoteProtocolError)

    def misused(self, what: str) -> NoReturn:
        """Raise :class:`LocalProtocolError`: our own code asked for ``what`` in a state that has no place for it."""
        raise LocalProtocolError(f"{what} while {self.state.value}")

    def _take(self, step: Step, error: type[LocalProtocolError] | type[RemoteProtocolError]) -> None:
        following = self._table[self.state].get(step)
        if following is None:
            allowed = ", ".join(s.value for s in self._table[self.state])
            raise error(f"{step.value} while {self.state.value}; allowed now: {allowed}")
        self.state = following
