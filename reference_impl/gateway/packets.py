"""What a message of the stream is, and what a late receiver needs of those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from reference_impl.machines.keyframe_gate import PacketKind
from reference_impl.media.errors import MediaError
from reference_impl.media.flv import parse_audio, parse_video
from reference_impl.media.h264 import has_idr, has_parameter_sets
from reference_impl.media.stamp import find_stamp
from reference_impl.rtmp.messages import MediaMessage


@dataclass(frozen=True, slots=True)
class Packet:
    """One message, as far as the gateway reads it."""

    kind: PacketKind
    message: MediaMessage
    parameter_sets: bool = False
    """SPS and PPS are in this packet itself."""
    frame: int = -1
    """Number in the SEI stamp of a key frame; -1 for all others, which nobody asks."""

    def at(self, timestamp: int) -> Packet:
        """The same packet with another time stamp."""
        if timestamp == self.message.timestamp:
            return self
        message = MediaMessage(self.message.kind, timestamp, self.message.payload)
        return Packet(self.kind, message, self.parameter_sets, self.frame)


def read_packet(message: MediaMessage) -> Packet:
    """Never raises: a message that cannot be read is passed on as a picture (or sound) that opens no gate."""
    if message.kind == "script":
        return Packet(PacketKind.SCRIPT, message)
    try:
        return _read_video(message) if message.kind == "video" else _read_audio(message)
    except MediaError:
        return Packet(PacketKind.PICTURE if message.kind == "video" else PacketKind.AUDIO, message)


def _read_video(message: MediaMessage) -> Packet:
    tag = parse_video(message.payload)
    if tag.kind == "sequence_header":
        return Packet(PacketKind.VIDEO_HEADER, message)
    if tag.kind != "frame" or not tag.keyframe:
        return Packet(PacketKind.PICTURE, message)
    if tag.codec != "avc1":
        # Of other codecs only the container's flag is read.
        return Packet(PacketKind.IDR, message)
    nals = tag.nals()
    stamp = find_stamp(nals)
    kind = PacketKind.IDR if has_idr(nals) else PacketKind.PICTURE
    return Packet(kind, message, has_parameter_sets(nals), stamp.frame if stamp is not None else -1)


def _read_audio(message: MediaMessage) -> Packet:
    header = parse_audio(message.payload).kind == "sequence_header"
    return Packet(PacketKind.AUDIO_HEADER if header else PacketKind.AUDIO, message)


@dataclass(slots=True)
class Headers:
    """The last of each kind of header, in the order in which receivers want them."""

    script: Packet | None = None
    video: Packet | None = None
    audio: Packet | None = None

    def keep(self, packet: Packet) -> None:
        """Remember ``packet`` if it is a header."""
        if packet.kind is PacketKind.SCRIPT:
            self.script = packet
        elif packet.kind is PacketKind.VIDEO_HEADER:
            self.video = packet
        elif packet.kind is PacketKind.AUDIO_HEADER:
            self.audio = packet

    def packets(self, *, timestamp: int) -> Iterator[Packet]:
        """All that are known, stamped anew."""
        for packet in (self.script, self.video, self.audio):
            if packet is not None:
                yield packet.at(timestamp)


@dataclass(slots=True)
class GopCache:
    """Everything since the last IDR, for receivers that join between two."""

    limit_bytes: int = 16 * 1024 * 1024
    packets: list[Packet] = field(default_factory=list)
    _bytes: int = 0

    def keep(self, packet: Packet) -> None:
        """Add a packet that passed the gate. A GOP beyond the limit is dropped: joiners wait for the next IDR."""
        if packet.kind is PacketKind.IDR:
            self.clear()
        elif not self.packets:
            return
        self._bytes += len(packet.message.payload)
        if self._bytes > self.limit_bytes:
            self.clear()
            return
        self.packets.append(packet)

    def clear(self) -> None:
        """Forget the GOP."""
        self.packets = []
        self._bytes = 0
