"""Find what a test has left in its process, which later tests of the same process would meet."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .calls import idle_threads
from .golden import MAPPING_NAME

# A thread that has been joined still needs a moment to end.
_END_SECONDS = 2.0
_SIGNALS = (signal.SIGBUS, signal.SIGSEGV, signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM)
# A mapping of a memfd, of shared memory, of reserved huge pages or of an unlinked file has this in its line
# of /proc/PID/maps; so has an io_uring. Private anonymous mappings look like those of the interpreter.
_MAPPED = (b"(deleted)", b"[io_uring]")
_GOLDEN = MAPPING_NAME.encode()


class Leftovers:
    """The state of this process when it was made, to compare with later."""

    def __init__(self) -> None:
        self._descriptors = _descriptors()
        self._mappings = _mappings()
        self._settings = _settings()

    def found(self) -> list[str]:
        """Return a phrase for each thing that is there now and was not, or that differs."""
        found = [f"the descriptor of {what}" for what in _new(self._descriptors, _descriptors())]
        found += [f"the mapping {line}" for line in _mappings() if line not in self._mappings]
        found += [f"a thread that waits in {where}" for where in _threads()]
        found += _children()
        settings = _settings()
        found += [f"another {name}" for name, value in self._settings.items() if settings[name] != value]
        return found


def _new(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [now[number] for number in now if before.get(number) != now[number]]


def _descriptors() -> dict[str, str]:
    """Return what each open descriptor refers to, by its number."""
    found = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 (thousands of times on an emulated host)
        # The descriptor of the folder itself is closed by now.
        with contextlib.suppress(OSError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
    return found


def _mappings() -> list[str]:
    """Return the lines of /proc/self/maps about memory that tests map, and not the interpreter."""
    with open("/proc/self/maps", "rb") as maps:  # noqa: PTH123
        text = maps.read()
    if sum(map(text.count, _MAPPED)) == text.count(_GOLDEN):
        return []
    return [
        line.decode(errors="replace")
        for line in text.splitlines()
        if any(mark in line for mark in _MAPPED) and _GOLDEN not in line
    ]


def _threads() -> list[str]:
    """Return where each thread waits in the kernel that is neither ours nor kept for calls."""
    end = time.monotonic() + _END_SECONDS
    while True:
        known = {str(os.getpid()), *map(str, idle_threads())}
        others = [name for name in os.listdir("/proc/self/task") if name not in known]  # noqa: PTH208
        if not others or time.monotonic() > end:
            return [_wait_of(name) for name in others]
        time.sleep(0.001)


def _wait_of(thread: str) -> str:
    try:
        return Path(f"/proc/self/task/{thread}/wchan").read_text() or "an unknown place"
    except OSError:
        return "an unknown place"


def _children() -> list[str]:
    try:
        found, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return []
    return ["a child process that has ended" if found else "a child process"]


def _settings() -> dict[str, object]:
    with open("/proc/swaps", "rb") as swaps:  # noqa: PTH123
        devices = [line.split()[0] for line in swaps.read().splitlines()]
    return {
        "swap device": devices,
        "set of processors to run on": os.sched_getaffinity(0),
        "handler of a signal": [signal.getsignal(number) for number in _SIGNALS],
        "mount namespace": os.readlink("/proc/self/ns/mnt"),  # noqa: PTH115
    }
