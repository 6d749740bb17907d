"""Contract: all that a process has started is found, and its threads by their names."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from harness.linux.processes import children, family, thread_names


def test_descendants_are_read_too() -> None:
    """A command that the process has started, and what that has started."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as shell:
        try:
            deadline = time.monotonic() + 10
            while len(family(shell.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            (own, command) = family(shell.pid)
            assert {shell.pid, command} < set(family(os.getpid()))
            assert children(shell.pid) == [command]
        finally:
            for process in family(shell.pid)[1:]:
                os.kill(process, signal.SIGKILL)
            shell.kill()
    assert own == shell.pid


def test_threads_are_named() -> None:
    """By the number that the kernel knows them by."""
    assert thread_names(os.getpid())[os.getpid()]


def test_a_process_that_is_gone() -> None:
    """It has no children and no threads."""
    with subprocess.Popen(["true"]) as process:
        pass
    assert (children(process.pid), family(process.pid), thread_names(process.pid)) == ([], [process.pid], {})
