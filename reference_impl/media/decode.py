"""Video tags in, pictures out; pictures as JPEG or PNG bytes, small enough for a film strip.

After a lost or damaged picture there are none until the next key frame, whatever FFmpeg would conceal: a picture that
was made up is not one that was received.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
from av.codec.context import Flags

from reference_impl.media.errors import MediaError
from reference_impl.media.flv import VideoTag
from reference_impl.media.h264 import AvcConfig
from reference_impl.media.references import ReferenceChain

STRIP_WIDTH = 240
"""Pixels; a picture of 240x135 is about 8 kB as JPEG."""

_DECODERS: Mapping[str, str] = {"avc1": "h264", "hvc1": "hevc", "av01": "av1", "vp09": "vp9"}
_IMAGES: Mapping[str, tuple[str, str]] = {"jpeg": ("mjpeg", "yuvj420p"), "png": ("png", "rgb24")}
_JPEG_QUALITY = {"qmin": "4", "qmax": "4"}


def _context(name: str, mode: Literal["r", "w"]) -> av.VideoCodecContext:
    context = av.CodecContext.create(name, mode)
    assert isinstance(context, av.VideoCodecContext)
    return context


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture."""

    image: av.VideoFrame
    number: int = 0
    """Which frame it was: the decoder's frames count from 0 in the order in which they were fed."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.width, self.image.height

    def encoded(self, form: Literal["jpeg", "png"], *, width: int = STRIP_WIDTH) -> bytes:
        """The picture as a file's bytes, scaled to ``width`` pixels (never up)."""
        width = min(width, self.image.width) // 2 * 2
        height = max(2, round(self.image.height * width / self.image.width) // 2 * 2)
        encoder, pixels = _IMAGES[form]
        context = _context(encoder, "w")
        context.width, context.height, context.pix_fmt = width, height, pixels
        context.time_base = Fraction(1, 25)
        context.thread_count = 1
        if form == "jpeg":
            context.options = dict(_JPEG_QUALITY)
        scaled = self.image.reformat(width=width, height=height, format=pixels)
        scaled.pts = 0
        return b"".join(bytes(packet) for packet in [*context.encode(scaled), *context.encode(None)])


class Decoder:
    """Decodes one stream on the caller's thread, a picture at once for every frame of a stream without B-frames."""

    def __init__(self) -> None:
        self._context: av.VideoCodecContext | None = None
        self._header: tuple[str, bytes] | None = None
        self._chain: ReferenceChain | None = None
        self._length_size = 4
        self.intact = False
        """Whether what comes next can be shown; False from any damage to the next key frame."""
        self.fed = 0
        """Frames fed so far."""

    def reset(self) -> None:
        """Forget all pictures, as a receiver does that joins anew; the next frame must be a key frame."""
        self._context = self._header = self._chain = None
        self.intact = False

    def feed(self, tag: VideoTag) -> list[Picture]:
        """Pictures that this tag completes.

        Raises :class:`MediaError` when the tag cannot be decoded, comes out damaged, or builds on pictures that did not
        come; from then on frames are passed over in silence until a key frame comes.
        """
        if tag.kind == "sequence_header":
            self._configure(tag)
        if tag.kind != "frame":
            return []
        self.fed += 1
        self.intact = self.intact or tag.keyframe
        return self._decode(tag) if self.intact else []

    def _configure(self, tag: VideoTag) -> None:
        if self._header == (tag.codec, tag.data):
            return
        name = _DECODERS.get(tag.codec)
        if name is None:
            raise MediaError(f"no decoder for codec {tag.codec!r}; known are {', '.join(_DECODERS)}")
        if tag.codec == "avc1":
            config = AvcConfig.parse(tag.data)
            self._chain, self._length_size = ReferenceChain(config), config.length_size
        context = _context(name, "r")
        context.extradata = tag.data
        context.thread_count = 1
        context.flags |= Flags.low_delay
        self._context, self._header = context, (tag.codec, tag.data)
        self.intact = False

    def _decode(self, tag: VideoTag) -> list[Picture]:
        if self._context is None:
            raise self._broken("a frame came before any sequence header")
        if self._chain is not None:
            try:
                self._chain.follow(tag.nals(length_size=self._length_size))
            except MediaError as error:
                raise self._broken(str(error)) from None
        packet = av.Packet(tag.data)
        packet.pts = packet.dts = self.fed - 1
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            raise self._broken(f"decoder: {error.strerror}") from None
        if any(frame.is_corrupt for frame in frames):
            raise self._broken("decoder: the picture is damaged")
        return [Picture(frame, frame.pts or 0) for frame in frames]

    def _broken(self, what: str) -> MediaError:
        self.intact = False
        return MediaError(what)
