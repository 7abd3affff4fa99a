"""Nothing passes after a gap until a picture that can be decoded by itself.

Laws of :class:`KeyframeGate` (one per session, between the ingest and everything that receives):

1. The gate is closed at the start, at each new epoch, and at a break of the publisher's own timeline. It opens at an
   IDR whose parameter sets are known: in a sequence header of the same epoch, or in band. Until then no frame passes.
2. Audio waits with the video: sound that runs ahead of a frozen picture would have to be cut or waited for later,
   and each receiver does that differently. Audio older than the opening IDR does not pass either. A stream that has
   sent audio for ``audio_only_after`` and never a picture is taken for audio only and passes.
3. Time stamps that leave the gate never go back within audio or within video, whatever the publisher does. Where its
   clock went on while it was away the stamps stay as they are; where it restarted (StreamPack, OBS) or jumped they are
   moved so that the outage takes as long in the stream as it took in life.
4. Each packet passes at most once, and in the order of arrival.

:class:`JoinGate` is the small version for one receiver that begins in the middle of a stream, or that had to be
skipped ahead because it was too slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class PacketKind(Enum):
    """What the gates need to know of a packet."""

    VIDEO_HEADER = "video header"
    """Parameter sets in a sequence header."""
    IDR = "IDR"
    PICTURE = "picture"
    """Any picture that needs earlier ones."""
    AUDIO_HEADER = "audio header"
    AUDIO = "audio"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Times in seconds."""

    gap_after: float = 1.0
    """A step of the video's own clock that counts as a break, unless such steps are this stream's habit."""
    audio_only_after: float = 2.0
    """How much audio without any picture it takes to believe that there is no video."""
    clock_behind: float = 5.0
    """A returning clock this far behind the time that passed has not gone on: stamps are moved."""
    clock_ahead: float = 30.0
    """The same for a clock that is ahead (a stream that lagged before the outage and is live after it is ahead)."""

    def __post_init__(self) -> None:
        for name in ("gap_after", "audio_only_after", "clock_behind", "clock_ahead"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g} s; it must be more than 0")


@dataclass(frozen=True, slots=True)
class GateOpened:
    """The gate opened with this packet: the receivers get the headers first."""

    withheld: int
    """Packets that were held back since it closed."""
    waited_s: float
    rebased_ms: int
    """By how much the stamps of this epoch are moved; 0 where the publisher's clock went on."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Forward the packet with this time stamp."""

    timestamp: int
    opened: GateOpened | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """Do not forward the packet; ``closed`` says why the gate closed, if it did so at this packet."""

    closed: str = ""


_WITHHELD = Withheld()
_VIDEO = (PacketKind.IDR, PacketKind.PICTURE)


