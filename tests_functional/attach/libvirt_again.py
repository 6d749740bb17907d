"""Proves the same domain of libvirt many times in a row, and compares it with what it was before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.client import Agent
from harness.attach.machine import AttachedMachine
from harness.codes import Code
from harness.deadline import Deadline
from tests_functional.attach.domains import MAX_STOP, own_libvirt, writing_domain
from tests_functional.attach.libvirt import DISK, judge_domain, make_disk, said
from tests_functional.attach.prove import AttachOptions
from tests_functional.attach.scenario import prove_at, require_restored
from tests_functional.attach.vm_state import judge_vm, vm_state
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.oracles.o5_source_guest.source_guest import check_source_guest
from validators.verdict import CheckResult

_RATE_SECONDS = 60.0
_MEASURE_SECONDS = 3
# QEMU util/thread-pool.c, do_spawn_thread().
_POOL = "worker"
_THREADS = "QEMU has the threads and child processes that it had before the first proof."


def again_in_libvirt(name: str, times: int) -> Callable[[Run], Outcome]:
    """Return a scenario that proves the same domain many times in a row, and finds it as it was.

    Each proof pins its disk. Beside the run state, settings and descriptors, QEMU's threads and its guest's
    writes per second are compared with those before the first.
    """

    def scenario(run: Run) -> Outcome:
        begun, disk = time.monotonic(), make_disk(run)
        checks = []
        with (
            own_libvirt(run, name, "root", disk.parent) as libvirt,
            writing_domain(run, libvirt, DISK.format(disk=disk)) as guest,
        ):
            with AttachedMachine(guest.domain, run.folder / "before", MAX_STOP) as machine:
                before, first = vm_state(machine), measure(machine, guest.source.guest.agent)
            for number in range(1, times + 1):
                folder = run.folder / f"{number:02d}"
                # A restore is the same each time; the last one shows that it is still right.
                options = AttachOptions(run.name, restore=number in (1, times))
                outcome = prove_at(guest.domain, folder, options, run)
                if options.restore:
                    require_restored(outcome)
                checks += [replace(check, name=f"{number:02d}/{check.name}") for check in outcome.checks]
                run.discard(folder)
            with AttachedMachine(guest.domain, run.folder / "after", MAX_STOP) as machine:
                mark = machine.qmp.mark()
                checks += judge_vm(machine, before, mark, run.folder)
                last = measure(machine, guest.source.guest.agent)
            checks += [judge_threads(first, last), judge_domain(*said(libvirt))]
            source = guest.source
            checks += check_source_guest(
                source.guest.machine, source.guest.agent, source.before.median_bucket
            )
        figures: dict[str, float | int | str] = {**first.figures("before"), **last.figures("after")}
        holds = f"A domain was proven {times} times."
        return outcome_of(run, checks, time.monotonic() - begun, holds, {**dict(outcome.figures), **figures})

    return scenario


@dataclass(frozen=True)
class Busy:
    """What a QEMU and its guest are doing.

    Attributes:
        threads: names of QEMU's threads, sorted.
        children: how many child processes it has.
        writes: page writes of the guest's agent per second.
        dirty: MiB per second that QEMU's own `calc-dirty-rate` says.
    """

    threads: tuple[str, ...]
    children: int
    writes: int
    dirty: int

    def figures(self, when: str) -> dict[str, float | int | str]:
        """Return them by name, for a result."""
        return {
            f"{when}/threads": len(self.threads),
            f"{when}/page_writes_per_second": self.writes,
            f"{when}/dirty_mib_per_second": self.dirty,
        }


def measure(machine: AttachedMachine, agent: Agent) -> Busy:
    """Return what a QEMU and its guest are doing, over some seconds."""
    begun, steps = time.monotonic(), sum(agent.status().steps)
    machine.qmp.execute("calc-dirty-rate", {"calc-time": _MEASURE_SECONDS})
    limit = Deadline(_RATE_SECONDS)
    while (rate := machine.qmp.execute("query-dirty-rate"))["status"] != "measured":
        limit.check("QEMU's measurement of its dirty rate")
        machine.pause(limit, 0.2)
    writes = (sum(agent.status().steps) - steps) / (time.monotonic() - begun)
    tasks = Path(f"/proc/{machine.pid}/task")
    # Workers of QEMU's thread pool come and go.
    names = sorted((task / "comm").read_text().strip() for task in tasks.iterdir())
    children = (tasks / str(machine.pid) / "children").read_text().split()
    kept = tuple(name for name in names if name != _POOL)
    return Busy(kept, len(children), round(writes), int(rate["dirty-rate"]))


def judge_threads(before: Busy, now: Busy) -> CheckResult:
    """Check that QEMU has the threads and child processes that it had."""
    problems = []
    if (before.threads, before.children) != (now.threads, now.children):
        sentence = (
            f"QEMU had the threads {', '.join(before.threads)} and {before.children} child processes, and "
            f"has {', '.join(now.threads)} and {now.children}."
        )
        problems.append(Problem(Code.ATTACH_LEFT, sentence, {"what": "threads"}))
    return judged("threads", _THREADS, problems, {"threads": len(now.threads)})
