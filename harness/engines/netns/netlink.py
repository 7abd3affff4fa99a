"""Route netlink in batches: pyroute2 encodes the messages, one socket per namespace sends many at a time.

pyroute2's own call path costs about 16 ms per node of a lab, its message classes 0.1 ms per message (measured,
``facts/link-emulation.md`` section 1); so the classes are used and the path is not. A :class:`Batch` is filled,
committed with one ``send`` and answered with one acknowledgement per message, whose text the kernel adds
(NETLINK_EXT_ACK) is part of the error.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

_RTM_NEWLINK, _RTM_GETLINK, _RTM_SETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 18, 19, 20, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSG_ERROR = 2
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_IFA_F_NODAD = 0x02
_IFA_F_NOPREFIXROUTE = 0x200
_RT_SCOPE_LINK, _RTPROT_STATIC, _RT_TABLE_MAIN, _RTN_UNICAST = 253, 4, 254, 1
_IN6_ADDR_GEN_MODE_NONE = 1
_BATCH_BYTES = 32_000

# pyroute2 has no annotations
_LinkMessage: Any = ifinfmsg
_AddressMessage: Any = ifaddrmsg
_RouteMessage: Any = rtmsg

Attributes = list[tuple[str, Any]]


class NetlinkError(OSError):
    """The kernel refused one message of a batch; the text says which and, where the kernel tells, why."""


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _flagged(message: Any, *, up: bool | None, noarp: bool = False) -> None:
    change = (_IFF_UP if up is not None else 0) | (_IFF_NOARP if noarp else 0)
    message["flags"] = (_IFF_UP if up else 0) | (_IFF_NOARP if noarp else 0)
    message["change"] = change


class Batch:
    """Messages for one namespace, in order. ``what`` of each is a phrase for the error."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, Any]] = []

    def veth(
        self, *, name: str, index: int, mac: str, peer_name: str, peer_index: int, peer_mac: str, peer_ns: int
    ) -> None:
        """A veth pair: this end here, without IPv6 of its own; the peer in the namespace held by ``peer_ns``.

        Neither end is up: a peer with IFF_UP inside the creating message is refused with ENOTCONN.
        """
        peer = _LinkMessage()
        peer["index"] = peer_index
        peer["attrs"] = [("IFLA_IFNAME", peer_name), ("IFLA_ADDRESS", peer_mac), ("IFLA_NET_NS_FD", peer_ns)]
        message = _LinkMessage()
        message["index"] = index
        data = {"attrs": [("VETH_INFO_PEER", peer)]}
        info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_LINKINFO", info)]
        self._add(f"create {name} with peer {peer_name}", _RTM_NEWLINK, message, _NLM_F_CREATE | _NLM_F_EXCL)

    def link(self, *, index: int, up: bool | None = None, noarp: bool = False, mtu: int | None = None) -> None:
        """Change one interface: up or down, without neighbour resolution, MTU in bytes."""
        message = _LinkMessage()
        message["index"] = index
        _flagged(message, up=up, noarp=noarp)
        message["attrs"] = [] if mtu is None else [("IFLA_MTU", mtu)]
        self._add(f"set interface {index} up={up} mtu={mtu}", _RTM_NEWLINK, message, 0)

    def no_link_local(self, *, index: int) -> None:
        """No automatic IPv6 address, so that the interface sends no router solicitations or MLD reports by itself."""
        message = _LinkMessage()
        message["index"] = index
        mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE)]}
        message["attrs"] = [("IFLA_AF_SPEC", {"attrs": [("AF_INET6", mode)]})]
        self._add(f"no link-local address on interface {index}", _RTM_SETLINK, message, 0)

    def address(self, *, index: int, address: str, prefix: int) -> None:
        """An address at once usable (no duplicate detection) and without a connected route: routes are made here."""
        message = _AddressMessage()
        message["index"], message["family"], message["prefixlen"] = index, _family(address), prefix
        flags = _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE
        message["attrs"] = [("IFA_ADDRESS", address), ("IFA_LOCAL", address), ("IFA_FLAGS", flags)]
        self._add(
            f"address {address}/{prefix} on interface {index}", _RTM_NEWADDR, message, _NLM_F_CREATE | _NLM_F_REPLACE
        )

    def route(
        self, *, index: int, source: str, metric: int, destination: tuple[str, int] | None = None, congestion: str = ""
    ) -> None:
        """A route straight out of ``index`` (everything there is one hop away), congestion control pinned.

        ``destination`` is (network, prefix length); None is the default route. BBR as the machine's default would hide
        the faults (``facts/link-emulation.md`` section 7), and the per-route pin is the one that works rootless.
        """
        message = _RouteMessage()
        message["family"], message["table"], message["type"] = _family(source), _RT_TABLE_MAIN, _RTN_UNICAST
        message["proto"], message["scope"] = _RTPROT_STATIC, _RT_SCOPE_LINK
        attributes: Attributes = [("RTA_OIF", index), ("RTA_PREFSRC", source), ("RTA_PRIORITY", metric)]
        if destination is not None:
            message["dst_len"] = destination[1]
            attributes.append(("RTA_DST", destination[0]))
        if congestion:
            attributes.append(("RTA_METRICS", {"attrs": [("RTAX_CC_ALGO", congestion)]}))
        message["attrs"] = attributes
        goal = "default" if destination is None else f"{destination[0]}/{destination[1]}"
        self._add(f"route {goal} out of interface {index}", _RTM_NEWROUTE, message, _NLM_F_CREATE | _NLM_F_REPLACE)

    def _add(self, what: str, kind: int, message: Any, flags: int) -> None:
        message["header"]["type"] = kind
        message["header"]["flags"] = _NLM_F_REQUEST | _NLM_F_ACK | flags
        message["header"]["sequence_number"] = len(self._messages)
        message.encode()
        self._messages.append((what, bytes(message.data)))

    def drain(self) -> Sequence[tuple[str, bytes]]:
        """The encoded messages, numbered from 0; the batch is empty afterwards."""
        messages, self._messages = self._messages, []
        return messages


