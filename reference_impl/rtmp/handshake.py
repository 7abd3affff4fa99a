"""The RTMP handshake (Adobe RTMP 1.0, section 5.2), both roles, sans-IO.

We always speak the *simple* form: version bytes 0 and an echo. A peer that opens with the undocumented *complex* form
(a digest inside C1, announced by a non-zero version) sees our version 0 and falls back to the simple one; ffmpeg,
librtmp and nginx-rtmp all do. Echoes are not compared, because a peer that speaks the complex form sends a digest in
their place.

The filler is a constant, not random: nothing depends on it, and a simulated run must be the same bytes each time.
"""

from __future__ import annotations

import hashlib

from reference_impl.rtmp.errors import RemoteProtocolError

VERSION = 3
PACKET_BYTES = 1536
_ZERO_TIME_AND_VERSION = bytes(8)
_FILLER = hashlib.shake_128(b"deadair").digest(PACKET_BYTES - len(_ZERO_TIME_AND_VERSION))
_HELLO = bytes([VERSION]) + _ZERO_TIME_AND_VERSION + _FILLER


class Handshake:
    """One side's progress. ``opening`` is to be sent at once, replies when :meth:`receive` returns them."""

    opening: bytes
    _expected: int
    """Bytes that the peer sends in all until we are through."""

    def __init__(self) -> None:
        self._received = b""
        self._answered = False
        self.done = False

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes of the peer; return ``(reply, rest)``, where ``rest`` belongs to the chunk stream.

        Raises :class:`RemoteProtocolError` if the first byte is not RTMP version 3.
        """
        self._received += data
        if self._received and self._received[0] != VERSION:
            raise RemoteProtocolError(
                f"not RTMP: handshake version is {self._received[0]}, {VERSION} is the only known"
            )
        reply = b""
        if not self._answered and len(self._received) > PACKET_BYTES:
            reply = self._reply(self._received[1 : 1 + PACKET_BYTES])
            self._answered = True
        if len(self._received) < self._expected:
            return reply, b""
        self.done = True
        rest, self._received = self._received[self._expected :], b""
        return reply, rest

    def _reply(self, hello: bytes) -> bytes:
        raise NotImplementedError


class ClientHandshake(Handshake):
    """C0 and C1 at once, C2 as soon as S1 is there; through when S2 has come."""

    opening = _HELLO
    _expected = 1 + 2 * PACKET_BYTES

    def _reply(self, hello: bytes) -> bytes:
        return hello


class ServerHandshake(Handshake):
    """S0, S1 and S2 as soon as C1 is there; through when C2 has come."""

    opening = b""
    _expected = 1 + 2 * PACKET_BYTES

    def _reply(self, hello: bytes) -> bytes:
        return _HELLO + hello
