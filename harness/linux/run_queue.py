"""Tells how long the threads of a process have run, and how long they waited for a processor."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.linux.processes import family

_PROC = Path("/proc")

LEAST_GRANTED = 0.5
"""The granted share below which a limit that passed is no evidence.

Five to ten times as long as a step takes are allowed; with less than half of the processor that is used up by
other programs more than by the guest.
"""

SAMPLE_SECONDS = 0.025
"""Time between two readings of `sampled_threads`."""


@dataclass(frozen=True)
class ProcessorTime:
    """Times of all threads of a process together.

    Attributes:
        ran_ns: time on a processor.
        waited_ns: time in which a thread could have run and had to wait for a processor.
    """

    ran_ns: int
    waited_ns: int

    def since(self, before: ProcessorTime) -> ProcessorTime:
        """Return what was added since an earlier reading; a thread that ended meanwhile adds nothing."""
        return ProcessorTime(max(0, self.ran_ns - before.ran_ns), max(0, self.waited_ns - before.waited_ns))

    @property
    def granted(self) -> float:
        """Return the share of the wanted processor time that was granted, 1 if none was wanted."""
        wanted = self.ran_ns + self.waited_ns
        return self.ran_ns / wanted if wanted else 1.0


def processor_time(pid: int, proc: Path = _PROC) -> ProcessorTime:
    """Return the times of a process since its start, zeros where the kernel does not count them.

    Source: /proc/<pid>/schedstat in Linux Documentation/scheduler/sched-stats.rst; each thread has one.
    """
    times = thread_times(pid, proc).values()
    return ProcessorTime(sum(one.ran_ns for one in times), sum(one.waited_ns for one in times))


def thread_times(pid: int, proc: Path = _PROC) -> dict[int, ProcessorTime]:
    """Return the times of each thread of a process by its number, empty where the kernel does not count them.

    A wait counts once it is over.
    """
    times: dict[int, ProcessorTime] = {}
    try:
        paths = list(proc.glob(f"{pid}/task/*/schedstat"))
    except OSError:
        # The process has ended while its threads were listed.
        return times
    for path in paths:
        try:
            words = path.read_text().split()
        except OSError:
            # The thread has ended.
            continue
        times[int(path.parent.name)] = ProcessorTime(int(words[0]), int(words[1]))
    return times


@dataclass(frozen=True)
class ThreadReading:
    """The times of the threads of a process and its descendants at one moment.

    Attributes:
        moment: just before they were read, in seconds since the epoch.
        times: of each thread since its start, by its number.
    """

    moment: float
    times: Mapping[int, ProcessorTime]


@contextmanager
def sampled_threads(pid: int | None) -> Iterator[list[ThreadReading]]:
    """Read the times of threads all through this block, into the list that it yields.

    They are those of a process and of what it has started, such as the command that it writes to.

    Args:
        pid: the process, None for no readings.
    """
    readings: list[ThreadReading] = []
    over = threading.Event()

    def read(process: int) -> None:
        while not over.wait(SAMPLE_SECONDS):
            moment = time.time()
            times: dict[int, ProcessorTime] = {}
            for one in family(process):
                times |= thread_times(one)
            readings.append(ThreadReading(moment, times))

    if pid is None:
        yield readings
        return
    reader = threading.Thread(target=read, args=(pid,), name="thread-times", daemon=True)
    reader.start()
    try:
        yield readings
    finally:
        over.set()
        reader.join()
