"""Takes the snapshots of `snapproof selftest`, and restores those whose fault no offline check detects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.client import AgentStatus
from harness.errors import HostTooBusy, NotApplicable, SubjectFailed
from harness.status import Status
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.restored_checks import judge_restored
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot, take
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.faults.files import CATALOGUE, Row, apply_fault
from validators.judge import check_file
from validators.verdict import CheckResult

# A small guest, because each fault makes the checks read the whole file; the guest needs half for itself.
RAM_MIB = 128
COVERAGE = 0.4
_FORMS = {"plain": Flow.STOP_MIGRATE_CONT, "mapped-ram": Flow.MAPPED_RAM}


@dataclass(frozen=True)
class Form:
    """An undamaged snapshot in one form.

    Attributes:
        name: "plain" or "mapped-ram".
        snapshot: the snapshot, with its golden image.
        source: the agent's status in the source guest.
    """

    name: str
    snapshot: Snapshot
    source: AgentStatus


def capture_forms(run: Run) -> tuple[list[Form], dict[str, str]]:
    """Snapshot one fresh guest in every form that this QEMU and host can write.

    Returns:
        The forms, and the probed reason for each form that this QEMU or host cannot write.

    Raises:
        SubjectFailed: QEMU failed a save, died, or hung.
    """
    run.require_room()
    forms, missing = [], {}
    with writing_guest(run) as source:
        for name, flow in _FORMS.items():
            folder = run.folder / name
            folder.mkdir()
            run.say(f"Saving it, {name} ({flow.value}).")
            try:
                limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
                forms.append(
                    Form(name, take(flow, source.guest, source.counters, folder, limit), source.status)
                )
            except NotApplicable as error:
                missing[name] = error.sentence
        source.guest.machine.quit()
    return forms, missing


def require_restorable(run: Run, form: Form, label: str = "undamaged") -> None:
    """Restore the undamaged snapshot; a fault counts as caught only if this passes.

    Args:
        run: the self-test's run.
        form: the snapshot.
        label: names the folder of the restored guest's logs.

    Raises:
        SubjectFailed: the restored guest is not the guest at T0.
        HostTooBusy: it does not answer, since other programs have the processors.
    """
    run.say(f"Restoring the undamaged snapshot, {form.name}.")
    failed = _failed(_restored(run, form, form.snapshot.path, label))
    if failed:
        sentence = failed[0].violations[0].sentence
        raise SubjectFailed(f"The undamaged {form.name} snapshot does not restore: {sentence}")


def judge_by_restoring(run: Run, form: Form, row: Row) -> Row:
    """Plant a fault that no offline check detects, restore the file, and return whether it was caught.

    Args:
        run: the self-test's run.
        form: the snapshot that `row` is about.
        row: the fault's row, with the outcome "needs restore".

    Returns:
        The row with "caught by restore" and the checks that failed, or "missed".

    Raises:
        HostTooBusy: the damaged guest is silent, and an undamaged one is late as well, or wrong.
    """
    run.say(f"Restoring with '{row.fault}', {form.name}.")
    fault = next(fault for fault in CATALOGUE if fault.name == row.fault)
    damaged = run.folder / f"{form.name}-{row.fault}"
    try:
        apply_fault(form.snapshot.path, fault, damaged, row.seed)
        failed = _failed(_restored(run, form, damaged, row.fault))
    except HostTooBusy:
        return _silent(run, form, row, damaged)
    finally:
        damaged.unlink(missing_ok=True)
    if not failed:
        return replace(row, outcome="missed")
    return _caught(row, failed)


def _silent(run: Run, form: Form, row: Row, damaged: Path) -> Row:
    """Return the row of a fault whose guest is silent on a busy host, if an undamaged one answers after it.

    Such a guest turns for ever, or waits, and QEMU's share of the processors does not tell which. So it must
    be silent a second time, after the undamaged one has answered.
    """
    run.say("It did not answer, and the host is busy: restoring the undamaged snapshot, and this one again.")
    require_restorable(run, form, "undamaged-after-" + row.fault)
    detail = "The restored guest did not answer, twice; the undamaged one, restored in between, did."
    try:
        failed = _failed(_restored(run, form, damaged, f"{row.fault}-again"))
    except HostTooBusy:
        return replace(row, caught_by=("restore",), detail=detail, outcome="caught by restore")
    if not failed:
        return replace(row, outcome="missed")
    return _caught(row, failed)


def _caught(row: Row, failed: Sequence[CheckResult]) -> Row:
    names = tuple(check.name for check in failed)
    return replace(row, caught_by=names, detail=failed[0].violations[0].sentence, outcome="caught by restore")


def _restored(run: Run, form: Form, path: Path, label: str) -> list[CheckResult]:
    return judge_restored(
        run.stack,
        replace(form.snapshot, path=path),
        form.source,
        check_file(path).t0,
        run.folder / f"{form.name}-{label}-restored",
        run.deadline.at_most(SMALL_SAVE_SECONDS),
    )


def _failed(checks: Sequence[CheckResult]) -> list[CheckResult]:
    return [check for check in checks if check.status is Status.FAIL]
