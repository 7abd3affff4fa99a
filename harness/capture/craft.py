"""The only place in the product that uses scapy (GPL-2.0-only, extra ``craft``), imported when first needed."""

from __future__ import annotations

from harness.errors import HarnessError


def dissect(raw: bytes) -> str:
    """Every field of an IP packet, one per line, nested by layer; checksums are judged, not recomputed.

    Raises :class:`HarnessError` where scapy is not installed.
    """
    try:
        from scapy.layers.inet import IP
        from scapy.layers.inet6 import IPv6
    except ImportError as error:
        raise HarnessError("dissecting a packet needs scapy", cure="pip install 'deadair[craft]'") from error
    layer = IPv6 if raw[:1] and raw[0] >> 4 == 6 else IP
    return str(layer(raw).show(dump=True)).rstrip()
