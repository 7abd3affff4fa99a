"""AAC's AudioSpecificConfig (ISO/IEC 14496-3 section 1.6.2.1): what a decoder must know before the first frame."""

from __future__ import annotations

from dataclasses import dataclass

from reference_impl.media.errors import MediaError

SAMPLES_PER_FRAME = 1024
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_RATE_IN_FULL = 15
_LOW_COMPLEXITY = 2


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Object type (2 is low complexity), samples per second, channels."""

    rate: int = 48000
    channels: int = 2
    object_type: int = _LOW_COMPLEXITY

    def to_bytes(self) -> bytes:
        """Two bytes; five where the rate is none of the table's."""
        if self.rate in _RATES:
            bits = self.object_type << 11 | _RATES.index(self.rate) << 7 | self.channels << 3
            return bits.to_bytes(2, "big")
        bits = self.object_type << 35 | _RATE_IN_FULL << 31 | self.rate << 7 | self.channels << 3
        return bits.to_bytes(5, "big")

    @classmethod
    def parse(cls, data: bytes) -> AudioConfig:
        """Parse the first fields; extensions behind them are left alone. :class:`MediaError` if it is too short."""
        if len(data) < 2:
            raise MediaError(f"AudioSpecificConfig: needs at least 2 bytes, got {len(data)}")
        bits = int.from_bytes(data[:2], "big")
        index = bits >> 7 & 0xF
        if index < len(_RATES):
            return cls(_RATES[index], bits >> 3 & 0xF, bits >> 11)
        if index != _RATE_IN_FULL or len(data) < 5:
            raise MediaError(
                f"AudioSpecificConfig: rate index {index} in {data[:5].hex(' ')} is not one of the table's"
            )
        bits = int.from_bytes(data[:5], "big")
        return cls(bits >> 7 & 0xFFFFFF, bits >> 3 & 0xF, bits >> 35)