class KeyframeGate:
    """The gate of one session; stamps in milliseconds, ``now`` in seconds."""

    def __init__(self, settings: GateSettings) -> None:
        self.settings = settings
        self.is_open = False
        self._closed_at: float | None = None
        self._withheld = 0
        self._parameter_sets = False
        self._shift = 0
        self._opened_with = 0
        """Publisher's stamp of the packet that opened the gate: older audio does not pass."""
        self._saw_video = False
        self._audio_since: int | None = None
        self._video_clock: int | None = None
        self._usual_step = 0.0
        self._last_out = -1
        self._last_out_at = 0.0
        self._last_of_kind = {"video": -1, "audio": -1}

    def new_epoch(self, *, now: float) -> bool:
        """Another connection delivers from here on: close, forget its predecessor's headers; whether it was open."""
        was_open = self.is_open
        self._parameter_sets = False
        self._audio_since = None
        self._close(now=now)
        return was_open

    def offer(self, kind: PacketKind, timestamp: int, *, parameter_sets: bool = False, now: float) -> Passed | Withheld:
        """One packet of the current epoch; ``parameter_sets``: it carries SPS and PPS in band."""
        if self._closed_at is None:
            self._closed_at = now
        if kind is PacketKind.VIDEO_HEADER or parameter_sets:
            self._parameter_sets = True
        closed = self._notice_break(kind, timestamp, now=now)
        if not self.is_open and not self._may_open(kind, timestamp):
            self._withheld += kind in _VIDEO or kind is PacketKind.AUDIO
            return Withheld(closed) if closed else _WITHHELD
        if self.is_open:
            return self._pass(kind, timestamp, now=now)
        opened = self._open(timestamp, now=now)
        return Passed(self._stamp(kind, timestamp, now=now), opened)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _close(self, *, now: float) -> None:
        self.is_open = False
        self._closed_at = now
        self._withheld = 0
        self._video_clock = None

    def _notice_break(self, kind: PacketKind, timestamp: int, *, now: float) -> str:
        if kind not in (PacketKind.VIDEO_HEADER, *_VIDEO):
            return ""
        first, self._saw_video = not self._saw_video, True
        if first and self.is_open:
            self._close(now=now)
            return "what was taken for audio only has video"
        if kind is PacketKind.VIDEO_HEADER:
            return ""
        before, self._video_clock = self._video_clock, timestamp
        if before is None or not self.is_open:
            return ""
        step = (timestamp - before) / 1000
        limit = max(self.settings.gap_after, 8 * self._usual_step)
        if -self.settings.gap_after < step <= limit:
            self._usual_step += (max(0.0, step) - self._usual_step) / 8
            return ""
        self._close(now=now)
        self._video_clock = timestamp
        return f"the publisher's clock stepped by {step:.2f} s (gap_after={self.settings.gap_after:g}s)"

    def _may_open(self, kind: PacketKind, timestamp: int) -> bool:
        if kind is PacketKind.IDR:
            return self._parameter_sets
        if kind is not PacketKind.AUDIO or self._saw_video:
            return False
        if self._audio_since is None:
            self._audio_since = timestamp
        return (timestamp - self._audio_since) / 1000 >= self.settings.audio_only_after

    def _open(self, timestamp: int, *, now: float) -> GateOpened:
        waited = now - (self._closed_at if self._closed_at is not None else now)
        before = self._shift
        self._shift = self._choose_shift(timestamp, now=now)
        self._opened_with = timestamp
        self.is_open = True
        return GateOpened(self._withheld, waited, self._shift - before)

    def _choose_shift(self, timestamp: int, *, now: float) -> int:
        if self._last_out < 0:
            return self._shift
        elapsed_ms = round(1000 * (now - self._last_out_at))
        due = self._last_out + max(1, elapsed_ms)
        continued = timestamp + self._shift
        earliest = max(self._last_out + 1, due - 1000 * self.settings.clock_behind)
        if earliest <= continued <= due + 1000 * self.settings.clock_ahead:
            return self._shift
        return due - timestamp

    def _pass(self, kind: PacketKind, timestamp: int, *, now: float) -> Passed | Withheld:
        if kind is PacketKind.AUDIO and timestamp < self._opened_with:
            return _WITHHELD
        return Passed(self._stamp(kind, timestamp, now=now))

    def _stamp(self, kind: PacketKind, timestamp: int, *, now: float) -> int:
        if kind in (PacketKind.VIDEO_HEADER, PacketKind.AUDIO_HEADER, PacketKind.SCRIPT):
            # Headers carry no picture or sound; publishers stamp them 0 at will.
            return max(0, self._last_out)
        track = "audio" if kind is PacketKind.AUDIO else "video"
        out = max(0, timestamp + self._shift, self._last_of_kind[track])
        self._last_of_kind[track] = out
        self._last_out = max(self._last_out, out)
        self._last_out_at = now
        return out


class JoinGate:
    """For one receiver: nothing before an IDR, then everything, until it is :meth:`skip`-ped ahead again."""

    def __init__(self) -> None:
        self._pictures = False
        self._audio = False

    @property
    def is_open(self) -> bool:
        """Something passes that is not a header."""
        return self._pictures or self._audio

    def skip(self) -> None:
        """Wait for the next IDR."""
        self._pictures = self._audio = False

    def passes(self, kind: PacketKind, *, has_video: bool = True) -> bool:
        """Whether this packet may go to the receiver; without video in the stream sound has nothing to wait for."""
        if kind is PacketKind.IDR:
            self._pictures = self._audio = True
        if kind is PacketKind.AUDIO:
            self._audio = self._audio or not has_video
            return self._audio
        return self._pictures or kind is not PacketKind.PICTURE
