"""Who may publish: a stream key per stream, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked to publish or play: ``cam1?key=secret&client=phone`` taken apart."""

    stream: str
    """``app/name`` without the query."""
    key: str
    client: str
    """A token that the client chose for itself; it shows that a newcomer is the same client come back."""


def read_request(app: str, text: str) -> Request:
    """``text`` is the stream name with its query; of a parameter given twice the last one counts."""
    name, _, query = text.partition("?")
    # The query may be stuck to the application (``rtmp://host/live?key=…/cam1`` is what some encoders make of it).
    app, _, more = app.partition("?")
    fields = parse_qs(f"{more}&{query}", keep_blank_values=True)
    return Request(f"{app.strip('/')}/{name}", fields.get("key", [""])[-1], fields.get("client", [""])[-1])


class StreamKeys:
    """The streams that exist and their keys."""

    def __init__(self, streams: Mapping[str, str]) -> None:
        self._keys = dict(streams)

    def admits(self, request: Request) -> bool:
        """Whether the key is right. An unknown stream takes as long to refuse as a wrong key."""
        key = self._keys.get(request.stream)
        right = hmac.compare_digest(request.key.encode(), (key if key is not None else "").encode())
        return right and key is not None
