"""The test picture: a clock, a frame number, motion and some noise, drawn straight into the planes of a frame.

Everything is a copy of prepared bytes: the moving background is one slice of a taller texture, text is a row of glyphs
written line by line. So a 640x360 picture costs about 0.1 ms without any imaging library.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

# Five columns per glyph, lowest bit on top: the common 5x7 font of character displays.
_COLUMNS = {
    "0": "3e5149453e", "1": "00427f4000", "2": "4261514946", "3": "2141454b31", "4": "1814127f10",
    "5": "2745454539", "6": "3c4a494930", "7": "0171090503", "8": "3649494936", "9": "064949291e",
    "A": "7e1111117e", "B": "7f49494936", "C": "3e41414122", "D": "7f4141221c", "E": "7f49494941",
    "F": "7f09090901", "G": "3e4149497a", "H": "7f0808087f", "I": "00417f4100", "J": "2040413f01",
    "K": "7f08142241", "L": "7f40404040", "M": "7f020c027f", "N": "7f0408107f", "O": "3e4141413e",
    "P": "7f09090906", "Q": "3e4151215e", "R": "7f09192946", "S": "4649494931", "T": "01017f0101",
    "U": "3f4040403f", "V": "1f2040201f", "W": "3f4038403f", "X": "6314081463", "Y": "0708700807",
    "Z": "6151494543", ":": "0036360000", ".": "0060600000", "-": "0808080808", "/": "2010080402",
    " ": "0000000000",
}  # fmt: skip
_GLYPH_ROWS = 7
_GLYPH_WIDTH = 6
_INK, _PAPER = 235, 16

_STRIPES = 64
_NOISE_BYTES = 1 << 16
# U and V of white, yellow, cyan, green, magenta, red, blue, grey: vertical bars of colour over the moving luma.
_BARS = ((128, 128), (90, 145), (160, 90), (110, 100), (150, 160), (110, 175), (175, 115), (128, 128))


class ClockPicture:
    """Draws pictures of one size into planes that have ``strides`` bytes per row (Y, U and V)."""

    def __init__(self, width: int, height: int, *, strides: Sequence[int], label: str, seed: int = 1) -> None:
        self._width, self._height, self._strides = width, height, tuple(strides)
        self._scale = max(1, width // 160)
        self._rows: dict[str, list[bytes]] = {}
        self._label = label.upper()
        rng = random.Random(seed)
        self._texture = _texture(self._strides[0], height)
        self._noise = rng.randbytes(_NOISE_BYTES)
        self._noise_side = max(16, height // 4 // 16 * 16)

    def draw_colour(self, u: memoryview, v: memoryview) -> None:
        """The bars of colour; they never change, so once per frame buffer is enough."""
        for plane, stride, which in ((u, self._strides[1], 0), (v, self._strides[2], 1)):
            bar = self._width // 2 // len(_BARS) + 1
            row = b"".join(bytes((colour[which],)) * bar for colour in _BARS)[:stride].ljust(stride, b"\x80")
            plane[:] = (row * (len(plane) // stride + 1))[: len(plane)]

    def draw(self, luma: memoryview, *, frame: int, media_ms: int) -> None:
        """One picture: background at this frame's place, noise, sweeping bar, clock, frame number, label."""
        stride = self._strides[0]
        start = frame * 2 % _STRIPES * stride
        luma[:] = self._texture[start : start + len(luma)]
        self._draw_noise(luma, frame)
        self._draw_bar(luma, media_ms)
        size, line = self._scale, (_GLYPH_ROWS + 3) * self._scale
        self._draw_text(luma, clock_text(media_ms), 4 * size, 4 * size)
        self._draw_text(luma, f"FRAME {frame:06d}", 4 * size, 4 * size + line)
        self._draw_text(luma, self._label, 4 * size, 4 * size + 2 * line)

    def _draw_noise(self, luma: memoryview, frame: int) -> None:
        stride, side = self._strides[0], self._noise_side
        at = (self._height - side - 4 * self._scale) * stride + self._width - side - 4 * self._scale
        source = frame * 8191 % (_NOISE_BYTES - side * side)
        for _ in range(side):
            luma[at : at + side] = self._noise[source : source + side]
            at += stride
            source += side

    def _draw_bar(self, luma: memoryview, media_ms: int) -> None:
        """A bar at the bottom that crosses the picture once a second."""
        width, stride = 2 * self._scale, self._strides[0]
        left = (self._width - width) * (media_ms % 1000) // 1000
        bar = bytes((_INK,)) * width
        for row in range(self._height - 3 * self._scale, self._height - self._scale):
            luma[row * stride + left : row * stride + left + width] = bar

    def _draw_text(self, luma: memoryview, text: str, left: int, top: int) -> None:
        stride, at = self._strides[0], top * self._strides[0] + left
        glyphs = [self._glyph(letter) for letter in text]
        room = min(len(glyphs) * _GLYPH_WIDTH * self._scale, self._width - left)
        for row in range(_GLYPH_ROWS):
            line = b"".join([glyph[row] for glyph in glyphs])[:room]
            for _ in range(self._scale):
                luma[at : at + room] = line
                at += stride

    def _glyph(self, letter: str) -> list[bytes]:
        rows = self._rows.get(letter)
        if rows is None:
            columns = bytes.fromhex(_COLUMNS.get(letter, _COLUMNS[" "])) + b"\x00"
            rows = [
                b"".join(bytes((_INK if column >> row & 1 else _PAPER,)) * self._scale for column in columns)
                for row in range(_GLYPH_ROWS)
            ]
            self._rows[letter] = rows
        return rows


def clock_text(media_ms: int) -> str:
    """``0:00:12.433``."""
    seconds, ms = divmod(media_ms, 1000)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}"


def _texture(stride: int, height: int) -> bytes:
    """Diagonal stripes, one period taller than the picture: a slice from row n is the background moved up by n rows."""
    half = [60 + 2 * step for step in range(_STRIPES // 2)]
    line = bytes(half + half[::-1]) * (stride // _STRIPES + 2)
    return b"".join(line[row % _STRIPES : row % _STRIPES + stride] for row in range(height + _STRIPES))
