"""Watches the writers of a guest while its RAM is saved: each must go on, however slow the sink is.

A writer that writes to a page that is not saved yet waits until that page is. The sinks here take 8 MiB/s and
buffer less than a MiB, so that is a fraction of a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.codes import Code
from harness.linux.run_queue import thread_times
from tests_functional.explore.model import COMPLETED, RUNNING, Writers
from tests_functional.explore.session import Session
from tests_functional.explore.sink import Speed
from validators.checks import Problem

STALL_SECONDS = 1.5
"""The longest time that a writer may stand still while the sink reads."""

_POLL_SECONDS = 0.02


class Watch:
    """Remembers when each writer has gone on, and notes the first one that stood still for too long."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._bound = STALL_SECONDS * session.run.stack.slowness
        self._steps = session.counters.steps()
        self._vcpus = self._vcpu_threads()
        self._since = [clock()] * len(self._steps)
        self._waited = self._processor_waits()
        self.gone_on = [False] * len(self._steps)

    def look(self) -> bool:
        """Look at the writers; return whether one stands still for too long, which is noted."""
        now, waited, steps = self._clock(), self._processor_waits(), self._session.counters.steps()
        for number, (before, after) in enumerate(zip(self._steps, steps, strict=True)):
            if after != before:
                self._since[number], self._waited[number], self.gone_on[number] = now, waited[number], True
                continue
            gap = now - self._since[number]
            # A busy host may keep any thread of QEMU from serving the writer.
            if gap - (waited[number] - self._waited[number]) > self._bound:
                self._note(number, gap)
                return True
        self._steps = steps
        return False

    def _note(self, number: int, gap: float) -> None:
        sentence = f"Writer {number} has not gone on for {gap:.1f} s while RAM is saved to a sink that reads."
        self._session.note("write-stall", Problem(Code.WRITE_STALL_TOO_LONG, sentence))

    def _vcpu_threads(self) -> list[int]:
        cpus = self._session.machine.qmp.execute("query-cpus-fast", deadline=self._session.limit())
        return [int(cpu["thread-id"]) for cpu in sorted(cpus, key=lambda cpu: int(cpu["cpu-index"]))]

    def _processor_waits(self) -> list[float]:
        """Return for each writer how long its vCPU, and QEMU's threads beside vCPUs, waited for a processor.

        The other vCPUs always want one, and serve nobody.
        """
        pid = self._session.machine.pid
        times = thread_times(pid) if pid is not None else {}
        others = sum(one.waited_ns for thread, one in times.items() if thread not in self._vcpus)
        found = []
        for number in range(len(self._steps)):
            thread = self._vcpus[min(number, len(self._vcpus) - 1)]
            own = times[thread].waited_ns if thread in times else 0
            found.append((others + own) / 1e9)
        return found


def should_write(session: Session) -> bool:
    """Return whether the model says that the guest's writers go on while its RAM is saved."""
    model = session.model
    return (
        model.save is not None
        and session.save is not None
        and model.save.ends == {COMPLETED}
        and model.run_state == RUNNING
        and model.writers is Writers.ON
    )


def watch_slow(session: Session) -> None:
    """Wait until each writer has gone on while the sink is slow, or the save is nearly over."""
    if not should_write(session) or session.save is None or session.save.sink.speed is not Speed.SLOW:
        return
    watch = Watch(session)
    while not all(watch.gone_on) and session.save_goes_on():
        if watch.look():
            return
        time.sleep(_POLL_SECONDS)
