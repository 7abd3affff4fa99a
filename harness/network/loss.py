"""Loss models: which packets a direction loses, by their number on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.network.draws import BLOCK, NEVER, Bernoulli, Picks, Stream


def check_share(name: str, value: float) -> None:
    """Refuse what is no probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; a share lies between 0 and 1 (2 % is 0.02)")


@dataclass(frozen=True, slots=True)
class BernoulliLoss:
    """Every packet is lost with the same probability, whatever happened before."""

    share: float

    def __post_init__(self) -> None:
        check_share("loss share", self.share)

    def picks(self, stream: Stream, *, start: int) -> Picks:
        """Which packets are lost from number ``start`` on."""
        return Bernoulli(stream, self.share, start=start)

    def describe(self) -> str:
        """``"loss 2 %"``."""
        return f"loss {self.share * 100:.3g} %"

    def to_json(self) -> dict[str, Any]:
        """Read back by :func:`loss_from_json`."""
        return {"model": "bernoulli", "share": self.share}


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Bursts: a good and a bad state, changed before each packet, each with its own loss (Gilbert 1960, Elliott 1963).

    The state is drawn anew from its long-run share at each block of 4096 packets, so that what happens to a packet
    doesn't depend on the packets of other blocks.
    """

    good_to_bad: float
    """Probability per packet; often called p."""
    bad_to_good: float
    """Probability per packet, often called r: a burst lasts 1 / r packets on average."""
    loss_good: float = 0.0
    loss_bad: float = 1.0

    def __post_init__(self) -> None:
        for name in ("good_to_bad", "bad_to_good", "loss_good", "loss_bad"):
            check_share(name, getattr(self, name))
        if self.good_to_bad + self.bad_to_good == 0:
            raise ValueError("good_to_bad and bad_to_good are both 0: the state would never change; use BernoulliLoss")

    @property
    def bad_share(self) -> float:
        """Long-run share of packets in the bad state."""
        return self.good_to_bad / (self.good_to_bad + self.bad_to_good)

    @property
    def mean_loss(self) -> float:
        """Long-run share of packets lost."""
        return self.bad_share * self.loss_bad + (1 - self.bad_share) * self.loss_good

    def picks(self, stream: Stream, *, start: int) -> Picks:
        """Which packets are lost from number ``start`` on."""
        return _GilbertElliottPicks(stream, self, start=start)

    def describe(self) -> str:
        """``"loss 1 % in bursts of 4.0"``."""
        burst = f"{1 / self.bad_to_good:.1f}" if self.bad_to_good else "no end"
        return f"loss {self.mean_loss * 100:.3g} % in bursts of {burst}"

    def to_json(self) -> dict[str, Any]:
        """Read back by :func:`loss_from_json`."""
        names = ("good_to_bad", "bad_to_good", "loss_good", "loss_bad")
        return {"model": "gilbert_elliott", **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, slots=True)
class DropList:
    """Exactly these packets, counted from 0 since the list came into force on the direction."""

    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", tuple(sorted(set(self.numbers))))
        if self.numbers and self.numbers[0] < 0:
            raise ValueError(f"packet number {self.numbers[0]} in a drop list; packets are counted from 0")

    def picks(self, stream: Stream, *, start: int) -> Picks:
        """Which packets are lost; ``stream`` is not used."""
        return _ListedPicks(self.numbers, start=start)

    def describe(self) -> str:
        """``"loss of 3 listed packets"``."""
        return f"loss of {len(self.numbers)} listed packets"

    def to_json(self) -> dict[str, Any]:
        """Read back by :func:`loss_from_json`."""
        return {"model": "drop_list", "numbers": list(self.numbers)}


LossModel = BernoulliLoss | GilbertElliott | DropList


def loss_from_json(data: Mapping[str, Any] | float) -> LossModel:
    """The value that ``to_json`` told; a bare number is Bernoulli's share."""
    if isinstance(data, int | float):
        return BernoulliLoss(float(data))
    values = dict(data)
    model = values.pop("model", None)
    if model == "bernoulli":
        return BernoulliLoss(**values)
    if model == "gilbert_elliott":
        return GilbertElliott(**values)
    if model == "drop_list":
        return DropList(tuple(values["numbers"]))
    raise ValueError(f"unknown loss model {model!r}; known are bernoulli, gilbert_elliott, drop_list")


class _GilbertElliottPicks(Picks):
    __slots__ = ("_model", "_stream")

    def __init__(self, stream: Stream, model: GilbertElliott, *, start: int) -> None:
        self._stream = stream
        self._model = model
        super().__init__(start=start)

    def chosen(self, block: int) -> list[int]:
        """Walk the chain through the block: two draws a packet, state first."""
        draw, model = self._stream.block(block).random, self._model
        bad = draw() < model.bad_share
        lost = []
        for number in range(block * BLOCK, (block + 1) * BLOCK):
            bad = (draw() >= model.bad_to_good) if bad else (draw() < model.good_to_bad)
            if draw() < (model.loss_bad if bad else model.loss_good):
                lost.append(number)
        return lost


class _ListedPicks(Picks):
    __slots__ = ("_listed",)

    def __init__(self, numbers: tuple[int, ...], *, start: int) -> None:
        self._listed = [start + number for number in numbers]
        super().__init__(start=start)

    def chosen(self, block: int) -> list[int]:
        """The listed numbers of the block."""
        return [n for n in self._listed if n // BLOCK == block]

    def last_block(self) -> int:
        """The block of the last listed number."""
        return self._listed[-1] // BLOCK if self._listed else -NEVER
