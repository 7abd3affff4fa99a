"""Random decisions addressed by a packet's number.

Every purpose on every direction has a stream of its own, cut into blocks of packets: the decisions about packets
``block * 4096`` onwards come from ``Random(f"{seed}/{link}/{direction}/{purpose}/{block}")``. So what happens to
packet 70,000 depends on nothing but the seed and the names, and one more draw for one purpose leaves all others as
they were. Seeding with text goes through SHA-512 and is the same on every platform and Python version.
"""

from __future__ import annotations

from random import Random

BLOCK = 4096
NEVER = 1 << 62
"""A packet number that no packet has."""


class Stream:
    """The name of one purpose's stream."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def block(self, block: int) -> Random:
        """The generator of one block, fresh."""
        return Random(f"{self._name}/{block}")

    def draw(self, number: int) -> float:
        """One number in 0..1 for packet ``number``; costs a new generator, so for rare things only."""
        return Random(f"{self._name}/packet {number}").random()


class Picks:
    """Which packets something happens to.

    The owner compares ``number >= picks.next`` per packet and calls :meth:`hit` only when that is true.
    """

    __slots__ = ("_block", "_numbers", "_place", "next")

    def __init__(self, *, start: int) -> None:
        self._block = max(0, start) // BLOCK
        self._numbers = self.chosen(self._block)
        self._place = 0
        self.next = start - 1
        """The next pick, or the first packet of the next block where this block has none left."""
        self.hit(start - 1)

    def chosen(self, block: int) -> list[int]:
        """The picked packet numbers of one block, ascending."""
        raise NotImplementedError

    def last_block(self) -> int:
        """The last block that can have a pick."""
        return NEVER

    def hit(self, number: int) -> bool:
        """Whether packet ``number`` is picked. Ask in ascending order; numbers may be left out."""
        if number < self.next:
            return False
        if number // BLOCK > self._block:
            self._block = number // BLOCK
            self._numbers, self._place = self.chosen(self._block), 0
        found = False
        while self._place < len(self._numbers) and self._numbers[self._place] <= number:
            found = self._numbers[self._place] == number
            self._place += 1
        self.next = self._upcoming()
        return found

    def _upcoming(self) -> int:
        if self._place < len(self._numbers):
            return self._numbers[self._place]
        return (self._block + 1) * BLOCK if self._block < self.last_block() else NEVER


class Bernoulli(Picks):
    """Each packet for itself, with the same probability."""

    __slots__ = ("_share", "_stream")

    def __init__(self, stream: Stream, share: float, *, start: int) -> None:
        self._stream = stream
        self._share = share
        super().__init__(start=start)

    def chosen(self, block: int) -> list[int]:
        """One draw for each packet of the block."""
        if not self._share:
            return []
        draw, share, base = self._stream.block(block).random, self._share, block * BLOCK
        return [base + i for i in range(BLOCK) if draw() < share]

    def last_block(self) -> int:
        """Without a probability nothing is ever picked."""
        return NEVER if self._share else -1


class Variation:
    """A value in -1..1 for each packet, each leaning on the one before it by ``correlation``.

    As netem does it: ``x = correlation * previous + (1 - correlation) * uniform``, begun anew in each block.
    """

    __slots__ = ("_block", "_correlation", "_stream", "_values")

    def __init__(self, stream: Stream, correlation: float) -> None:
        self._stream = stream
        self._correlation = correlation
        self._block = -1
        self._values: list[float] = []

    def at(self, number: int) -> float:
        """The value of packet ``number``."""
        if number // BLOCK != self._block:
            self._block = number // BLOCK
            self._values = self._chain(self._block)
        return self._values[number % BLOCK]

    def _chain(self, block: int) -> list[float]:
        draw, correlation = self._stream.block(block).random, self._correlation
        value = draw() * 2 - 1
        values = []
        for _ in range(BLOCK):
            value = correlation * value + (1 - correlation) * (draw() * 2 - 1)
            values.append(value)
        return values
