"""A live source on the event loop: pictures and sound on time, with time stamps that never start again.

One timer drives it. At each tick it takes one picture, stamps it, and hands over the audio that is due. It never
drifts, because every tick is counted from the start; if the loop was late by a picture or more, the source skips
forward and counts what it skipped, as a camera does, instead of sending a burst. It does not know about connections:
it goes on while the sender reconnects, and its media clock with it.

What makes the pictures is behind :class:`VideoMaker` and :class:`AudioMaker`: the test picture
(``testcard.py``), a media file (``file_source.py``), or prepared access units.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from reference_impl.media import flv
from reference_impl.media.aac import SAMPLES_PER_FRAME, AudioConfig
from reference_impl.media.encoder import SourceSettings
from reference_impl.media.h264 import AvcConfig, has_idr
from reference_impl.media.stamp import FrameStamp, insert_stamp
from reference_impl.media.testcard import PictureVideo, ToneAudio
from reference_impl.rtmp.messages import MediaMessage

# Slack against rounding when a timer fires a hair before its picture is due.
_ROUNDING_S = 1e-6


class VideoMaker(Protocol):
    """Makes access units."""

    config: AvcConfig

    def make(self, tick: int, *, frame: int, idr: bool) -> list[bytes]:
        """NAL units of one picture, with parameter sets in front of an IDR.

        ``tick`` is the picture's time in picture intervals since the start, ``frame`` counts the pictures made (the two
        differ by what was skipped), ``idr`` demands an IDR; an IDR may come undemanded.
        """


class AudioMaker(Protocol):
    """Makes AAC frames."""

    config: AudioConfig

    def make(self, index: int) -> bytes:
        """Raw AAC frame for the samples from ``index * 1024`` on, counted from the start."""


@dataclass(frozen=True, slots=True)
class SourceMessage(MediaMessage):
    """A message with what its sender may want to know without parsing it."""

    frame: int = -1
    """Number of the picture, as in its stamp; -1 for audio and headers."""
    idr: bool = False
    reason: str = ""
    """Why an IDR was made: what :meth:`LiveSource.request_keyframe` was given, or ``"interval"``."""


@dataclass(slots=True)
class SourceCounts:
    """What a source did since it was made."""

    frames: int = 0
    skipped: int = 0
    """Pictures that were never taken, because the loop was late."""
    keyframes: int = 0
    video_bytes: int = 0
    audio_packets: int = 0


class LiveSource:
    """Calls ``on_message`` for every picture and audio frame, in the order of their time stamps.

    ``loop`` gives clock and timers (``time`` and ``call_at``); its clock is what pictures are stamped with. Without
    ``video`` and ``audio`` the test picture and the test tone are made.
    """

    def __init__(
        self,
        settings: SourceSettings,
        on_message: Callable[[SourceMessage], None],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        video: VideoMaker | None = None,
        audio: AudioMaker | None = None,
        source_id: bytes | None = None,
    ) -> None:
        self.settings = settings
        self.counts = SourceCounts()
        self.source_id = source_id or os.urandom(8)
        self._on_message = on_message
        self._loop = loop or asyncio.get_running_loop()
        self._video: VideoMaker = video or PictureVideo(settings)
        self._audio: AudioMaker | None = audio
        if audio is None and settings.audio:
            self._audio = ToneAudio(bitrate=settings.audio_bitrate)
        self._wanted: str | None = "start"
        self._zero: float | None = None
        self._next_tick = 0
        self._next_audio = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take the first picture now. After :meth:`stop` the media clock goes on as if there had been no pause."""
        if self._timer is not None:
            return
        if self._zero is None:
            self._zero = self._loop.time()
        else:
            self._next_tick, self._next_audio = self._due_tick(), self._due_audio(self._due_tick())
        self._timer = self._loop.call_at(self._time_of(self._next_tick), self._tick)

    def stop(self) -> None:
        """Take no more pictures."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def request_keyframe(self, reason: str) -> None:
        """Make the next picture an IDR with parameter sets. Of several requests before it, the first is named."""
        self._wanted = self._wanted or reason

    def sequence_headers(self) -> list[MediaMessage]:
        """Metadata and codec configuration, to be sent first on every connection.

        The codec configuration is stamped with the present media time, metadata always with 0 as all encoders do:
        FFmpeg takes metadata with another time stamp for a subtitle track.
        """
        now = self._timestamp(max(self._next_tick - 1, 0))
        headers = [
            MediaMessage("script", 0, self._metadata()),
            MediaMessage("video", now, flv.video_sequence_header(self._video.config)),
        ]
        if self._audio is not None:
            headers.append(MediaMessage("audio", now, flv.audio_sequence_header(self._audio.config)))
        return headers

    def _metadata(self) -> bytes:
        values: dict[str, float | bool | str] = {
            "width": float(self.settings.width),
            "height": float(self.settings.height),
            "framerate": float(self.settings.fps),
            "videocodecid": 7.0,
            "videodatarate": self.settings.bitrate / 1000,
            "encoder": "deadair",
        }
        if self._audio is not None:
            rate = float(self._audio.config.rate)
            values |= {"audiocodecid": 10.0, "audiosamplerate": rate, "stereo": self._audio.config.channels == 2}
        return flv.metadata(values)

    # --- time --------------------------------------------------------------------------------------------------

    def _time_of(self, tick: int) -> float:
        return (self._zero or 0.0) + tick / self.settings.fps

    def _due_tick(self) -> int:
        """The newest picture interval that has begun."""
        return int((self._loop.time() - (self._zero or 0.0) + _ROUNDING_S) * self.settings.fps)

    def _due_audio(self, tick: int) -> int:
        """The first audio frame that begins after the picture of ``tick``."""
        rate = self._audio.config.rate if self._audio is not None else 0
        return tick * rate // (self.settings.fps * SAMPLES_PER_FRAME) + 1

    def _timestamp(self, tick: int) -> int:
        return tick * 1000 // self.settings.fps

    # --- media -------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        tick = max(self._due_tick(), self._next_tick)
        skipped = tick - self._next_tick
        if skipped:
            self.counts.skipped += skipped
            self._next_audio = self._due_audio(tick - 1)
        self._next_tick = tick + 1
        self._timer = self._loop.call_at(self._time_of(self._next_tick), self._tick)
        self._send_audio(tick)
        self._send_picture(tick)

    def _send_audio(self, tick: int) -> None:
        if self._audio is None:
            return
        until, rate = self._due_audio(tick), self._audio.config.rate
        while self._next_audio < until:
            index = self._next_audio
            self._next_audio = index + 1
            self.counts.audio_packets += 1
            timestamp = index * SAMPLES_PER_FRAME * 1000 // rate
            self._on_message(SourceMessage("audio", timestamp, flv.audio_frame(self._audio.make(index))))

    def _send_picture(self, tick: int) -> None:
        captured_ns = round(self._loop.time() * 1e9)
        frame, wanted = self.counts.frames, self._wanted
        nals = self._video.make(tick, frame=frame, idr=wanted is not None)
        if not nals:
            return
        idr = has_idr(nals)
        if idr:
            self._wanted = None
        payload = flv.video_frame(insert_stamp(nals, FrameStamp(frame, captured_ns, self.source_id)), keyframe=idr)
        self.counts.frames += 1
        self.counts.keyframes += idr
        self.counts.video_bytes += len(payload)
        reason = (wanted or "interval") if idr else ""
        self._on_message(SourceMessage("video", self._timestamp(tick), payload, frame, idr, reason))
