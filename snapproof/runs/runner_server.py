"""Forks Avocado's runner of each test from one process that has imported what the tests need.

A runner started as a program imports Avocado, numpy and paramiko anew, for over a second of processor time in
every test.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence

PID = struct.Struct("=i")
"""A runner's first message, its process id with a pidfd of it, and its last one, its exit code."""

# A socket takes 208 KiB at a time by default (net.core.wmem_default).
_MOST_BYTES = 208 << 10

RUNNER_KIND = "avocado-instrumented"
"""Avocado's name for what runs our tests."""
RUNNER_PROGRAM = f"avocado-runner-{RUNNER_KIND}"
"""Its program, which a forked runner stands for."""
_RUNNER_MODULE = "avocado.plugins.runners.avocado_instrumented"


def main(arguments: Sequence[str]) -> None:
    """Import the runner and further modules, and fork a runner for each request until there can be no more.

    Args:
        arguments: number of the socket on which requests come (arguments of the runner as JSON, with the
            socket that the runner's own messages go to), then names of modules. One that cannot be imported
            is left to the test that needs it.
    """
    descriptor, *modules = arguments
    # The kernel removes runners that have ended: the command watches them by itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(descriptor)) as requests:
        for module in (_RUNNER_MODULE, *modules):
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        while True:
            request, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 1)
            if not request:
                return
            with socket.socket(fileno=descriptors[0]) as channel:
                if os.fork() == 0:
                    requests.close()
                    _run(json.loads(request), channel)


def _run(arguments: Sequence[str], channel: socket.socket) -> None:
    """Be the runner of one task, and end with its exit code."""
    code = 1
    try:
        # A session of its own, so that the test does not get the Ctrl-C of the command's terminal.
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _introduce(channel)
        code = _runner(arguments)
    finally:
        with contextlib.suppress(OSError):
            channel.send(PID.pack(code))
        os._exit(code)


def _introduce(channel: socket.socket) -> None:
    """Send this process's id and a handle of it, which is good also if the process ends at once."""
    handle = os.pidfd_open(os.getpid())
    socket.send_fds(channel, [PID.pack(os.getpid())], [handle])
    os.close(handle)


def _runner(arguments: Sequence[str]) -> int:
    """Run Avocado's own runner program in this process, and return its exit code."""
    from avocado.core.exceptions import TestInterrupt
    from avocado.plugins.runners.avocado_instrumented import RunnerApp

    sys.argv = [RUNNER_PROGRAM, "task-run", *arguments]
    try:
        RunnerApp(print).run()
    except TestInterrupt:
        # SIGTERM raises this wherever the runner is; while it hands on a message, it does not end its test.
        for test in multiprocessing.active_children():
            test.terminate()
    for test in multiprocessing.active_children():
        test.join()
    return 0
