"""Packets of the fabric to the spool file, without letting the disk slow the forwarder down.

The forwarder appends records to a batch and writes the batch into a pipe that never blocks it; a process of its own
empties the pipe into the file. When that process can't keep up, packets are left out of the capture and counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from typing import NoReturn

from harness.engines.netns import syscalls

_PIPE_BYTES = 1 << 20
CHUNK = 1 << 20
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
    """Records on the forwarder's side: chunks that wait for the pipe, so that a backlog costs nothing per write."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._records: list[bytes] = []
        self._fresh = 0
        """Bytes in the records that no chunk holds yet."""
        self._chunks: deque[tuple[int, bytes]] = deque()
        """(records, their bytes), at most about ``CHUNK`` each."""
        self._offset = 0
        """How much of the first chunk is written."""
        self._size = 0
        self.left_out = 0
        """Records that the writer was too slow for, or that came after its end."""

    def add(self, record: bytes) -> None:
        """One encoded record of :mod:`harness.capture.spool`."""
        if self._size > _MOST_WAITING or self._pipe < 0:
            self.left_out += 1
            return
        self._records.append(record)
        self._fresh += len(record)
        self._size += len(record)
        if self._fresh >= CHUNK:
            self._cut_chunk()

    def flush(self) -> None:
        """As much as the pipe takes. Where the writer has ended, the capture ends with what it has written."""
        if self._pipe < 0:
            return
        self._cut_chunk()
        try:
            while self._chunks:
                self._write_first()
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._give_up()

    def close(self) -> None:
        """Everything to the writer, waiting for it."""
        if self._pipe >= 0:
            os.set_blocking(self._pipe, True)
            self.flush()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _cut_chunk(self) -> None:
        if self._records:
            self._chunks.append((len(self._records), b"".join(self._records)))
            self._records.clear()
            self._fresh = 0

    def _write_first(self) -> None:
        _, chunk = self._chunks[0]
        written = os.write(self._pipe, memoryview(chunk)[self._offset :])
        self._offset += written
        self._size -= written
        if self._offset == len(chunk):
            self._chunks.popleft()
            self._offset = 0

    def _give_up(self) -> None:
        self.left_out += sum(records for records, _ in self._chunks)
        self._chunks.clear()
        self._size = self._offset = 0
        os.close(self._pipe)
        self._pipe = -1
