"""What the reconnect machine is told, and what it asks for. See :mod:`reference_impl.machines.reconnect`.

``connection`` numbers TCP connections from 1 and is never used twice: it is the generation number by which a late
callback of an earlier connection is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin to publish."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing but time has passed; send one at every ``next_deadline()``."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody asked for the end."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionUp:
    """The attempt became a TCP connection; nothing has been said on it."""

    connection: int


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """The attempt came to nothing."""

    connection: int
    reason: str
    refused: bool = False
    """The other side said no (ECONNREFUSED), so that asking again at once is rude; a path that is not there
    (no route, no answer) is nobody's no."""
    hopeless: bool = False
    """Trying again cannot help: the name does not exist, and never did since the start."""


@dataclass(frozen=True, slots=True)
class PublishStarted:
    """The server answered ``NetStream.Publish.Start``."""

    connection: int


@dataclass(frozen=True, slots=True)
class PublishRefused:
    """The server answered connect or publish with an error."""

    connection: int
    code: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """An established connection ended without our doing: RST, end of file, time-out in the kernel."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class StallDetected:
    """The watchdog's verdict, once per stall."""

    connection: int
    watchdog: str
    age: float
    """Seconds without progress."""
    setting: str


@dataclass(frozen=True, slots=True)
class ProgressSeen:
    """The peer's kernel acknowledged more bytes than at the last look (or accepted more, by the watchdog's kind)."""

    connection: int
    by: str


Event = (
    Start
    | Tick
    | Stop
    | ConnectionUp
    | ConnectFailed
    | PublishStarted
    | PublishRefused
    | ConnectionLost
    | StallDetected
    | ProgressSeen
)

# --- actions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """Begin a TCP connect on a fresh socket; answer with ConnectionUp or ConnectFailed."""

    connection: int
    attempt: int


@dataclass(frozen=True, slots=True)
class StartPublish:
    """RTMP handshake, connect and publish on this connection."""

    connection: int


@dataclass(frozen=True, slots=True)
class RequestKeyframe:
    """The next encoded picture must be an IDR with parameter sets."""

    reason: str


@dataclass(frozen=True, slots=True)
class UseConnection:
    """From now on media go here: metadata and sequence headers first, and nothing before an IDR."""

    connection: int


@dataclass(frozen=True, slots=True)
class ResetConnection:
    """RST: the server shall forget it at once. Media for it have nowhere to go any more."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Give up an attempt, or close a connection whose publish was refused."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class FinishConnection:
    """Say goodbye (FCUnpublish, deleteStream), then close."""

    connection: int


@dataclass(frozen=True, slots=True)
class Ignore:
    """A callback of a connection that is no longer ours; close that connection if it still exists, and log it."""

    connection: int
    what: str


@dataclass(frozen=True, slots=True)
class Tell:
    """One telemetry event."""

    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finish:
    """The machine is in a final state: the program ends."""

    reason: str
    failed: bool


Action = (
    OpenConnection
    | StartPublish
    | RequestKeyframe
    | UseConnection
    | ResetConnection
    | CloseConnection
    | FinishConnection
    | Ignore
    | Tell
    | Finish
)
