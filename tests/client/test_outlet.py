"""The gate and the queue between source and connection, in virtual time with prepared messages."""

from __future__ import annotations

from typing import Any

from reference_impl.client.outlet import Outlet
from reference_impl.media.source import SourceMessage
from reference_impl.rtmp.messages import MediaMessage
from reference_impl.telemetry import TelemetryRecorder

HEADERS = [MediaMessage("script", 0, b"metadata"), MediaMessage("video", 0, b"avcC"), MediaMessage("audio", 0, b"asc")]


class FakeSink:
    """Takes messages while it has room."""

    def __init__(self) -> None:
        self.room = True
        self.got: list[MediaMessage] = []

    def has_room(self) -> bool:
        return self.room

    def send(self, message: MediaMessage) -> None:
        self.got.append(message)

    def frames(self) -> list[int]:
        return [message.frame for message in self.got if isinstance(message, SourceMessage) and message.frame >= 0]


class Bed:
    """An outlet with a recorder, at 30 pictures per second."""

    def __init__(self, **settings: Any) -> None:
        self.told = TelemetryRecorder(clock=lambda: 0)
        self.requests: list[str] = []
        self.outlet = Outlet(
            headers=lambda: HEADERS, request_keyframe=self.requests.append, telemetry=self.told, **settings
        )

    def picture(self, frame: int, *, idr: bool = False) -> None:
        message = SourceMessage("video", frame * 33, b"p" * 1000, frame, idr, "test" if idr else "")
        self.outlet.offer(message, now=frame / 30)

    def sound(self, frame: int) -> None:
        self.outlet.offer(SourceMessage("audio", frame * 33, b"a" * 100), now=frame / 30)

    def drops(self) -> list[tuple[int, int]]:
        return [(data["first"], data["last"]) for data in self.told.named("frames:dropped")]


def test_a_new_connection_begins_with_headers_then_an_idr_and_nothing_before() -> None:
    bed, sink = Bed(), FakeSink()
    bed.outlet.use(sink)
    bed.picture(0)
    bed.sound(0)
    bed.picture(1)
    assert sink.got == []
    bed.picture(2, idr=True)
    bed.sound(2)
    assert [message.payload for message in sink.got[:3]] == [b"metadata", b"avcC", b"asc"]
    assert {message.timestamp for message in sink.got[:4]} == {66}
    assert sink.frames() == [2]
    assert sink.got[-1].kind == "audio"
    assert bed.drops() == [(0, 1)]


def test_pictures_without_a_connection_are_dropped_and_told_as_one_run() -> None:
    bed, sink = Bed(), FakeSink()
    bed.outlet.use(sink)
    bed.picture(0, idr=True)
    bed.outlet.detach("connection lost")
    for frame in range(1, 90):
        bed.picture(frame, idr=frame == 60)
    bed.outlet.use(FakeSink())
    bed.picture(90)
    assert bed.drops() == []
    bed.picture(91, idr=True)
    assert bed.told.named("frames:dropped") == [{"first": 1, "last": 90, "reason": "connection lost"}]


def test_what_the_connection_cannot_take_waits_and_goes_out_in_order() -> None:
    bed, sink = Bed(), FakeSink()
    bed.outlet.use(sink)
    bed.picture(0, idr=True)
    sink.room = False
    for frame in range(1, 10):
        bed.picture(frame)
    assert sink.frames() == [0]
    assert bed.outlet.queued_bytes == 9000
    sink.room = True
    bed.outlet.flush(now=1.0)
    assert sink.frames() == list(range(10))
    assert bed.outlet.queued_bytes == bed.outlet.waiting == 0
    assert bed.drops() == []


def test_a_change_of_connection_drops_the_rest_of_the_gop_that_waits() -> None:
    bed, old, new = Bed(), FakeSink(), FakeSink()
    bed.outlet.use(old)
    bed.picture(0, idr=True)
    old.room = False
    for frame in range(1, 10):
        bed.picture(frame)
    bed.outlet.detach("connection 2 is up")
    bed.outlet.use(new)
    bed.picture(10)
    bed.picture(11, idr=True)
    assert old.frames() == [0]
    assert new.frames() == [11]
    assert bed.drops() == [(1, 10)]


def test_a_queue_older_than_its_limit_is_dropped_whole_and_an_idr_is_asked_for() -> None:
    bed, sink = Bed(queue_limit=2.0), FakeSink()
    bed.outlet.use(sink)
    bed.picture(0, idr=True)
    sink.room = False
    for frame in range(1, 63):
        bed.picture(frame)
    assert bed.requests == ["waited longer than --queue-limit 2 s"]
    assert bed.outlet.queued_bytes == 0
    sink.room = True
    bed.picture(63)
    bed.picture(64, idr=True)
    assert sink.frames() == [0, 64]
    assert bed.drops() == [(1, 63)]
    assert [message.payload for message in sink.got].count(b"avcC") == 2


def test_an_outage_of_a_minute_keeps_memory_bounded() -> None:
    bed, sink = Bed(queue_limit=2.0), FakeSink()
    bed.outlet.use(sink)
    bed.picture(0, idr=True)
    sink.room = False
    most = 0
    for frame in range(1, 1800):
        bed.picture(frame, idr=frame % 60 == 0)
        most = max(most, bed.outlet.queued_bytes)
    assert most <= 62 * 1000 + sum(len(header.payload) for header in HEADERS)


def test_the_end_tells_what_was_dropped_last() -> None:
    bed, sink = Bed(), FakeSink()
    bed.outlet.use(sink)
    bed.picture(0, idr=True)
    sink.room = False
    bed.picture(1)
    bed.outlet.close()
    assert bed.told.named("frames:dropped") == [{"first": 1, "last": 1, "reason": "stopped"}]
