"""Spreads work over the CPUs by forked copies of this process, which inherit all that the work needs.

Threads would not help: calls take a few microseconds each, and threads wait for one another at Python's GIL.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_PROCESSES = 4
_PIPE_BYTES = 1 << 20


def spread(items: Sequence[Item], work: Callable[[Item], Result], worth: int) -> Iterator[Result]:
    """Call `work` on every item, and yield the results in the order of the items.

    If a copy cannot be made, dies or fails, this process does the rest of its items, and raises what `work`
    raises there.

    Args:
        items: what to work on.
        work: runs in copies of this process, so nothing that it changes is seen here; its results are
            pickled.
        worth: the least number of items for each process; with fewer items, fewer processes are used.
    """
    processes = min(_MAX_PROCESSES, len(os.sched_getaffinity(0)), len(items) // worth)
    if processes < 2 or threading.active_count() > 1:
        # A copy would have the locks that other threads hold, and not those threads.
        yield from map(work, items)
        return
    with contextlib.ExitStack() as stack:
        # This process takes the first of every `processes` items.
        copies = [
            stack.enter_context(_copy(items[number::processes], work)) for number in range(1, processes)
        ]
        for number, item in enumerate(items):
            owner = number % processes
            if owner:
                yield from _receive(copies[owner - 1]) or (work(item),)
            else:
                yield work(item)


def _receive(pipe: BinaryIO) -> tuple[Any, ...]:
    """Return the next result of a copy, nothing if it has ended."""
    try:
        return (pickle.load(pipe),)
    except (EOFError, OSError, pickle.UnpicklingError):
        return ()


@contextlib.contextmanager
def _copy(items: Sequence[Item], work: Callable[[Item], object]) -> Iterator[BinaryIO]:
    """Fork a copy of this process to work on items, and yield the pipe that its pickled results come from."""
    try:
        reading, writing = os.pipe()
    except OSError:
        yield io.BytesIO()
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except OSError:
        # A limit of processes or memory. The pipe ends at once, as that of a copy that died.
        pid = None
    if pid == 0:
        # Signals stay blocked, since handlers are for the original process. If it ends, the pipe breaks.
        os.close(reading)
        _serve(writing, items, work)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb", buffering=_PIPE_BYTES) as pipe:
            yield pipe
    finally:
        if pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _serve(writing: int, items: Sequence[Item], work: Callable[[Item], object]) -> None:
    """Do the work of a copy, then end the copy, also after an exception."""
    try:
        with os.fdopen(writing, "wb") as pipe:
            for item in items:
                pickle.dump(work(item), pipe, pickle.HIGHEST_PROTOCOL)
                pipe.flush()
    finally:
        os._exit(0)
