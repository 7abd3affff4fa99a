"""A link that gets worse (or better) and comes back, its queue kept."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from harness.faults.black_hole import Which
from harness.faults.fault import ActiveFault, FaultError, NetworkFault, Receipt, known_link, one_of, registered
from harness.network.fabric import Fabric
from harness.network.impairments import Impairments
from harness.network.link import Direction
from harness.network.loss import BernoulliLoss, DropList, GilbertElliott, LossModel, check_share
from harness.network.topology import Topology
from harness.units import format_duration, format_rate, format_size

_PLACES = ("link", "direction")
# field of the fault → field of Impairments, where the value is taken over as it is
_SAME = {
    "delay_ns": "delay",
    "jitter_ns": "jitter",
    "jitter_correlation": "jitter_correlation",
    "reorder_allowed": "reorder_allowed",
    "rate_bps": "rate",
    "queue_bytes": "queue_bytes",
    "queue_time_ns": "queue_time",
    "duplicate_share": "duplicate",
    "reorder_share": "reorder",
    "reorder_by_ns": "reorder_by",
    "corrupt_share": "corrupt",
    "mtu": "mtu",
}


@registered
@dataclass(frozen=True, kw_only=True)
class ChangeLink(NetworkFault):
    """Some of a link's impairments replaced, in place; what isn't given stays. Leaving brings the old ones back."""

    kind: ClassVar[str] = "change_link"

    link: str
    direction: Which = "both"
    delay_ns: int | None = None
    jitter_ns: int | None = None
    jitter_correlation: float | None = None
    reorder_allowed: bool | None = None
    rate_bps: int | None = None
    queue_bytes: int | None = None
    queue_time_ns: int | None = None
    loss_share: float | None = None
    loss_burst: float | None = None
    """Mean packets per burst, with ``loss_share`` as the mean loss (Gilbert-Elliott); left out: independent losses."""
    lose_packets: tuple[int, ...] | None = None
    """Exactly these packets, counted from 0 from now on, in each direction."""
    duplicate_share: float | None = None
    reorder_share: float | None = None
    reorder_by_ns: int | None = None
    corrupt_share: float | None = None
    mtu: int | None = None

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("both", "up", "down"))
        if self.lose_packets is not None:
            object.__setattr__(self, "lose_packets", tuple(self.lose_packets))
        if not self._given():
            raise FaultError("change_link changes nothing: name at least one impairment")
        try:
            self.changes()
        except ValueError as error:
            raise FaultError(f"change_link of {self.link}: {error}") from None

    @property
    def target(self) -> str:
        """The link."""
        return self.link

    def describe(self) -> str:
        """``"wifi changes: delay 200 ms, loss 2 %"``."""
        words = [f"{self.direction} only"] if self.direction != "both" else []
        words += [f"{name} {value}" for name, value in self._in_words().items()]
        return f"{self.link} changes: {', '.join(words)}"

    def changes(self) -> dict[str, Any]:
        """The changed fields of :class:`Impairments`; ValueError where they can't be."""
        changes = {_SAME[name]: value for name, value in self._given().items() if name in _SAME}
        loss = self._loss()
        if loss is not None:
            changes["loss"] = loss
        _check_alone(changes)
        return changes

    def validate(self, topology: Topology) -> None:
        """The link must exist and the result must be possible there."""
        known_link(topology, self.link)
        spec = topology.link(self.link)
        for heading, impairments in (("up", spec.up), ("down", spec.down)):
            if self.direction in ("both", heading):
                try:
                    impairments.changed(**self.changes())
                except ValueError as error:
                    raise FaultError(f"change_link of {self.link} {heading}: {error}") from None

    def enter(self, fabric: Fabric, now: int) -> ActiveFault:
        """The latest change is on top of earlier ones that are still in force."""
        self.validate(fabric.topology)
        return _Changed(fabric.links[self.link].directions(self.direction), self.changes(), now)

    def _given(self) -> dict[str, Any]:
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PLACES}
        return {name: value for name, value in named.items() if value is not None}

    def _loss(self) -> LossModel | None:
        if self.lose_packets is not None:
            return DropList(self.lose_packets)
        if self.loss_share is None:
            if self.loss_burst is not None:
                raise ValueError("loss_burst needs loss_share")
            return None
        return _loss_model(self.loss_share, self.loss_burst)

    def _in_words(self) -> dict[str, str]:
        return {_in_playbook(name): _text(name, value) for name, value in self._given().items()}


class _Changed(ActiveFault):
    """An overlay of its own on each direction concerned."""

    def __init__(self, directions: tuple[Direction, ...], changes: dict[str, Any], now: int) -> None:
        super().__init__()
        self._begun = {direction: direction.offered for direction in directions}
        self._passed: dict[str, int] = {}
        for direction in directions:
            direction.overlay(self, changes, now)

    def heal(self, fabric: Fabric, now: int) -> None:
        """Take exactly the own overlay away."""
        self._passed = self._count()
        for direction in self._begun:
            direction.lift(self, now)

    def receipt(self) -> Receipt:
        """Packets that were offered to the changed directions."""
        passed = self._passed or self._count()
        return Receipt(sum(passed.values()), {"packets": passed})

    def _count(self) -> dict[str, int]:
        return {direction.name: direction.offered - start for direction, start in self._begun.items()}


def _loss_model(share: float, burst: float | None) -> LossModel:
    if burst is None:
        return BernoulliLoss(share)
    if burst < 1:
        raise ValueError(f"loss_burst is {burst}; a burst is at least 1 packet long")
    check_share("loss", share)
    if share == 1:
        return BernoulliLoss(share)
    if share / burst > 1 - share:
        raise ValueError(f"a mean loss of {share} in bursts of {burst} can't be: the gaps would be under one packet")
    return GilbertElliott(good_to_bad=share / (1 - share) / burst, bad_to_good=1 / burst)


def _check_alone(changes: dict[str, Any]) -> None:
    """Find impossible values whatever the link is: on a link that has all that the others could need."""
    roomy = Impairments(delay=max(changes.get("delay", 0), changes.get("jitter", 0)), rate=1)
    if "delay" in changes and changes.get("jitter", 0) > changes["delay"]:
        roomy = roomy.changed(delay=changes["delay"])
    roomy.changed(**changes)


def _in_playbook(name: str) -> str:
    """The field's name without its unit."""
    for suffix in ("_ns", "_bps", "_bytes", "_share"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def _text(name: str, value: Any) -> str:
    """The value with its unit."""
    if name.endswith("_ns"):
        return format_duration(value)
    if name.endswith("_bps"):
        return format_rate(value)
    if name.endswith("_bytes"):
        return format_size(value)
    return f"{value * 100:.3g} %" if name.endswith("_share") else str(value)
