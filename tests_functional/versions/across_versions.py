"""Takes a snapshot with one QEMU and restores it with newer QEMUs, with the same machine type."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from harness.errors import NotApplicable
from harness.qemu import migration
from harness.qemu.architectures import MOVING_CPUS
from harness.qemu.configuration import type_of, with_type
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.guest import Stack
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.restored_checks import judge_restored
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot, take
from tests_functional.lib.time_limits import RESTORE_SECONDS, SAVE_SECONDS
from validators.judge import check_file
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source


def restored_by_newer(newer: Mapping[str, Path]) -> Callable[[Run], Outcome]:
    """Return a scenario that restores one snapshot with each of these QEMUs, by their label in the run."""
    return lambda run: _restored(run, newer)


def _restored(run: Run, newer: Mapping[str, Path]) -> Outcome:
    if not newer:
        raise NotApplicable("This run has no newer QEMU than this one; name several with --qemu.")
    begun = time.monotonic()
    run = replace(run, stack=kept_stack(run.stack))
    with writing_guest(run) as source:
        known = migration.capabilities(source.guest.machine)
        flow = Flow.LIVE if migration.BACKGROUND_SNAPSHOT in known else Flow.STOP_AND_SAVE
        run.say(f"Saving ({flow.value}).")
        deadline = run.deadline.at_most(SAVE_SECONDS * run.stack.slowness)
        snapshot = take(flow, source.guest, source.counters, run.folder, deadline)
        status = source.status
        source.guest.machine.quit()
    found = check_file(snapshot.path, agent_ran=True)
    checks = list(found.checks)
    machine = _machine_type(snapshot)
    for label, executable in newer.items():
        run.say(f"Restoring it with '{label}' as a {machine}.")
        stack = replace(run.stack, executable=executable, machine=with_type(run.stack.machine, machine))
        limit = run.deadline.at_most(RESTORE_SECONDS * run.stack.slowness)
        restored = judge_restored(stack, snapshot, status, found.t0, run.folder / label, limit)
        checks += [replace(check, name=f"newer/{label}/{check.name}") for check in restored]
    if all(not check.violations for check in checks):
        run.discard(run.folder)
    holds = f"A snapshot of a {machine} is restored right by {', '.join(newer)}."
    return outcome_of(run, checks, time.monotonic() - begun, holds, {"restores": len(newer)})


def kept_stack(stack: Stack) -> Stack:
    """Return the stack with a machine and a CPU model that newer versions of QEMU have alike.

    Where another CPU model takes the place of the usual one, its accelerator is TCG.

    Raises:
        NotApplicable: QEMU does not keep this machine type, or the CPU model that the user names.
    """
    architecture, name = stack.image.architecture, type_of(stack.machine)
    kind = architecture.machine_type(name)
    if kind is None or not kind.versioned:
        raise NotApplicable(
            f"Machine type '{name}' of {architecture.name} has no versions: QEMU may change it with each "
            "release, and does not promise that a newer one restores its snapshots."
        )
    if type_of(stack.cpu) in MOVING_CPUS:
        raise NotApplicable(
            f"CPU model '{stack.cpu}' is another processor in each version of QEMU, so a newer one need not "
            "restore its snapshots; name another with --cpu."
        )
    if stack.cpu or not architecture.kept_cpu:
        return stack
    # KVM runs the model of the host alone, and that moves (QEMU 10.0 target/arm/kvm.c kvm_arch_init_vcpu()).
    return replace(stack, cpu=architecture.kept_cpu, accel="tcg")


def _machine_type(snapshot: Snapshot) -> str:
    """Return the versioned machine type that the file's configuration section names."""
    with open_source(snapshot.path) as file:
        return read_index(file).configuration.machine
