"""Part of the program on_host.py (Python 3.9, standard library): moves guest memory between NUMA nodes."""

from __future__ import annotations

import os
import threading
from types import TracebackType

_BALANCING = "/proc/sys/kernel/numa_balancing"
_OTHER_NODE = "/sys/devices/system/node/node1"
# Linux has the settings in debugfs from 5.13 on, before that beside the switch.
_PACES = (f"{_BALANCING}_", "/sys/kernel/debug/sched/numa_balancing/")
# Scans for memory on the wrong node begin at once and follow quickly.
_PACE = {"scan_delay_ms": "100", "scan_period_min_ms": "100", "scan_period_max_ms": "200"}
_STAY_SECONDS = 0.5


class CannotBalance(Exception):
    """The kernel cannot balance memory; the reason as a sentence."""


class Balancing:
    """Has the kernel move a process's memory to the node of its threads, which change nodes all the time.

    Attributes:
        moved: how many pages the kernel moved during the `with`, of any process.
    """

    def __init__(self, process: int) -> None:
        """Describe it; raise CannotBalance where the kernel has one node, or does not balance."""
        if not os.path.exists(_BALANCING) or not os.path.exists(_OTHER_NODE):
            raise CannotBalance("The host has one NUMA node, or its kernel does not balance memory.")
        self.moved = 0
        self._process = process
        self._over = threading.Event()
        self._mover = threading.Thread(target=self._move, daemon=True)
        self._before = ""

    def __enter__(self) -> Balancing:
        self.moved = -moved_pages()
        for place in _PACES:
            for name, value in _PACE.items():
                if os.path.exists(place + name):
                    _write(place + name, value)
        with open(_BALANCING) as file:
            self._before = file.read().strip()
        _write(_BALANCING, "1")
        self._mover.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._mover.join()
        _write(_BALANCING, self._before)
        self.moved += moved_pages()

    def _move(self) -> None:
        processors = os.sched_getaffinity(0)
        while not self._over.is_set():
            for processor in sorted(processors):
                pin(self._process, {processor})
                self._over.wait(_STAY_SECONDS)
        pin(self._process, processors)


def pin(process: int, processors: set[int]) -> None:
    """Let all threads of a process run on these processors alone; a process that has ended has none."""
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except FileNotFoundError:
        return
    for thread in threads:
        try:
            os.sched_setaffinity(int(thread), processors)
        except ProcessLookupError:
            # The thread has ended meanwhile.
            continue


def moved_pages() -> int:
    """Return how many pages balancing has moved since the boot."""
    with open("/proc/vmstat") as file:
        found = [line.split()[1] for line in file if line.startswith("numa_pages_migrated ")]
    return int(found[0]) if found else 0


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
