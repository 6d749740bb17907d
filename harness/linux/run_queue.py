"""Tells how long the threads of a process have run, and how long they waited for a processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


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
    ran = waited = 0
    for path in proc.glob(f"{pid}/task/*/schedstat"):
        try:
            words = path.read_text().split()
        except OSError:
            # The thread has ended.
            continue
        ran, waited = ran + int(words[0]), waited + int(words[1])
    return ProcessorTime(ran, waited)
