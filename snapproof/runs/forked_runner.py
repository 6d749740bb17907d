"""Asks the runner server for runners, and stands for each as asyncio's processes do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from snapproof.runs.runner_server import PID

# The folder that the command was started in is no place for modules.
_PROGRAM = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; "
    "from snapproof.runs.runner_server import main; main(sys.argv[1:])"
)


class ForkedRunner:
    """A runner that the server has forked, under the names that Avocado knows of asyncio's `Process`.

    Attributes:
        pid: its process id.
        returncode: exit code, or minus the signal that ended it (any counts as SIGKILL); None while it runs.
    """

    def __init__(self, pid: int, handle: int, channel: socket.socket) -> None:
        """Watch a runner from within a running event loop.

        Args:
            pid: its process id.
            handle: its pidfd, which is closed when it ends.
            channel: from which its exit code comes.
        """
        self.pid = pid
        self.returncode: int | None = None
        self._channel = channel
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._loop.add_reader(self._handle, self._end)

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return int(await asyncio.shield(self._ended))

    def terminate(self) -> None:
        """Send it SIGTERM; raise ProcessLookupError if it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL; raise ProcessLookupError if it has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._handle, number)

    def _end(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        last = b""
        with self._channel as channel, contextlib.suppress(BlockingIOError):
            last = channel.recv(PID.size)
        self.returncode = PID.unpack(last)[0] if last else -signal.SIGKILL
        self._ended.set_result(self.returncode)


class RunnerServer:
    """The process that forks runners, and a new one wherever it has been killed; its runners go on.

    Attributes:
        process: the server of now.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        """Start a server that imports some modules, named as for `import`."""
        self._modules = tuple(modules)
        self._begin()

    async def start(self, arguments: Sequence[str]) -> ForkedRunner:
        """Start a runner in a session of its own.

        Args:
            arguments: of Avocado's runner, behind `task-run`.

        Raises:
            OSError: the server or the runner has ended, and so has another one.
        """
        asked = self._requests
        try:
            return await _forked(asked, arguments)
        except OSError:
            # Another runner may have found that before us.
            if self._requests is asked:
                self.end()
                self._begin()
            return await _forked(self._requests, arguments)

    def _begin(self) -> None:
        self._requests, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(its.fileno()), *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )

    def end(self) -> None:
        """End the server, also one that is stopped or hangs."""
        self._requests.close()
        self.process.kill()
        self.process.wait()


async def _forked(requests: socket.socket, arguments: Sequence[str]) -> ForkedRunner:
    """Ask a server for a runner.

    Raises:
        OSError: the server has ended, or the runner before it said its process id.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        with its:
            socket.send_fds(requests, [json.dumps(arguments).encode()], [its.fileno()])
        await _readable(ours)
        first, handles, _, _ = socket.recv_fds(ours, PID.size, 1)
        if not handles:
            raise ConnectionResetError
        return ForkedRunner(PID.unpack(first)[0], handles[0], ours)
    except BaseException:
        # The wait may have been cancelled. A runner that comes later has no peer, and ends.
        ours.close()
        raise


async def _readable(channel: socket.socket) -> None:
    """Wait until there is a message, or the other end is closed."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(channel, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(channel)


@contextmanager
def runner_server(modules: Sequence[str]) -> Iterator[RunnerServer]:
    """Start a server that imports some modules, and end it behind the block; its runners go on."""
    server = RunnerServer(modules)
    try:
        yield server
    finally:
        server.end()
