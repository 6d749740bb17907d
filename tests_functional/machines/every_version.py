"""Takes a live snapshot on every versioned machine type that a QEMU has, and judges each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from harness.errors import NotApplicable, SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.qemu.architectures import Architecture
from harness.qemu.configuration import type_of
from harness.qemu.probe import machine_types
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.flows import save_so_far
from tests_functional.lib.machines import why_not_on
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_SAVED_NAME = "/saved"
_SAVED = "A guest boots on the machine type, and is saved while it runs."


def every_version(run: Run) -> Outcome:
    """Boot a guest on each versioned machine type in turn, the newest first, save it and judge the snapshot.

    If the run has another machine type than the usual one, only its versions are taken. Its properties go
    with each.

    Raises:
        NotApplicable: this QEMU has no versioned machine type for the guest's processor, or of that kind.
        GuestUnreachable: the guest boots on none, or the time is up, so its silence proves nothing.
    """
    begun = time.monotonic()
    architecture = run.stack.image.architecture
    wanted, _, properties = run.stack.machine.partition(",")
    known = versioned_types(machine_types(run.stack.executable), architecture)
    names = types_like(wanted, known, architecture)
    if not names:
        like = "" if wanted == architecture.machine else f" and is one of '{wanted}'"
        raise NotApplicable(
            f"The QEMU '{run.stack.executable}' lists no versioned machine type for {architecture.name} that "
            f"is known here{like}."
        )
    checks: list[CheckResult] = []
    for number, name in enumerate(names, 1):
        run.say(f"Machine type {name} ({number} of {len(names)}).")
        none_yet = all(check.reason for check in checks)
        machine = f"{name},{properties}" if properties else name
        on_it = _on(replace(run, stack=replace(run.stack, machine=machine)), none_yet)
        checks += on_it
        save_so_far(run, outcome_of(run, on_it, time.monotonic() - begun, _holds([name])))
    left_out = [check for check in checks if check.reason and check.name.endswith(_SAVED_NAME)]
    judged_on = [name for name in names if f"{name}{_SAVED_NAME}" not in {check.name for check in left_out}]
    holds = " ".join([_holds(judged_on), *(check.reason for check in left_out)])
    figures = {"machine_types": len(judged_on)}
    return outcome_of(run, checks, time.monotonic() - begun, holds, figures)


def versioned_types(known: tuple[str, ...], architecture: Architecture) -> tuple[str, ...]:
    """Return the versioned machine types of an architecture among those of a QEMU, the newest first.

    Args:
        known: the names that QEMU lists, with aliases and types that are deprecated.
        architecture: the guest's.
    """
    kinds = {name: architecture.machine_type(name) for name in known}
    versions = {name: kind.version(name) for name, kind in kinds.items() if kind}
    found = {name: version for name, version in versions.items() if version}
    return tuple(sorted(found, key=lambda name: (found[name], name), reverse=True))


def types_like(wanted: str, names: Sequence[str], architecture: Architecture) -> tuple[str, ...]:
    """Return the versioned machine types that a machine type of a run asks for.

    Args:
        wanted: the usual type for all of them, a versioned one for itself, another one for its versions.
        names: the versioned ones.
        architecture: the guest's.
    """
    if wanted == architecture.machine or wanted in names:
        return tuple(name for name in names if wanted in (architecture.machine, name))
    kind = architecture.machine_type(wanted)
    return tuple(name for name in names if architecture.machine_type(name) == kind)


def _on(run: Run, none_yet: bool) -> list[CheckResult]:
    """Return the checks of the run's machine type, each with its name in front.

    Args:
        run: with the machine type.
        none_yet: whether the guest has booted on no other type so far.
    """
    name = type_of(run.stack.machine)
    if why := why_not_on(run.stack):
        return [skipped(f"{name}{_SAVED_NAME}", _SAVED, why)]
    folder = run.folder / name
    folder.mkdir()
    run = replace(run, folder=folder)
    try:
        with writing_guest(run) as source:
            cycle = snapshot_cycle(run, source, Flow.LIVE, Flow.LIVE.label)
            source.guest.machine.quit()
    except SubjectFailed as error:
        return [judged(f"{name}{_SAVED_NAME}", _SAVED, [Problem.of_error(error)])]
    except GuestUnreachable as error:
        # The time of the whole test may be up before that of a boot.
        if none_yet or run.deadline.expired:
            raise
        return [judged(f"{name}{_SAVED_NAME}", _SAVED, [Problem.of_error(error)])]
    saved = judged(_SAVED_NAME[1:], _SAVED, [])
    return [replace(check, name=f"{name}/{check.name}") for check in (saved, *cycle.verdict.checks)]


def _holds(names: Sequence[str]) -> str:
    if not names:
        return "No machine type can be judged with this guest."
    return f"The snapshot of a running guest is right on each machine type: {', '.join(names)}."
