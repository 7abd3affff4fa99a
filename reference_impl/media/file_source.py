"""A user's own media file as the live source: decoded, stamped, encoded again, played in a loop.

Encoded again, because only an encoder gives an IDR on demand. Picture and sound read the file each for itself and both
begin anew when the file's duration is over, so they stay together however many loops it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av

from reference_impl.media.aac import SAMPLES_PER_FRAME, AudioConfig
from reference_impl.media.encoder import AacEncoder, H264Encoder, SourceSettings
from reference_impl.media.errors import MediaError
from reference_impl.media.source import LiveSource, SourceMessage


def media_file_source(
    settings: SourceSettings,
    path: Path,
    on_message: Callable[[SourceMessage], None],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
) -> LiveSource:
    """A live source that plays ``path``; the picture is scaled into the settings' size, its proportions kept.

    Raises :class:`MediaError` for a file that cannot be read, has no video or does not say how long it is.
    """
    period, width, height, sound = _probe(path)
    scale = min(settings.width / width, settings.height / height)
    sound = sound and settings.audio
    fitted = replace(settings, width=_even(width * scale), height=_even(height * scale), audio=sound)
    audio = FileAudio(path, period=period, bitrate=fitted.audio_bitrate) if fitted.audio else None
    return LiveSource(fitted, on_message, loop=loop, video=FileVideo(fitted, path, period=period), audio=audio)


class FileVideo:
    """The file's pictures at the settings' rate: the newest that was due, repeated or left out where rates differ."""

    def __init__(self, settings: SourceSettings, path: Path, *, period: float) -> None:
        self._encoder = H264Encoder(settings)
        self.config = self._encoder.config
        self._settings = settings
        self._path = path
        self._period = period
        self._loops = -1
        self._pictures: Iterator[tuple[float, av.VideoFrame]] = iter(())
        self._next: tuple[float, av.VideoFrame] | None = None
        self._shown: av.VideoFrame | None = None

    def make(self, tick: int, *, frame: int, idr: bool) -> list[bytes]:
        """The access unit for the picture interval ``tick``; nothing if the file gives no picture at all."""
        loops, due = divmod(tick / self._settings.fps, self._period)
        if loops != self._loops:
            self._loops = int(loops)
            self._pictures = _pictures(self._path)
            self._next = next(self._pictures, None)
        newest = None
        while self._next is not None and (self._next[0] <= due or self._shown is newest is None):
            newest, self._next = self._next[1], next(self._pictures, None)
        if newest is not None:
            self._shown = newest.reformat(self._settings.width, self._settings.height, "yuv420p")
        return [] if self._shown is None else self._encoder.encode(self._shown, tick=tick, idr=idr)


class FileAudio:
    """The file's first audio track as 48 kHz stereo AAC; silence where it is shorter than the file."""

    def __init__(self, path: Path, *, period: float, bitrate: int) -> None:
        self.config = AudioConfig()
        self._encoder = AacEncoder(self.config, bitrate=bitrate)
        self._path = path
        self._period = period
        self._loops = -1
        self._blocks: Iterator[av.AudioFrame] = iter(())
        self._read = 0

    def make(self, index: int) -> bytes:
        """AAC frame number ``index`` since the source began."""
        while self._read < index:
            self._block()
        while (encoded := self._encoder.encode_frame(self._block())) is None:
            pass
        self._read = index + 1
        return encoded

    def _block(self) -> av.AudioFrame:
        loops = int(self._read * SAMPLES_PER_FRAME / self.config.rate // self._period)
        if loops != self._loops:
            self._loops, self._blocks = loops, _blocks(self._path, self.config.rate)
        self._read += 1
        return next(self._blocks, None) or _silence()


def _probe(path: Path) -> tuple[float, int, int, bool]:
    """Duration in seconds, width, height, whether there is sound."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: has no video track; give a file with pictures")
            if not container.duration:
                raise MediaError(f"{path}: does not say how long it is; put it into a container such as MP4 or MKV")
            video = container.streams.video[0].codec_context
            period = container.duration / av.time_base
            return period, video.width, video.height, bool(container.streams.audio)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}; give a file that FFmpeg can decode") from None


def _pictures(path: Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Pictures with their time in seconds from the first; a damaged file ends where it is damaged."""
    zero: float | None = None
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(container.streams.video[0]):
                if frame.time is not None:
                    zero = frame.time if zero is None else zero
                    yield frame.time - zero, frame
    except av.FFmpegError:
        return


def _blocks(path: Path, rate: int) -> Iterator[av.AudioFrame]:
    """The sound in frames of the encoder's size and format; a damaged file ends where it is damaged."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate, frame_size=SAMPLES_PER_FRAME)
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(container.streams.audio[0]):
                yield from (block for block in resampler.resample(frame) if block.samples == SAMPLES_PER_FRAME)
    except av.FFmpegError:
        return


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame(format="fltp", layout="stereo", samples=SAMPLES_PER_FRAME)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    return frame


def _even(length: float) -> int:
    return max(32, round(length / 2) * 2)
