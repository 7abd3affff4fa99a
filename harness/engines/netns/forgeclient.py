"""The harness's side of the forge: started once per process, asked for labs, gone with the process.

The forge gets its own session, so that a Ctrl-C in the terminal reaches the harness alone, which then ends the
programs in order.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import harness
from harness.engines.netns import channel
from harness.engines.netns.plan import MARKER, LabOrder
from harness.errors import HarnessError

_TREE = str(Path(harness.__file__).resolve().parents[1])
_READY_WITHIN_S = 30.0
_START = str(Path(__file__).with_name("forgestart.py"))


class Forge:
    """A running forge process."""

    def __init__(self, *, prefix: Sequence[str] = (), python: str = sys.executable) -> None:
        """``prefix`` is a command in front of the interpreter (tests drop privileges with it)."""
        self.token = secrets.token_hex(8)
        near, far = channel.pair()
        reader, self._life = os.pipe()
        path = os.pathsep.join([_TREE, *(entry for entry in sys.path if entry)])
        with far:
            self._process = subprocess.Popen(
                [*prefix, python, "-P", _START, str(far.fileno()), str(reader)],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ else None,
                pass_fds=[far.fileno(), reader],
                env={**os.environ, MARKER: self.token, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        self._end = near
        os.close(reader)
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Until its imports are done, at most half a minute."""
        if self._ready:
            return
        if not select.select([self._end], [], [], _READY_WITHIN_S)[0]:
            raise HarnessError("the forge did not start within 30 s", cure="is the machine overloaded?")
        try:
            channel.receive(self._end)
        except channel.ChannelClosedError as error:
            raise HarnessError("the forge ended while starting", cure="its traceback is on standard error") from error
        self._ready = True

    def make(self, order: LabOrder, *, orders: socket.socket, wire: socket.socket, gone: int, spool: int) -> None:
        """Ask for a lab; what becomes of it is told on ``orders``."""
        channel.send(self._end, order, [orders.fileno(), wire.fileno(), gone, spool])

    def close(self) -> None:
        """End the forge and, with it, every lab that is left. Idempotent."""
        self._end.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
            return
        self._process.kill()
        self._process.wait()


class _Shared:
    """The forge of this process; a forked child gets one of its own."""

    forge: Forge | None = None
    owner: int = 0


def shared_forge() -> Forge:
    """The forge of this process, started on first use and ended at exit."""
    if _Shared.forge is None or _Shared.owner != os.getpid() or not _Shared.forge.alive:
        _Shared.forge = Forge()
        _Shared.owner = os.getpid()
        atexit.register(_close_own, _Shared.forge, os.getpid())
    return _Shared.forge


def _close_own(forge: Forge, owner: int) -> None:
    if owner == os.getpid():
        forge.close()
