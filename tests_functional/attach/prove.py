"""Proves the background snapshot of a VM that runs already: look, save, judge, restore."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.attach.machine import AttachedMachine
from harness.attach.pins import pin_place
from harness.deadline import Deadline
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, SnapproofError
from harness.guest.shell import GuestShell
from harness.hosts.local import local_facts
from harness.hosts.spec import LOCAL
from harness.status import Status, worst
from tests_functional.attach.guest_writers import GuestWay, GuestWriters, writers_in
from tests_functional.attach.look import GoldenWay, Look, look
from tests_functional.attach.restore import Asked, judge_clone
from tests_functional.attach.save import AttachedSnapshot, save_attached
from tests_functional.attach.through_libvirt import COPY_PREFIX, restore_through_libvirt
from tests_functional.attach.vm_state import judge_vm, vm_state
from tests_functional.lib.build_outcome import build_outcome
from tests_functional.lib.outcome import Outcome
from validators.judge import check_file
from validators.oracles.o5_source_guest.source_guest import check_source_guest
from validators.verdict import CheckResult, Verdict

_HOLDS = "The snapshot is the guest at T0, and the VM is as it was before."
_STRUCTURE_ALONE = (
    "The file is whole and the VM is as it was before; whether its pages are those of T0 was not judged, for "
    "lack of a golden image and of an agent in the guest."
)
_NOTHING_WRITTEN = (
    "The snapshot is the guest at T0, and the VM is as it was before; but the guest wrote to no page while "
    "it was saved, so the protection of its memory was not put to the test."
)
_KILLED = "If this command is killed, its guard puts the VM back; if both are killed, type: {commands}."
_COPY = (
    "Having libvirt restore it beside the domain, paused. The guard ends it; if that is killed too, type: "
    f"virsh destroy {COPY_PREFIX}... ('virsh list --name' has its whole name)."
)
# Beside the save, a file is judged and a restored guest is asked.
_TIMES = 4
_JUDGED_ALREADY = "source-unprotected"
_OF_PAGES = ("golden", "write-order")
_ERRORS: dict[Status | None, type[SnapproofError]] = {
    Status.SKIP: NotApplicable,
    Status.MISS: MachineryMissing,
}


@dataclass(frozen=True)
class AttachOptions:
    """What is wanted of a VM.

    Attributes:
        name: of the result.
        golden: make a golden image, where that is possible.
        restore: restore the snapshot in a QEMU of our own.
        seconds: limit of the save.
        guest: how our agent gets into the guest, None if it is not to write there.
        pin: pin the disks at T0, for the restored guest.
        further: checks of the restored guest, by a shell in it.
        through_libvirt: have libvirt restore the snapshot, too.
    """

    name: str = "attach"
    golden: bool = True
    restore: bool = True
    seconds: float = 600.0
    guest: GuestWay | None = None
    pin: bool = True
    further: Callable[[GuestShell], list[CheckResult]] | None = None
    through_libvirt: bool = False


def require_fit(found: Look) -> None:
    """Check that nothing is in the way.

    Raises:
        SetupBroken, MachineryMissing, NotApplicable: all that is, in one text; the worst decides the class.
    """
    if not found.obstacles:
        return
    kind = _ERRORS.get(worst(one.status for one in found.obstacles), SetupBroken)
    raise kind(" ".join(one.sentence for one in found.obstacles))


def prove(
    machine: AttachedMachine, options: AttachOptions, folder: Path, say: Callable[[str], None]
) -> Outcome:
    """Save a VM and judge the snapshot and the VM.

    Args:
        machine: the VM.
        options: what is wanted.
        folder: of this proof.
        say: called with a sentence before each step.

    Raises:
        SnapproofError: nothing can be judged; the VM is as it was.
    """
    begun = time.monotonic()
    found = look(machine, folder, options.golden)
    require_fit(found)
    say(_KILLED.format(commands=machine.by_hand()))
    with ExitStack() as opened:
        writers = None
        if options.guest is not None:
            say(f"Bringing our agent into the guest, by {options.guest.name}.")
            writers = opened.enter_context(writers_in(options.guest, _TIMES * options.seconds))
        place = opened.enter_context(pin_place()) if options.restore and options.pin else None
        before, mark = vm_state(machine), machine.qmp.mark()
        say(f"Saving {found.ram_mib} MiB of RAM{_how(found)}.")
        snapshot = save_attached(machine, folder, found.ram_mib, found.golden, options.seconds, place)
        say("Judging the file.")
        verdict = check_file(snapshot.path, golden=snapshot.golden.folder if snapshot.golden else None)
        checks, changes = list(verdict.checks), tuple[str, ...]()
        if options.restore:
            say("Restoring it in a QEMU made like the VM's.")
            asked = Asked(writers, verdict.t0, options.further)
            restored, changes = judge_clone(machine, snapshot, folder, Deadline(options.seconds), asked)
            checks += restored
        if options.through_libvirt:
            say(_COPY)
            restored, more = restore_through_libvirt(machine, snapshot, folder, options.seconds)
            checks += restored
            changes += more
        machine.unpin()
        checks += [*judge_vm(machine, before, mark, folder), *_judge_source(machine, writers)]
    return build_outcome(
        options.name,
        checks,
        time.monotonic() - begun,
        what_holds(checks, snapshot.written),
        {**_environment(machine, found, snapshot), "restored_with": list(changes)},
        _figures(snapshot, verdict),
    )


def _judge_source(machine: AttachedMachine, writers: GuestWriters | None) -> list[CheckResult]:
    """Judge the VM's guest by our agent in it."""
    if writers is None:
        return []
    found = check_source_guest(machine, writers.agent, writers.median_bucket)
    return [check for check in found if check.name != _JUDGED_ALREADY]


