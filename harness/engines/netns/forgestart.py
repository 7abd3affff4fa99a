"""The forge's first steps, before its imports: from here on it cannot outlive the harness, however busy it is.

``forgestart.py FD LIFE``: FD is the socket to the harness. LIFE is the reading end of a pipe that only the harness
could write and never does; the kernel is asked to announce its end by SIGKILL. (End of file on FD would do once the
forge reads it, but its imports take a quarter of a second, and seconds on a loaded machine. PR_SET_PDEATHSIG would fire
when the harness's *thread* ends.)
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys

_F_SETSIG = 10
_PR_SET_NAME = 15


def die_at_hangup(life: int) -> None:
    """SIGKILL to this process when the other end of the pipe is closed; at once where it is closed already."""
    os.set_inheritable(life, False)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:
        os._exit(0)


def start(descriptor: str, life: str) -> int:
    """Bind our life to the pipe, then import and run the forge."""
    die_at_hangup(int(life))
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"deadair-forge", 0, 0, 0)
    from harness.engines.netns.forge import main

    return main([descriptor])


if __name__ == "__main__":
    sys.exit(start(*sys.argv[1:]))
