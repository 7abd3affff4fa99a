"""Two small programs for measuring a lab from inside: one sends datagrams, the other says when the kernel got them.

``python -m harness.engines.netns.probe send HOST PORT --rate N …`` and ``… receive PORT``. Results go to the telemetry
pipe as one ``probe:ended`` event each, so that measuring uses the same channels as any program of the harness.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

from harness.engines.netns.processes import TELEMETRY_FD
from harness.engines.netns.syscalls import set_timer_slack

_PROBE = struct.Struct("<IQ")
"""Sequence number, CLOCK_REALTIME of sending in ns (the clock of the kernel's receive stamps)."""
_SO_TIMESTAMPNS = 35
_TICK_NS = 1_000_000


def send(
    host: str, port: int, *, rate: int, size: int, seconds: float, load_rate: int, load_size: int
) -> dict[str, Any]:
    """``rate`` probes a second to ``port`` and ``load_rate`` other datagrams to the port after it, evenly spread."""
    address, other = (host, port), (host, port + 1)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probes, loads = _Pace(rate), _Pace(load_rate)
    padding, load = bytes(max(0, size - _PROBE.size)), bytes(load_size)
    begun = time.monotonic_ns()
    end = begun + int(seconds * 1e9)
    sent = 0
    while (now := time.monotonic_ns()) < end:
        for _ in range(probes.due(now - begun)):
            sender.sendto(_PROBE.pack(sent, time.time_ns()) + padding, address)
            sent += 1
        for _ in range(loads.due(now - begun)):
            sender.sendto(load, other)
        pause = min(probes.next_ns, loads.next_ns) - (time.monotonic_ns() - begun)
        if pause > 0:
            time.sleep(pause / 1e9)
    return {"sent": sent, "load_sent": loads.done}


class _Pace:
    """How many of ``rate`` a second are due; above 1,000 a second in bursts of one tick."""

    def __init__(self, rate: int) -> None:
        self._interval = 1e9 / rate if rate else float("inf")
        self._step = max(self._interval, _TICK_NS if rate > 5000 else 0)
        self.done = 0
        self.next_ns = 0.0 if rate else float("inf")

    def due(self, elapsed_ns: int) -> int:
        """Call when time has passed; the caller sends that many."""
        if elapsed_ns < self.next_ns:
            return 0
        wanted = int(elapsed_ns / self._interval) + 1
        count, self.done = wanted - self.done, wanted
        self.next_ns = max(self.next_ns + self._step, wanted * self._interval)
        return count


def receive(port: int, *, count_only: bool) -> dict[str, Any]:
    """Until SIGTERM: ``[sequence number, sent ns, received ns]`` of each probe, by the kernel's clock.

    With ``count_only`` nothing is read: the interface's own counter tells how many packets came.
    """
    listeners = [_listener(port), _listener(port + 1)]
    stop, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer)
    _tell("probe:ready", {})
    before = _arrived()
    probes: list[list[int]] = []
    watched = {listener.fileno(): listener for listener in listeners}
    while True:
        ready, _, _ = select.select([stop, *([] if count_only else watched)], [], [])
        if stop in ready:
            return {"packets": _arrived() - before, "probes": probes}
        for descriptor in ready:
            data, ancillary, _, _ = watched[descriptor].recvmsg(2048, 64)
            if descriptor == listeners[0].fileno():
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                probes.append([*_PROBE.unpack_from(data), seconds * 1_000_000_000 + nanoseconds])


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    listener.bind(("", port))
    return listener


def _arrived() -> int:
    """Packets received on all interfaces but loopback."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[1]) for line in lines if not line.strip().startswith("lo:"))


def _tell(name: str, data: dict[str, Any]) -> None:
    line = json.dumps({"t_ns": time.monotonic_ns(), "name": name, "data": data}) + "\n"
    rest = memoryview(line.encode())
    while rest:
        rest = rest[os.write(TELEMETRY_FD, rest) :]


def main() -> None:
    """Parse the command line and run one of the two."""
    parser = argparse.ArgumentParser(prog="probe")
    verbs = parser.add_subparsers(dest="verb", required=True)
    sending = verbs.add_parser("send")
    sending.add_argument("host")
    sending.add_argument("port", type=int)
    sending.add_argument("--rate", type=int, default=1000)
    sending.add_argument("--size", type=int, default=64)
    sending.add_argument("--seconds", type=float, default=2.0)
    sending.add_argument("--load-rate", type=int, default=0)
    sending.add_argument("--load-size", type=int, default=1400)
    receiving = verbs.add_parser("receive")
    receiving.add_argument("port", type=int)
    receiving.add_argument("--count-only", action="store_true")
    options = vars(parser.parse_args())
    set_timer_slack(1)
    verb = options.pop("verb")
    _tell("probe:ended", send(**options) if verb == "send" else receive(**options))


if __name__ == "__main__":
    main()
