"""Runs a cycle: saves a writing guest, restores it, and judges it by every oracle that applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from guest_images.agent.client import AgentStatus
from guest_images.agent.counters import AgentCounters
from harness.qemu.machine import Machine
from harness.status import Status
from tests_functional.lib.build_outcome import Cycle
from tests_functional.lib.guest import Guest, Stack, booted, start_writers
from tests_functional.lib.offline_checks import judge_oracles
from tests_functional.lib.restored_checks import judge_restored, no_more
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, Snapshot, take
from tests_functional.lib.source_checks import (
    Baseline,
    baseline,
    judge_overlap,
    judge_source,
    judge_stall,
)
from tests_functional.lib.time_limits import FILL_SECONDS, RESTORE_SECONDS, SAVE_SECONDS
from validators.judge import check_file
from validators.oracles.o5_source_guest.during_save import skip_write_stall
from validators.verdict import CheckResult, Verdict

_NO_ACTS = Acts()


@dataclass(frozen=True)
class Source:
    """A guest whose writers have written each page once, and its state at that time."""

    guest: Guest
    counters: AgentCounters
    status: AgentStatus
    before: Baseline


@contextmanager
def writing_guest(run: Run, prepare: Callable[[Guest], None] | None = None) -> Iterator[Source]:
    """Boot the run's guest, start its writers, and wait until each page has been written once.

    Args:
        run: the test's run.
        prepare: called with the booted guest before its writers start.
    """
    # Checked first, so that a disk that is too small is reported before the slow boot.
    run.require_room()
    run.say(f"Booting the guest ({run.stack.ram_mib} MiB, {run.stack.vcpus} vCPU, {run.stack.accel}).")
    with booted(run.stack, run.folder, run.deadline.at_most(run.stack.image.boot_seconds)) as guest:
        if prepare:
            prepare(guest)
        plan = run.stack.writer_plan(run.pattern, run.seed)
        share = f"{plan.bytes >> 20} of {run.stack.ram_mib} MiB"
        run.say(f"Starting {plan.threads} writer(s), '{plan.pattern}' over {share}.")
        status, counters = start_writers(guest, plan, run.deadline.at_most(FILL_SECONDS * run.stack.slowness))
        yield Source(guest, counters, status, baseline(guest))


def snapshot_cycle(
    run: Run,
    source: Source,
    flow: Flow,
    label: str,
    incoming: tuple[str, ...] = (),
    acts: Acts = _NO_ACTS,
    further: Callable[[Guest], list[CheckResult]] = no_more,
    restored_arguments: tuple[str, ...] = (),
) -> Cycle:
    """Take one snapshot of a writing guest and judge it by every oracle that applies.

    Args:
        run: the test's run.
        source: its writers must be running.
        flow: how to save.
        label: names the cycle in results, and its folder.
        incoming: capabilities that are on beside the flow's own, and that restoring it takes as well.
        acts: what is done meanwhile.
        further: makes checks of the restored guest beyond its memory.
        restored_arguments: what the restored guest's QEMU has beside the run's.

    Raises:
        CommandRefused: QEMU does not start the save.
        NotApplicable: this QEMU or host cannot do this flow.
        SubjectFailed: the save itself failed.
    """
    run.require_room()
    folder = run.folder / label
    folder.mkdir(parents=True)
    run.say(f"{label}: saving ({flow.value}).")
    limit = run.deadline.at_most(SAVE_SECONDS * run.stack.slowness)
    snapshot = take(flow, source.guest, source.counters, folder, limit, acts)
    snapshot = replace(snapshot, incoming=(*snapshot.incoming, *incoming))
    checks = judge_source(source.guest, source.before)
    with resting(run.stack, source.guest.machine, checks):
        restoring = run.with_arguments(restored_arguments)
        return judge_cycle(restoring, source, snapshot, label, checks, further)


@contextmanager
def resting(stack: Stack, machine: Machine, checks: Sequence[CheckResult]) -> Iterator[None]:
    """Stop a bare guest, whose vCPUs never rest and take the processors from its judges.

    A guest with an operating system is left alone, since its timers would notice, and so is a harmed guest.

    Args:
        stack: what the machine runs.
        machine: a source that runs.
        checks: those made of it so far, which say whether it is harmed.
    """
    if not stack.image.bare or any(check.status is Status.FAIL for check in checks):
        yield
        return
    machine.qmp.execute("stop")
    yield
    machine.qmp.execute("cont")


def judge_cycle(
    run: Run,
    source: Source,
    snapshot: Snapshot,
    label: str,
    checks: Sequence[CheckResult],
    further: Callable[[Guest], list[CheckResult]] = no_more,
    stalls_by_test: str = "",
) -> Cycle:
    """Judge a snapshot by its file and by the restored guest.

    Args:
        run: the test's run.
        source: the source guest.
        snapshot: the snapshot, in a folder of its own.
        label: the cycle's name in results.
        checks: checks of the source that have been made.
        further: makes checks of the restored guest beyond its memory.
        stalls_by_test: why the test itself makes writers stall, "" if it does not.
    """
    flow, folder = snapshot.flow, snapshot.path.parent
    run.say(f"{label}: judging the file ({snapshot.size_bytes >> 20} MiB).")
    offline = check_file(
        snapshot.path, golden=snapshot.golden.folder if snapshot.golden else None, agent_ran=True
    )
    t0 = offline.t0
    found = [*checks, judge_oracles(offline, snapshot, source.status)]
    if flow.background:
        found.append(skip_write_stall(stalls_by_test) if stalls_by_test else judge_stall(snapshot))
    if flow.background and t0:
        found.append(judge_overlap(snapshot, t0.steps))
    run.say(f"{label}: restoring it into a new QEMU.")
    found += judge_restored(
        run.stack,
        snapshot,
        source.status,
        t0,
        folder / "restored",
        run.deadline.at_most(RESTORE_SECONDS * run.stack.slowness),
        further,
    )
    cycle = Cycle(label, snapshot, Verdict((*offline.checks, *found), offline.facts))
    if cycle.verdict.status is Status.PASS:
        run.discard(folder)
    return cycle