class Rtnl:
    """One route-netlink socket; it stays in the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))

    def commit(self, batch: Batch) -> None:
        """Send all and read all acknowledgements; raises :class:`NetlinkError` for the first refusal."""
        messages = batch.drain()
        refused: list[tuple[int, int, str]] = []
        for first, block in _blocks(messages):
            self._socket.send(b"".join(data for _, data in block))
            refused += self._answers(set(range(first, first + len(block))))
        if refused:
            number, code, text = min(refused)
            raise NetlinkError(code, f"{messages[number][0]}: {text or os.strerror(code)}")

    def link_state(self, index: int) -> tuple[bool, bool]:
        """(administratively up, carrier) of one interface, as the kernel of this namespace sees it."""
        message = _LinkMessage()
        message["index"] = index
        message["header"]["type"] = _RTM_GETLINK
        message["header"]["flags"] = _NLM_F_REQUEST
        message.encode()
        self._socket.send(bytes(message.data))
        data = self._socket.recv(1 << 16)
        if int.from_bytes(data[4:6], "little") == _NLMSG_ERROR:
            code = -struct.unpack_from("=i", data, 16)[0]
            raise NetlinkError(code, f"look at interface {index}: {os.strerror(code)}")
        answer = _LinkMessage(data)
        answer.decode()
        return bool(answer["flags"] & _IFF_UP), bool(answer.get_attr("IFLA_CARRIER"))

    def close(self) -> None:
        self._socket.close()

    def _answers(self, waiting: set[int]) -> list[tuple[int, int, str]]:
        refused: list[tuple[int, int, str]] = []
        while waiting:
            for kind, flags, sequence, body in _split(self._socket.recv(1 << 16)):
                if kind != _NLMSG_ERROR or sequence not in waiting:
                    continue
                waiting.discard(sequence)
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    refused.append((sequence, code, _explanation(body, flags)))
        return refused


def _blocks(messages: Sequence[tuple[str, bytes]]) -> Iterator[tuple[int, Sequence[tuple[str, bytes]]]]:
    first, size = 0, 0
    for number, (_, data) in enumerate(messages):
        if size and size + len(data) > _BATCH_BYTES:
            yield first, messages[first:number]
            first, size = number, 0
        size += len(data)
    if messages[first:]:
        yield first, messages[first:]


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _explanation(body: bytes, flags: int) -> str:
    """The kernel's own sentence (NLMSGERR_ATTR_MSG) in an error answer, or nothing."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    echoed = 16 if flags & _NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0]
    offset = 4 + ((echoed + 3) & ~3)
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if kind & 0x3FFF == 1:
            return body[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += max((length + 3) & ~3, 4)
    return ""
