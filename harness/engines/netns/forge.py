"""The forge: a single-threaded process from which every lab of one harness is forked, so that labs come up quickly.

    harness (any number of threads; never unshares)
       │  socket pair, inherited               end of file: the forge exits
    forge (imports done; started by ``forgestart.py``)
       │  fork per lab; a pipe that only the forge can write   end of file: PID 1 exits
    supervisor: unshares user (rootless only), mount, PID and network namespaces, then waits for
       │  fork; a pipe that only the supervisor can write      end of file: PID 1 exits
    PID 1 of the lab (``init.py``): when it goes, the kernel kills the PID namespace and the rest goes with it

Nothing here has a name in the file system. As root with CAP_SYS_ADMIN no user namespace is made: the machine's own
scheduling classes stay within reach, and containers that deny user namespaces to root work. Everybody else gets a
user namespace in which they are root.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from harness.engines.netns import channel, init, syscalls
from harness.engines.netns.init import Equipment
from harness.engines.netns.namespaces import leave_host
from harness.engines.netns.packetsocket import PacketSocket
from harness.engines.netns.plan import LabOrder


def serve(end: socket.socket) -> int:
    """Make labs on request until the harness is gone."""
    life_reader, life_writer = os.pipe()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    channel.send(end, ("forged", os.getpid()))
    while True:
        try:
            order, descriptors = channel.receive(end)
        except channel.ChannelClosedError:
            return 0
        if os.fork() == 0:
            end.close()
            os.close(life_writer)
            _supervise(order, descriptors, life_reader)
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(order: LabOrder, descriptors: Sequence[int], forge_life: int) -> NoReturn:
    orders, wire, gone, spool = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    syscalls.set_process_name("deadair-lab")
    try:
        rootless = leave_host(order.rootless)
        syscalls.die_with_parent(signal.SIGKILL)
        packets = PacketSocket(mtu=max(port.mtu for port in order.spec.ports))
        life_reader, life_writer = os.pipe()
        ring_reader, ring_writer = os.pipe()
        pid = os.fork()
    except OSError as error:
        _confess(orders, error)
    if pid == 0:
        os.close(life_writer)
        os.close(ring_writer)
        os.close(gone)
        lives = (forge_life, life_reader)
        init.run(order.spec, Equipment(orders, wire, spool, packets, ring_reader, lives, rootless))
    for descriptor in (orders, wire, spool, forge_life, life_reader, ring_reader):
        os.close(descriptor)
    with contextlib.suppress(OSError):
        os.write(ring_writer, packets.make_ring().to_bytes(8, "little"))
    os.close(ring_writer)
    os.waitpid(pid, 0)
    os.close(gone)
    os._exit(0)


def _confess(orders: int, error: OSError) -> NoReturn:
    text = f"no namespaces for the lab: {error.strerror or error}"
    with socket.socket(fileno=orders) as end:
        channel.send(end, ("failed", text, "run `deadair doctor`: it names what is denied and the cure"))
    os._exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """``FD``: the socket to the harness. Started by ``forgestart.py``."""
    (descriptor,) = map(int, sys.argv[1:] if argv is None else argv)
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as end:
        try:
            return serve(end)
        except channel.ChannelClosedError:
            return 0
        except BaseException:
            traceback.print_exc()
            return 1