def what_holds(checks: Sequence[CheckResult], written: int | None = None) -> str:
    """Return what is proven where all checks pass: without a look at pages, the structure alone.

    Args:
        checks: what was checked.
        written: how many pages the guest had written when the save had ended, None if that is not known.
    """
    looked = any(check.name in _OF_PAGES and check.status is not Status.SKIP for check in checks)
    if not looked:
        return _STRUCTURE_ALONE
    return _NOTHING_WRITTEN if written == 0 else _HOLDS


def _how(found: Look) -> str:
    if found.golden is not GoldenWay.NONE:
        return ", with a golden image, for which the guest is stopped" if found.running else ", golden image"
    return " without a golden image: by its structure alone"


def _figures(snapshot: AttachedSnapshot, verdict: Verdict) -> dict[str, float | int | str]:
    """Return the figures of the snapshot by the names that those of other tests have."""
    figures: dict[str, float | int | str] = {
        "file_bytes": snapshot.path.stat().st_size,
        "downtime_ms": snapshot.figures.downtime_ms,
        "total_ms": snapshot.figures.total_ms,
        "guest_stopped_ms": round(snapshot.stopped_ms, 1),
        "pages_in_stream": int(verdict.facts["data pages"]) + int(verdict.facts["zero pages"]),
    }
    for name, check, fact in (
        ("pages_compared_with_golden", "golden", "pages compared"),
        ("pages_not_in_golden", "golden", "pages not in the golden image"),
        ("agent_pages_verified_offline", "write-order", "pages verified"),
    ):
        found = verdict.check(check)
        if found is not None and fact in found.facts:
            figures[name] = found.facts[fact]
    if snapshot.written is not None:
        figures["pages_written_during_save"] = snapshot.written
    return {f"01-attached/{name}": value for name, value in figures.items()}


def _environment(machine: AttachedMachine, found: Look, snapshot: AttachedSnapshot) -> dict[str, Any]:
    facts = local_facts()
    notes = [f"The disks were not pinned at T0: {snapshot.unpinned}."] if snapshot.unpinned else []
    return {
        "host": LOCAL,
        "host_kernel": facts.kernel,
        "host_architecture": facts.architecture,
        "host_cpus": facts.cpus,
        "qemu_version": machine.version(),
        "accelerator": machine.config.accel,
        "machine": machine.config.machine,
        "ram_mib": machine.config.ram_mib,
        "vcpus": machine.config.vcpus,
        "looked": found.facts,
        "notes": [*found.notes, *notes],
    }
