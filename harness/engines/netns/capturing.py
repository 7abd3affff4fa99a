"""Packets of the fabric to the spool file, without letting the disk slow the forwarder down.

The forwarder appends records to a batch and writes the batch into a pipe that never blocks it; a process of its own
empties the pipe into the file. When that process can't keep up, packets are left out of the capture and counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from typing import NoReturn

from harness.engines.netns import syscalls

_PIPE_BYTES = 1 << 20
_MOST_WAITING = 64 << 20
_F_SETPIPE_SZ = 1031


def open_pipe() -> tuple[int, int]:
    """(end for the writer, end for the forwarder), the latter non-blocking."""
    reader, writer = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(writer, False)
    return reader, writer


def write_spool(reader: int, spool: int) -> NoReturn:
    """The writer process: until the forwarder closes its end. A full disk ends the capture, not the run."""
    syscalls.set_process_name("deadair-capture")
    with contextlib.suppress(OSError):
        os.nice(10)
    status = 0
    while data := os.read(reader, _PIPE_BYTES):
        try:
            while data:
                data = data[os.write(spool, data) :]
        except OSError:
            status = 1
    os._exit(status)


class Batch:
    """Records on the forwarder's side."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._records: list[bytes] = []
        self._size = 0
        self._waiting = b""
        self.left_out = 0
        """Records that the writer was too slow for."""

    def add(self, record: bytes) -> None:
        """One encoded record of :mod:`harness.capture.spool`."""
        if self._size > _MOST_WAITING:
            self.left_out += 1
            return
        self._records.append(record)
        self._size += len(record)

    def flush(self) -> None:
        """As much as the pipe takes."""
        if self._pipe < 0:
            return
        self._waiting += b"".join(self._records)
        self._records.clear()
        with contextlib.suppress(BlockingIOError):
            while self._waiting:
                self._waiting = self._waiting[os.write(self._pipe, self._waiting) :]
        self._size = len(self._waiting)

    def close(self) -> Mapping[str, int]:
        """Everything to the writer, waiting for it; how many records had to be left out."""
        if self._pipe >= 0:
            os.set_blocking(self._pipe, True)
            with contextlib.suppress(BrokenPipeError):
                self.flush()
            os.close(self._pipe)
            self._pipe = -1
        return {"left_out": self.left_out}
