"""Published link profiles, each with its source and that source's convention, as data.

The same name means different things to different people ("3G" is 100, 250 or 300 ms, one way or as a round trip),
so a profile is named ``source/name`` and says what it counts. :meth:`Profile.up` and :meth:`Profile.down` turn it
into impairments of one direction; a round trip is halved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.network.impairments import Impairments
from harness.network.loss import BernoulliLoss, GilbertElliott, LossModel

_MS = 1_000_000
_MBIT = 1_000_000

Convention = Literal["one_way", "round_trip", "unspecified"]

SOURCES = {
    "patchbay": "n0-computer/patchbay 2920b8c: one-way latency, jitter, loss",
    "str0m": "algesten/str0m 120401c netem: one-way latency, Gilbert-Elliott loss, rate and buffer; "
    "the burst length (4 packets) is ours, the source gives only the share",
    "loadero": "Loadero network presets: latency, convention not stated (taken as one way)",
    "webpagetest": "WebPageTest connectivity sample: latency is the round trip",
    "deadair": "our own, for a path that should not matter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One link as its source describes it."""

    name: str
    """``source/name``."""
    convention: Convention
    latency: int
    """ns, by ``convention``."""
    jitter: int = 0
    loss: LossModel | None = None
    rate_up: int | None = None
    rate_down: int | None = None
    queue_bytes: int | None = None

    @property
    def source(self) -> str:
        """Where the numbers come from, in a sentence."""
        return SOURCES[self.name.split("/")[0]]

    def up(self) -> Impairments:
        """From the edge towards the core."""
        return self._direction(self.rate_up)

    def down(self) -> Impairments:
        """From the core towards the edge."""
        return self._direction(self.rate_down)

    def _direction(self, rate: int | None) -> Impairments:
        return Impairments(
            delay=self.latency // 2 if self.convention == "round_trip" else self.latency,
            jitter=self.jitter,
            loss=self.loss,
            rate=rate,
            queue_bytes=self.queue_bytes if rate is not None else None,
        )


def _bursty(share: float) -> GilbertElliott:
    """Bursts of 4 packets with the given mean loss."""
    return GilbertElliott(good_to_bad=0.25 * share / (1 - share), bad_to_good=0.25)


def _patchbay(name: str, latency: int, jitter: int, share: float, rate: int | None = None) -> Profile:
    return Profile(
        name=f"patchbay/{name}",
        convention="one_way",
        latency=latency * _MS,
        jitter=jitter * _MS,
        loss=BernoulliLoss(share),
        rate_up=rate,
        rate_down=rate,
    )


def _str0m(name: str, latency: int, jitter: int, share: float, rate: int, buffer: int) -> Profile:
    # wifi_congested says 10 ms ± 20 ms: a delay can't be negative, so the jitter is cut to the latency
    return Profile(
        name=f"str0m/{name}",
        convention="one_way",
        latency=latency * _MS,
        jitter=min(jitter, latency) * _MS,
        loss=_bursty(share),
        rate_up=rate * _MBIT,
        rate_down=rate * _MBIT,
        queue_bytes=buffer * 1000,
    )


def _loadero(name: str, down: float, up: float, share: float, latency: int, jitter: int) -> Profile:
    return Profile(
        name=f"loadero/{name}",
        convention="unspecified",
        latency=latency * _MS,
        jitter=jitter * _MS,
        loss=BernoulliLoss(share) if share else None,
        rate_up=round(up * _MBIT),
        rate_down=round(down * _MBIT),
    )


def _webpagetest(name: str, down: float, up: float, round_trip: int) -> Profile:
    return Profile(
        name=f"webpagetest/{name}",
        convention="round_trip",
        latency=round_trip * _MS,
        rate_up=round(up * _MBIT),
        rate_down=round(down * _MBIT),
    )


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _patchbay("wifi", 5, 2, 0.001),
        _patchbay("wifi_bad", 40, 15, 0.02, 20 * _MBIT),
        _patchbay("mobile_4g", 25, 8, 0.005),
        _patchbay("mobile_3g", 100, 30, 0.02, 2 * _MBIT),
        _patchbay("satellite", 40, 7, 0.01),
        _patchbay("satellite_geo", 300, 20, 0.005, 25 * _MBIT),
        _str0m("wifi", 5, 2, 0.01, 100, 200),
        _str0m("wifi_lossy", 15, 10, 0.05, 50, 100),
        _str0m("wifi_congested", 10, 20, 0.10, 5, 30),
        _str0m("cellular", 50, 15, 0.02, 30, 100),
        _str0m("satellite", 600, 30, 0.03, 15, 500),
        _str0m("congested", 80, 40, 0.10, 10, 50),
        _loadero("4g", 100, 50, 0.002, 45, 5),
        _loadero("hspa", 20, 10, 0.005, 150, 10),
        _loadero("3g", 1.2, 1.2, 0.005, 250, 50),
        _loadero("edge", 0.2, 0.26, 0.01, 650, 100),
        _webpagetest("cable", 5, 1, 28),
        _webpagetest("3g", 1.6, 0.768, 300),
        _webpagetest("4g", 9, 9, 170),
        _webpagetest("lte", 12, 12, 70),
    )
}
