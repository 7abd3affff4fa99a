"""Egress workers as processes: started, fed, watched, signalled.

The gateway sees only :class:`Launcher` and :class:`Worker`, so that something else than a process of this machine can
stand in for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import Protocol

from reference_impl.gateway.feed import FeedError, FrameReader, TextFrame
from reference_impl.gateway.records import start_time_of

_READ = 65536


class WorkerListener(Protocol):
    """Who hears of a worker."""

    def worker_reported(self, frame: TextFrame) -> None:
        """The worker said something."""

    def worker_exited(self, code: int) -> None:
        """The process is gone and has been waited for; ``code`` is negative for a signal, as in ``subprocess``."""


class Worker(Protocol):
    """One running worker."""

    @property
    def pid(self) -> int:
        """Process id as this process sees it."""

    @property
    def start_time(self) -> int:
        """See :class:`reference_impl.gateway.records.WorkerRecord`; -1 where it cannot be read."""

    @property
    def queued_bytes(self) -> int:
        """What the worker has not taken yet, beyond the kernel's buffer."""

    def write(self, data: bytes) -> None:
        """Send frames; never blocks."""

    def terminate(self) -> None:
        """SIGTERM; harmless when the process is gone."""

    def kill(self) -> None:
        """SIGKILL; harmless when the process is gone."""


class Launcher(Protocol):
    """Starts workers."""

    def launch(self, listener: WorkerListener) -> Worker:
        """A new worker that waits for its BEGIN frame. Raises :class:`OSError` if there can be none."""


class ProcessLauncher:
    """Starts ``python -m reference_impl.gateway.egress_worker``."""

    def __init__(self, *, telemetry_fd: int | None) -> None:
        self._telemetry_fd = telemetry_fd

    def launch(self, listener: WorkerListener) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *([self._telemetry_fd] if self._telemetry_fd is not None else [])],
                # Ctrl-C in a terminal goes to the whole group: the gateway ends its workers itself, in order.
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return _ProcessWorker(process, ours, listener)

    def _command(self, feed_fd: int) -> list[str]:
        telemetry = ["--telemetry-fd", str(self._telemetry_fd)] if self._telemetry_fd is not None else []
        module = "reference_impl.gateway.egress_worker"
        return [sys.executable, "-m", module, "--feed-fd", str(feed_fd), *telemetry]


class _ProcessWorker:
    """A child process behind a socket pair."""

    def __init__(self, process: subprocess.Popen[bytes], feed: socket.socket, listener: WorkerListener) -> None:
        self._process = process
        self._feed: socket.socket | None = feed
        self._listener = listener
        self._reader = FrameReader()
        self._waiting: deque[memoryview] = deque()
        self._queued = 0
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self.start_time = _known(start_time_of(self._pidfd))
        feed.setblocking(False)
        self._loop.add_reader(feed, self._readable)
        self._loop.add_reader(self._pidfd, self._exited)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def queued_bytes(self) -> int:
        return self._queued

    def write(self, data: bytes) -> None:
        if self._feed is None:
            return
        self._waiting.append(memoryview(data))
        self._queued += len(data)
        if len(self._waiting) == 1:
            self._writable()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _writable(self) -> None:
        feed = self._feed
        if feed is None:
            return
        try:
            while self._waiting:
                self._sent(feed.send(self._waiting[0]))
        except BlockingIOError:
            self._loop.add_writer(feed, self._writable)
            return
        except OSError:
            self._hang_up()
            return
        self._loop.remove_writer(feed)

    def _sent(self, count: int) -> None:
        self._queued -= count
        rest = self._waiting[0][count:]
        if rest:
            self._waiting[0] = rest
        else:
            self._waiting.popleft()

    def _readable(self) -> None:
        self._read_some()

    def _read_some(self) -> bool:
        """Whether there may be more to read."""
        if self._feed is None:
            return False
        try:
            data = self._feed.recv(_READ)
            frames = list(self._reader.read(data))
        except BlockingIOError:
            return False
        except (OSError, FeedError):
            data, frames = b"", []
        if not data:
            self._hang_up()
        for frame in frames:
            if isinstance(frame, TextFrame):
                self._listener.worker_reported(frame)
        return bool(data)

    def _hang_up(self) -> None:
        if self._feed is not None:
            self._loop.remove_reader(self._feed)
            self._loop.remove_writer(self._feed)
            self._feed.close()
            self._feed = None
        self._waiting.clear()
        self._queued = 0

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        # Its last words may still be in the socket: they say why it ended.
        while self._read_some():
            pass
        self._hang_up()
        self._listener.worker_exited(self._process.wait())


def _known(start_time: int | None) -> int:
    return -1 if start_time is None else start_time
