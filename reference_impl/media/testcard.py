"""The synthetic source: test picture and test tone, encoded."""

from __future__ import annotations

from array import array
from math import pi, sin

import av

from reference_impl.media.aac import SAMPLES_PER_FRAME, AudioConfig
from reference_impl.media.encoder import AacEncoder, H264Encoder, SourceSettings
from reference_impl.media.picture import ClockPicture


class ToneAudio:
    """An endless 1 kHz tone at -20 dBFS whose left channel pauses for 0.25 s every 2 s, as AAC frames.

    Eight seconds are 375 frames and 8,000 periods exactly, so they are encoded once, as they are first needed, and then
    repeated: a running source spends nothing on audio.
    """

    _LOOP = 375
    _PERIOD = 48
    _PRIMING = 2

    def __init__(self, *, bitrate: int = 128_000) -> None:
        self.config = AudioConfig()
        self._encoder = AacEncoder(self.config, bitrate=bitrate)
        wave = array("f", (0.1 * sin(2 * pi * step / self._PERIOD) for step in range(self._PERIOD)))
        self._tone = wave.tobytes() * (SAMPLES_PER_FRAME // self._PERIOD + 2)
        self._silence = bytes(4 * SAMPLES_PER_FRAME)
        self._fed = -self._PRIMING
        self._frames: list[bytes] = []

    def make(self, index: int) -> bytes:
        """AAC frame number ``index`` since the source began."""
        while len(self._frames) <= index % self._LOOP:
            self._encode_next()
        return self._frames[index % self._LOOP]

    def _encode_next(self) -> None:
        sample = self._fed * SAMPLES_PER_FRAME
        start = 4 * (sample % self._PERIOD)
        tone = self._tone[start : start + 4 * SAMPLES_PER_FRAME]
        silent = 0 <= sample % (2 * self.config.rate) < self.config.rate // 4
        encoded = self._encoder.encode((self._silence if silent else tone, tone))
        self._fed += 1
        if encoded is not None and self._fed > 0:
            self._frames.append(encoded)


class PictureVideo:
    """The test picture, encoded."""

    def __init__(self, settings: SourceSettings) -> None:
        self._encoder = H264Encoder(settings)
        self.config = self._encoder.config
        self._fps = settings.fps
        self._frame = av.VideoFrame(settings.width, settings.height, "yuv420p")
        planes = [memoryview(plane) for plane in self._frame.planes]
        strides = [plane.line_size for plane in self._frame.planes]
        self._picture = ClockPicture(settings.width, settings.height, strides=strides, label=settings.label)
        self._luma = planes[0]
        self._picture.draw_colour(planes[1], planes[2])

    def make(self, tick: int, *, frame: int, idr: bool) -> list[bytes]:
        """The access unit for the picture interval ``tick``, in which ``frame`` pictures came before."""
        self._picture.draw(self._luma, frame=frame, media_ms=tick * 1000 // self._fps)
        return self._encoder.encode(self._frame, tick=tick, idr=idr)
