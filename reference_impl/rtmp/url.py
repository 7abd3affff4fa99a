"""``rtmp://host[:port]/app/stream?query`` taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORT = 1935
_EXAMPLE = "write for example rtmp://gateway.test/live/cam1?key=secret"


class RtmpUrlError(ValueError):
    """Says which part of the address is wrong."""


@dataclass(frozen=True, slots=True)
class RtmpUrl:
    """Where to publish to or play from.

    ``app`` is the path up to the last slash, ``stream`` the rest with its query (stream keys travel there), both as
    they stand: RTMP knows no percent-encoding.
    """

    host: str
    port: int
    app: str
    stream: str

    @classmethod
    def parse(cls, text: str) -> RtmpUrl:
        """Raises :class:`RtmpUrlError` naming the part that is missing or wrong."""
        try:
            parts = urlsplit(text, allow_fragments=False)
            port = DEFAULT_PORT if parts.port is None else parts.port
        except ValueError as error:
            raise RtmpUrlError(f"{text!r}: {error}; {_EXAMPLE}") from None
        if parts.scheme != "rtmp":
            raise RtmpUrlError(f"{text!r}: scheme is {parts.scheme!r}, only 'rtmp' is supported; {_EXAMPLE}")
        if not parts.hostname:
            raise RtmpUrlError(f"{text!r}: no host; {_EXAMPLE}")
        if parts.username is not None:
            raise RtmpUrlError(f"{text!r}: credentials before the host; put them into the query; {_EXAMPLE}")
        if port == 0:
            raise RtmpUrlError(f"{text!r}: port 0 is none; {_EXAMPLE}")
        app, _, stream = parts.path.strip("/").rpartition("/")
        if not app or not stream:
            raise RtmpUrlError(f"{text!r}: the path needs an application and a stream; {_EXAMPLE}")
        query = f"?{parts.query}" if parts.query else ""
        return cls(parts.hostname, port, app, stream + query)

    @property
    def tc_url(self) -> str:
        """The address of the application, as the connect command gives it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rtmp://{host}:{self.port}/{self.app}"

    @property
    def name(self) -> str:
        """The stream without its query: fit for logs, since keys stand in the query."""
        return self.stream.partition("?")[0]

    def __str__(self) -> str:
        return f"{self.tc_url}/{self.stream}"
