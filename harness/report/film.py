"""What the receivers saw: freezes, and the pictures around each one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.history.events import Event
from harness.units import MILLISECOND

RECEIVERS = ("viewer", "viewer2", "destination")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A time in which one receiver showed no new picture."""

    role: str
    start_ns: int
    """When the last good picture arrived."""
    end_ns: int
    resumed: bool
    """False: no picture had come by the end of the history."""
    last_frame: int
    first_frame: int | None
    missing: int
    numbers: tuple[int, ...]
    """The events that told it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that a receiver saved; ``path`` as it was told, relative to the run's directory or absolute."""

    frame: int
    t_ns: int
    path: str
    moment: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One place of a film strip: the picture before a freeze, the freeze, the picture after."""

    before: Picture | None
    freeze: Freeze
    after: Picture | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """What one receiver saw; ``cuts`` is empty when nothing froze, then the first and last pictures stand alone."""

    role: str
    cuts: Sequence[Cut]
    first: Picture | None
    last: Picture | None


def derive_freezes(events: Sequence[Event], *, end_ns: int) -> list[Freeze]:
    """Freezes of all receivers in order of time.

    A freeze is told twice: ``media:frozen`` while it lasts and ``media:resumed`` with the measured gap. The second is
    exact and wins; the first alone means that the picture never came back. Once the script has ended the programs are
    stopped in order: what freezes from then on is no freeze.
    """
    open_freezes: dict[str, Event] = {}
    freezes: list[Freeze] = []
    for event in events:
        if event.name == "script:ended":
            end_ns = event.t_ns
            break
        if event.name == "media:frozen":
            open_freezes.setdefault(event.source, event)
        elif event.name == "media:resumed":
            freezes.append(_resumed(event, open_freezes.pop(event.source, None)))
        elif event.name == "media:ended" and event.source in open_freezes:
            freezes.append(_unresumed(open_freezes.pop(event.source), end_ns=event.t_ns))
    freezes += [_unresumed(event, end_ns=end_ns) for event in open_freezes.values()]
    return sorted(freezes, key=lambda freeze: (freeze.start_ns, freeze.role))


def _resumed(event: Event, frozen: Event | None) -> Freeze:
    return Freeze(
        role=event.source,
        start_ns=event.t_ns - round(event.data["gap_ms"] * MILLISECOND),
        end_ns=event.t_ns,
        resumed=True,
        last_frame=event.data["last_frame"],
        first_frame=event.data["frame"],
        missing=event.data["missing"],
        numbers=(frozen.number, event.number) if frozen else (event.number,),
    )


def _unresumed(event: Event, *, end_ns: int) -> Freeze:
    start_ns = event.t_ns - round(event.data["after_ms"] * MILLISECOND)
    return Freeze(
        role=event.source,
        start_ns=start_ns,
        end_ns=max(end_ns, start_ns),
        resumed=False,
        last_frame=event.data["last_frame"],
        first_frame=None,
        missing=0,
        numbers=(event.number,),
    )


def derive_films(events: Sequence[Event], *, freezes: Sequence[Freeze]) -> list[Film]:
    """A film for every receiver that saved pictures or froze, viewers first; the gateway looks at no picture."""
    pictures: dict[str, list[Picture]] = {}
    for event in events:
        if event.name == "picture:saved":
            pictures.setdefault(event.source, []).append(_picture(event))
    roles = {*pictures, *(freeze.role for freeze in freezes if freeze.role != "gateway")}
    return [_film(role, pictures.get(role, []), freezes) for role in sorted(roles, key=_role_order)]


def _role_order(role: str) -> tuple[int, str]:
    return (RECEIVERS.index(role) if role in RECEIVERS else len(RECEIVERS), role)


def _picture(event: Event) -> Picture:
    data = event.data
    return Picture(frame=data["frame"], t_ns=event.t_ns, path=data["path"], moment=data["moment"], number=event.number)


def _film(role: str, pictures: Sequence[Picture], freezes: Sequence[Freeze]) -> Film:
    cuts = [_cut(freeze, pictures) for freeze in freezes if freeze.role == role]
    return Film(role=role, cuts=cuts, first=pictures[0] if pictures else None, last=pictures[-1] if pictures else None)


def _cut(freeze: Freeze, pictures: Sequence[Picture]) -> Cut:
    before = [picture for picture in pictures if _is_before(picture, freeze)]
    after = [picture for picture in pictures if _is_after(picture, freeze)]
    return Cut(
        before=max(before, key=lambda picture: (picture.frame, picture.t_ns), default=None),
        freeze=freeze,
        after=min(after, key=lambda picture: (picture.frame, picture.t_ns), default=None),
    )


# Pictures are matched by frame number where the stream has one (a saved picture may be told after the freeze is),
# and by time where it has none (-1).
def _is_before(picture: Picture, freeze: Freeze) -> bool:
    if picture.frame >= 0 and freeze.last_frame >= 0:
        return picture.frame <= freeze.last_frame
    return picture.t_ns <= freeze.start_ns


def _is_after(picture: Picture, freeze: Freeze) -> bool:
    if not freeze.resumed:
        return False
    if picture.frame >= 0 and freeze.first_frame is not None and freeze.first_frame >= 0:
        return picture.frame >= freeze.first_frame
    return picture.t_ns >= freeze.end_ns
