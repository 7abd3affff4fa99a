"""libx264 and FFmpeg's AAC, set for a live source: every picture comes out at once, the bit rate is honest.

``nal-hrd=cbr`` with a VBV buffer of half a second makes libx264 fill up easy pictures with filler NAL units, so that
2 Mbit/s are 2 Mbit/s whatever the picture shows. No B-frames, one reference, one thread: one picture in, one access
unit out, on the caller's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
from av.codec.context import Flags
from av.video.frame import PictureType

from reference_impl.media.aac import SAMPLES_PER_FRAME, AudioConfig
from reference_impl.media.errors import MediaError
from reference_impl.media.h264 import AvcConfig, NalType, nal_type, split_annexb

VBV_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """What a live source makes."""

    width: int = 640
    height: int = 360
    fps: int = 30
    bitrate: int = 2_000_000
    """Video, bits per second."""
    gop_s: float = 2.0
    """Distance of IDR pictures that nobody asked for, in seconds."""
    audio: bool = True
    audio_bitrate: int = 128_000
    label: str = "DEADAIR"

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 32:
            raise MediaError(f"picture size {self.width}x{self.height}: both must be even and at least 32")
        if not 1 <= self.fps <= 240:
            raise MediaError(f"{self.fps} pictures per second: must be 1 to 240")
        if self.bitrate < 50_000:
            raise MediaError(f"video bit rate {self.bitrate} bit/s: must be at least 50 kbit/s")
        if self.gop_s * self.fps < 1:
            raise MediaError(f"GOP of {self.gop_s} s is shorter than one picture")

    @property
    def gop_frames(self) -> int:
        """Pictures from one IDR to the next."""
        return round(self.gop_s * self.fps)


class H264Encoder:
    """One picture in, the NAL units of one access unit out."""

    def __init__(self, settings: SourceSettings) -> None:
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = settings.width, settings.height, "yuv420p"
        context.framerate, context.time_base = Fraction(settings.fps), Fraction(1, settings.fps)
        context.bit_rate, context.gop_size, context.max_b_frames = settings.bitrate, settings.gop_frames, 0
        context.thread_count = 1
        context.flags |= Flags.global_header
        context.options = _x264_options(settings)
        context.open()
        self._context = context
        self.config = AvcConfig.from_nals(split_annexb(context.extradata or b""))

    def encode(self, frame: av.VideoFrame, *, tick: int, idr: bool) -> list[bytes]:
        """NAL units of the picture, parameter sets in front of every IDR. ``tick`` is its time in picture intervals."""
        frame.pts, frame.time_base = tick, self._context.time_base
        frame.pict_type = PictureType.I if idr else PictureType.NONE
        nals = [nal for packet in self._context.encode(frame) for nal in split_annexb(bytes(packet))]
        if any(nal_type(nal) == NalType.IDR for nal in nals):
            return [*self.config.parameter_sets, *nals]
        return nals


def _x264_options(settings: SourceSettings) -> dict[str, str]:
    kilobits = settings.bitrate // 1000
    details = {
        "nal-hrd": "cbr",
        "vbv-maxrate": kilobits,
        "vbv-bufsize": round(kilobits * VBV_SECONDS),
        "keyint": settings.gop_frames,
        "min-keyint": 1,
        "scenecut": 0,
        "force-cfr": 1,
    }
    return {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "profile": "baseline",
        "forced-idr": "1",
        "x264-params": ":".join(f"{name}={value}" for name, value in details.items()),
    }


class AacEncoder:
    """1024 samples of planar float per channel in, at most one AAC frame out (the first two calls only prime it)."""

    def __init__(self, config: AudioConfig, *, bitrate: int) -> None:
        context = av.CodecContext.create("aac", "w")
        context.sample_rate, context.layout, context.format = config.rate, "stereo", "fltp"
        context.bit_rate, context.time_base = bitrate, Fraction(1, config.rate)
        context.open()
        self._context = context
        self._config = config
        self._samples = 0

    def encode(self, channels: tuple[bytes, bytes]) -> bytes | None:
        """One frame of raw AAC (no ADTS header), or None while the encoder still collects."""
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=SAMPLES_PER_FRAME)
        for plane, samples in zip(frame.planes, channels, strict=True):
            plane.update(samples)
        return self.encode_frame(frame)

    def encode_frame(self, frame: av.AudioFrame) -> bytes | None:
        """The same for a frame in the encoder's own format."""
        frame.sample_rate, frame.time_base, frame.pts = self._config.rate, Fraction(1, self._config.rate), self._samples
        self._samples += SAMPLES_PER_FRAME
        packets = self._context.encode(frame)
        return bytes(packets[0]) if packets else None
