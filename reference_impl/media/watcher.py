"""What a receiver of media sees: the first picture, freezes, gaps, delay.

Laws:

1. With a decoder, a picture counts as seen only when it decodes **and** everything it builds on was received: after a
   missing stamp, or on a new connection, nothing is seen until an IDR. Without one (a gateway's ingest) every video
   frame counts that is not older than one before it.
2. A freeze begins when the last picture seen is ``freeze_after`` old and ends with the next picture seen, whatever
   connections came and went between; only :meth:`MediaWatcher.close` ends the watch.
3. A run of pictures that cannot be shown is told once, with the reason, and ends at the next IDR.

The watcher has no timer: its owner calls :meth:`MediaWatcher.tick` at :attr:`MediaWatcher.deadline`. ``now`` is in
seconds on the clock of the stamps, CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from reference_impl.media import flv
from reference_impl.media.album import Album, Moment
from reference_impl.media.decode import Decoder, Picture
from reference_impl.media.errors import MediaError
from reference_impl.media.h264 import AvcConfig, has_idr, has_parameter_sets
from reference_impl.media.sequence import Arrival, Sequence
from reference_impl.media.stamp import find_stamp
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import Telemetry

# H.264's decoded picture buffer holds at most 16 frames (section A.3.1), so older ones will never come out.
_REORDERED_AT_MOST = 16
_NO_IDR_YET = "no IDR since the connection began"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatcherSettings:
    """Durations in seconds."""

    freeze_after: float = 0.5
    progress_every: float = 0.5


class View(Enum):
    """What a person in front of the screen would say."""

    WAITING = "waiting for the first picture"
    MOVING = "moving"
    FROZEN = "frozen"
    CLOSED = "closed"


@dataclass(slots=True)
class Counts:
    """Since the watcher was made."""

    frames: int = 0
    """Pictures seen."""
    video_bytes: int = 0
    audio_packets: int = 0
    freezes: int = 0
    missing: int = 0
    """Pictures between two seen ones that were not seen."""
    last_frame: int = -1


@dataclass(frozen=True, slots=True)
class _Frame:
    """One video frame as it arrived."""

    tag: flv.VideoTag
    arrival: Arrival
    idr: bool
    parameter_sets: bool
    captured_ns: int | None

    def delay_ms(self, now: float) -> float | None:
        return None if self.captured_ns is None else _ms(now - self.captured_ns / 1e9)


class MediaWatcher:
    """Takes the messages of one stream and tells ``media:*``, ``keyframe:received`` and ``picture:saved``."""

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        settings: WatcherSettings | None = None,
        decoder: Decoder | None = None,
        album: Album | None = None,
    ) -> None:
        self.settings = settings or WatcherSettings()
        self.view = View.WAITING
        self.counts = Counts()
        self._telemetry = telemetry
        self._decoder = decoder
        self._album = album
        self._sequence = Sequence()
        self._config: AvcConfig | None = None
        self._fresh = True
        self._broken = _NO_IDR_YET
        self._run_told = False
        self._unseen = 0
        self._last_seen = 0.0
        self._last_picture: Picture | None = None
        self._inside: dict[int, _Frame] = {}
        self._next_progress = 0.0
        self._delay: float | None = None
        self._delay_max: float | None = None
        self._longest_gap = 0.0

    # --- what the owner calls ----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` is wanted next; None while there is nothing to wait for."""
        if self.view in (View.WAITING, View.CLOSED):
            return None
        if self.view is View.MOVING:
            return min(self._next_progress, self._freezes_at)
        return self._next_progress

    @property
    def _freezes_at(self) -> float:
        return self._last_seen + self.settings.freeze_after

    def connection_started(self) -> None:
        """Messages from now on come over a new connection: headers come anew, and so must an IDR."""
        self._sequence.connection_started()
        self._config = None
        self._fresh = True
        self._broken, self._run_told = _NO_IDR_YET, False
        if self._decoder is not None:
            self._decoder.reset()

    def feed(self, message: MediaMessage, *, now: float) -> None:
        """One message arrived. What cannot be read is told, never raised."""
        if self.view is View.CLOSED:
            return
        try:
            if message.kind == "audio":
                self.counts.audio_packets += flv.parse_audio(message.payload).kind == "frame"
            elif message.kind == "video":
                self.counts.video_bytes += len(message.payload)
                self._video(message, now)
        except MediaError as error:
            self._undecodable(-1, str(error))

    def tick(self, *, now: float) -> None:
        """Time has passed."""
        if self.view is View.MOVING and now >= self._freezes_at:
            self._freeze(now)
        if self.view in (View.MOVING, View.FROZEN) and now >= self._next_progress:
            self._progress(now)

    def close(self, reason: str) -> None:
        """The watch ends; idempotent."""
        if self.view is not View.CLOSED:
            self.view = View.CLOSED
            self._telemetry.tell(
                "media:ended", frames=self.counts.frames, last_frame=self.counts.last_frame, reason=reason
            )

    def status(self) -> dict[str, Any]:
        """For a program's ``status`` verb."""
        return {
            "view": self.view.value,
            "frames": self.counts.frames,
            "last_frame": self.counts.last_frame,
            "video_bytes": self.counts.video_bytes,
            "audio_packets": self.counts.audio_packets,
            "freezes": self.counts.freezes,
            "missing": self.counts.missing,
            "delay_ms": self._delay,
        }

    # --- arrival -----------------------------------------------------------------------------------------------

    def _video(self, message: MediaMessage, now: float) -> None:
        tag = flv.parse_video(message.payload)
        if tag.kind == "sequence_header":
            self._header(tag)
        elif tag.kind == "frame":
            frame = self._read(tag, message.timestamp)
            self._tell_order(frame)
            for each, picture in self._show(frame):
                self._see(each, picture, now)

    def _header(self, tag: flv.VideoTag) -> None:
        if tag.codec == "avc1":
            self._config = AvcConfig.parse(tag.data)
        if self._decoder is not None:
            self._decoder.feed(tag)

    def _read(self, tag: flv.VideoTag, dts_ms: int) -> _Frame:
        nals = tag.nals(length_size=self._config.length_size if self._config is not None else 4)
        stamp = find_stamp(nals)
        return _Frame(
            tag,
            self._sequence.judge(stamp, dts_ms=dts_ms),
            has_idr(nals) if tag.codec == "avc1" else tag.keyframe,
            self._config is not None or has_parameter_sets(nals),
            None if stamp is None else stamp.captured_ns,
        )

    def _tell_order(self, frame: _Frame) -> None:
        arrival, tell = frame.arrival, self._telemetry.tell
        first, self._fresh = self._fresh, False
        if arrival.previous is not None:
            tell("media:disordered", previous=arrival.previous, frame=arrival.frame, method=arrival.method)
        if arrival.replaced is not None:
            tell("media:source_changed", previous=arrival.replaced.hex(), frame=arrival.frame)
            self._break("another source began without an IDR")
        if arrival.missing:
            self._tell_missing(arrival)
        if frame.idr or frame.tag.keyframe:
            sets = frame.parameter_sets
            tell("keyframe:received", frame=arrival.frame, idr=frame.idr, parameter_sets=sets, first=first)

    def _tell_missing(self, arrival: Arrival) -> None:
        if arrival.method == "dts":
            self._unseen += arrival.missing
            if self.view is not View.MOVING:
                # `media:resumed` will count them; without numbers nobody could see that they are the same.
                return
        else:
            self._break(f"{arrival.missing} frames are missing before it")
        last = arrival.first_missing + arrival.missing - 1
        self._telemetry.tell("media:skipped", first=arrival.first_missing, last=last, method=arrival.method)

    def _break(self, reason: str) -> None:
        """What follows builds on pictures that are not there."""
        if not self._broken:
            self._broken, self._run_told = reason, False

    # --- showing -----------------------------------------------------------------------------------------------

    def _show(self, frame: _Frame) -> list[tuple[_Frame, Picture | None]]:
        """What is seen now, with its picture if somebody decodes: this frame, earlier ones (B-frames), or nothing."""
        if frame.arrival.previous is not None:
            return []
        if self._decoder is None:
            return [(frame, None)]
        if frame.idr:
            self._broken, self._run_told = "", False
        # Streams without stamps may have recovery points that are no IDR: there the decoder alone decides.
        if self._broken and frame.arrival.method == "sei":
            self._undecodable(frame.arrival.frame, self._broken)
            return []
        return self._decode(self._decoder, frame)

    def _decode(self, decoder: Decoder, frame: _Frame) -> list[tuple[_Frame, Picture | None]]:
        self._inside.pop(decoder.fed - _REORDERED_AT_MOST, None)
        self._inside[decoder.fed] = frame
        try:
            pictures = decoder.feed(frame.tag)
        except MediaError as error:
            self._break(str(error))
            self._undecodable(frame.arrival.frame, str(error))
            pictures = []
        # Without a picture the frame may only wait to be shown in order; damaged ones will never be.
        self._unseen += not decoder.intact
        return [(self._inside.pop(picture.number, frame), picture) for picture in pictures]

    def _undecodable(self, frame: int, error: str) -> None:
        if not self._run_told:
            self._run_told = True
            self._telemetry.tell("media:undecodable", frame=frame, error=error)

    def _see(self, frame: _Frame, picture: Picture | None, now: float) -> None:
        gap = now - self._last_seen
        if self.view is View.MOVING and now >= self._freezes_at:
            # The loop was late with the tick: the freeze was there all the same.
            self._freeze(now)
        self._last_picture = picture
        delay = frame.delay_ms(now)
        if self.view is View.WAITING:
            self._start(frame, delay, now)
        else:
            self._longest_gap = max(self._longest_gap, gap)
            missing = self._missing_before(frame)
            self.counts.missing += missing
            if self.view is View.FROZEN:
                self._resume(frame, missing, gap, delay)
        self._last_seen, self._unseen = now, 0
        self.counts.frames += 1
        self.counts.last_frame = frame.arrival.frame
        self._delay = delay
        if delay is not None:
            self._delay_max = max(delay, self._delay_max or 0.0)

    def _missing_before(self, frame: _Frame) -> int:
        """Pictures between the last one seen and this one."""
        last = self.counts.last_frame
        if frame.arrival.method == "sei" and last >= 0 and frame.arrival.replaced is None:
            return max(0, frame.arrival.frame - last - 1)
        return self._unseen if frame.arrival.method == "dts" else 0

    # --- telling -----------------------------------------------------------------------------------------------

    def _start(self, frame: _Frame, delay: float | None, now: float) -> None:
        self.view = View.MOVING
        self._next_progress = now + self.settings.progress_every
        self._telemetry.tell(
            "media:started",
            frame=frame.arrival.frame,
            idr=frame.idr,
            parameter_sets=frame.parameter_sets,
            decoded=self._last_picture is not None,
            delay_ms=delay,
        )
        self._save("first", frame.arrival.frame)

    def _freeze(self, now: float) -> None:
        self.view = View.FROZEN
        self.counts.freezes += 1
        self._telemetry.tell(
            "media:frozen",
            last_frame=self.counts.last_frame,
            after_ms=_ms(now - self._last_seen),
            setting=f"freeze_after={self.settings.freeze_after * 1000:g} ms",
        )
        self._save("before_freeze", self.counts.last_frame)

    def _resume(self, frame: _Frame, missing: int, gap: float, delay: float | None) -> None:
        self.view = View.MOVING
        self._telemetry.tell(
            "media:resumed",
            last_frame=self.counts.last_frame,
            frame=frame.arrival.frame,
            gap_ms=_ms(gap),
            missing=missing,
            idr=frame.idr,
            parameter_sets=frame.parameter_sets,
            decoded=self._last_picture is not None,
            delay_ms=delay,
            method=frame.arrival.method,
        )
        self._save("after_freeze", frame.arrival.frame)

    def _progress(self, now: float) -> None:
        every = self.settings.progress_every
        self._next_progress += every * (1 + int((now - self._next_progress) / every))
        self._telemetry.tell(
            "media:progressed",
            frames=self.counts.frames,
            last_frame=self.counts.last_frame,
            video_bytes=self.counts.video_bytes,
            audio_packets=self.counts.audio_packets,
            delay_ms=self._delay,
            delay_max_ms=self._delay_max,
            longest_gap_ms=_ms(max(self._longest_gap, now - self._last_seen)),
        )
        self._delay = self._delay_max = None
        self._longest_gap = 0.0

    def _save(self, moment: Moment, frame: int) -> None:
        if self._album is not None and self._last_picture is not None:
            self._album.save(self._last_picture, frame=frame, moment=moment)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
