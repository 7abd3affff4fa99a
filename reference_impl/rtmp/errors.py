"""Whose mistake it was: ours (:class:`LocalProtocolError`) or the peer's (:class:`RemoteProtocolError`)."""

from __future__ import annotations


class RtmpError(Exception):
    """Base of both; never raised itself."""


class LocalProtocolError(RtmpError):
    """Our own code asked for something that the protocol does not allow now; nothing was sent, nothing changed."""


class RemoteProtocolError(RtmpError):
    """The peer sent what RTMP does not allow, or more than our limits; the connection is of no further use."""
