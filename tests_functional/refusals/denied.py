"""Checks that QEMU refuses clearly, and harms nothing, on a host that lacks or forbids userfaultfd."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.qemu import migration
from harness.qemu.configuration import QEMU_LOG
from harness.qemu.machine import Machine
from harness.qemu.messages import NOT_SUPPORTED_BY_HOST
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.failures.cases import Case
from tests_functional.failures.ending import (
    LIMIT_SECONDS,
    Ending,
    judge_ending,
    judge_resumed,
    wait_ending,
)
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, snapshot_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.source_checks import baseline, judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.refusals.migration_options import settings
from tests_functional.refusals.uffd_restrictions import (
    UFFD_RESTRICTIONS,
    RestrictedRun,
    UffdRestriction,
    restricted,
)
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_REFUSED = "Without userfaultfd QEMU refuses the capability or the save, and it says what is missing."
_REASON = "QEMU's message tells a kernel that lacks userfaultfd from one that forbids it."
_TRACED = "QEMU's trace gives the errno with which the kernel refused."
_LIFTED = "When userfaultfd is allowed again, the same QEMU can take a snapshot."
_BY_DEVICE = "QEMU opens its userfaultfd by /dev/userfaultfd."
_NO_REASON = "QEMU gives no reason"
# QEMU has this trace point since it knows the device (8.0 util/trace-events).
_DEVICE_TRACE = "uffd_detect_open_mode"


def denied(name: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of UFFD_RESTRICTIONS."""
    return lambda run: _denied(run, name, UFFD_RESTRICTIONS[name])


def _denied(run: Run, name: str, restriction: UffdRestriction) -> Outcome:
    begun = time.monotonic()
    with restricted(run, restriction) as place, writing_guest(place.run) as source:
        migration.require_known(source.guest.machine, migration.BACKGROUND_SNAPSHOT)
        checks = list(place.checks)
        if restriction.device and _knows_device(source.guest.machine):
            checks += _by_device(place.run, source)
        else:
            with place.in_force():
                checks += _refused(place.run, source, restriction)
            if place.control:
                checks += _lifted(place, source, restriction)
        source.guest.machine.quit()
    checks = [replace(check, name=f"denied/{name}/{check.name}") for check in checks]
    if all(check.status is not Status.FAIL for check in checks):
        run.discard(run.folder)
    holds = f"Without userfaultfd ({name}), QEMU refuses with a clear message, and the guest goes on."
    if restriction.device:
        holds = "A QEMU that knows /dev/userfaultfd uses it; any other refuses, and the guest goes on."
    return outcome_of(run, checks, time.monotonic() - begun, holds)


def _knows_device(machine: Machine) -> bool:
    """Return whether this QEMU tries /dev/userfaultfd; one that does has a trace point for it."""
    try:
        return bool(machine.qmp.execute("trace-event-get-state", {"name": _DEVICE_TRACE}))
    except CommandRefused:
        return False


def _by_device(run: Run, source: Source) -> list[CheckResult]:
    run.say("This QEMU knows /dev/userfaultfd, so a background snapshot must be right.")
    log = _Log(source.guest.machine)
    checks = _cycle(run, source, Flow.LIVE, "by-device")
    return [*checks, judge_open_mode(log.new_text())]


def _refused(run: Run, source: Source, restriction: UffdRestriction) -> list[CheckResult]:
    """Ask for a background snapshot, judge the refusal and the guest, and take a stop-and-save snapshot."""
    machine, log = source.guest.machine, _Log(source.guest.machine)
    before = settings(machine)
    words = migration.try_set_capability(machine, migration.BACKGROUND_SNAPSHOT, True)
    if not words:
        ending = _save(machine, run.folder / "vmstate", SMALL_SAVE_SECONDS)
        words = "" if ending.status == "completed" else ending.error or _NO_REASON
        migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
    run.say(f"QEMU's message: {words or 'none, it completes the save'}.")
    return [
        judge_refusal(words, settings(machine) != before),
        judge_reason(words, restriction.error),
        judge_trace(log.new_text(), restriction.error),
        *judge_source(source.guest, source.before),
        *_cycle(run, source, Flow.STOP_AND_SAVE, "plain"),
    ]


def _lifted(place: RestrictedRun, source: Source, restriction: UffdRestriction) -> list[CheckResult]:
    """Judge a save that loses userfaultfd after the capability was set, and a snapshot once it is back."""
    try:
        migration.require_capability(source.guest.machine, migration.BACKGROUND_SNAPSHOT)
    except NotApplicable as error:
        return [skipped("lifted", _LIFTED, error.sentence)]
    checks = _refused_late(place, source, restriction)
    # The checks above have reported the leftovers of the failed save, so the next ones start from here.
    afterwards = replace(source, before=baseline(source.guest))
    return checks + _cycle(place.run, afterwards, Flow.LIVE, "lifted")


def _refused_late(place: RestrictedRun, source: Source, restriction: UffdRestriction) -> list[CheckResult]:
    """Judge a save while userfaultfd is denied that was allowed when the capability was set."""
    machine, log = source.guest.machine, _Log(source.guest.machine)
    place.run.say("The capability is set; saving without userfaultfd.")
    case = Case("late", restriction.reason, "", frozenset({"refused", "failed"}))
    with place.in_force():
        ending = _save(machine, place.run.folder / "vmstate", LIMIT_SECONDS)
    checks = [judge_ending(case, ending), judge_resumed(case, machine, source.counters)]
    checks.append(judge_trace(log.new_text(), restriction.late))
    if machine.qmp.execute("query-status")["status"] == "paused":
        # judge_resumed has reported that the guest is paused; a user would resume it.
        machine.qmp.execute("cont")
    migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
    checks += judge_source(source.guest, source.before)
    return [replace(check, name=f"late/{check.name.rpartition('/')[2]}") for check in checks]


def _save(machine: Machine, path: Path, seconds: float) -> Ending:
    """Save with the capabilities as they are; return how the save ended."""
    refusal = migration.try_start_save(machine, migration.exec_sink(path))
    ending = wait_ending(machine, seconds, refusal)
    migration.wait_cleaned_up(machine, Deadline(LIMIT_SECONDS))
    return ending


def _cycle(run: Run, source: Source, flow: Flow, label: str) -> list[CheckResult]:
    """Take a snapshot and judge it by every oracle."""
    found = snapshot_cycle(run, source, flow, label).verdict.checks
    return [replace(check, name=f"{label}/{check.name}") for check in found]


class _Log:
    """Reads the text that is added to a QEMU's log from now on."""

    def __init__(self, machine: Machine) -> None:
        self._path = machine.folder / QEMU_LOG
        self._begin = self._path.stat().st_size

    def new_text(self) -> str:
        """Return the text added so far."""
        return self._path.read_bytes()[self._begin :].decode(errors="replace")


def judge_refusal(words: str, changed: bool) -> CheckResult:
    """Check how QEMU refused the capability.

    Args:
        words: QEMU's message when the capability was set, or else when the save failed; "" if it completed.
        changed: whether the refusal has changed a setting.
    """
    problems = []
    if not words:
        problems.append(
            Problem(
                Code.REFUSAL_ABSENT,
                "QEMU accepts 'background-snapshot' and completes the save, though no page is protected.",
            )
        )
    elif not re.search(r"background.snapshot", words, re.IGNORECASE) or not re.search(
        r"kernel|userfaultfd|write.protect", words, re.IGNORECASE
    ):
        problems.append(
            Problem(
                Code.REFUSAL_UNCLEAR,
                f"QEMU's message names neither the capability nor what is missing: '{words}'.",
            )
        )
    if changed:
        problems.append(Problem(Code.REFUSAL_CHANGED_SETTING, "The refusal has changed a setting."))
    return judged("refused", _REFUSED, problems, {"words": words})


def judge_reason(words: str, error: int) -> CheckResult:
    """Check that QEMU does not call userfaultfd unsupported if only a permission is missing.

    Args:
        words: QEMU's message.
        error: errno of the kernel's refusal.
    """
    problems = []
    if error == errno.EPERM and re.search(r"not supported", words, re.IGNORECASE):
        blames_kernel = words.startswith(NOT_SUPPORTED_BY_HOST)
        problems.append(
            Problem(
                Code.REFUSAL_BLAMES_KERNEL if blames_kernel else Code.REFUSAL_CALLED_UNSUPPORTED,
                f"The kernel forbids userfaultfd (EPERM), and QEMU calls it unsupported: '{words}'.",
                {"errno": errno.errorcode[error]},
            )
        )
    return judged("reason", _REASON, problems)


def judge_open_mode(text: str) -> CheckResult:
    """Check by a piece of QEMU's log that QEMU opened its userfaultfd by the device."""
    # 1 is UFFD_USE_DEV_PATH (QEMU 8.0 util/userfaultfd.c)
    problems = []
    if f"{_DEVICE_TRACE} 1" not in text:
        problems.append(Problem(Code.TRACE_NO_DEVICE, "QEMU's trace does not say that it used the device."))
    return judged("by-device/trace", _BY_DEVICE, problems)


def judge_trace(text: str, error: int) -> CheckResult:
    """Check that a userfaultfd trace point in a piece of QEMU log gives the errno, where there is one."""
    lines = [
        line for line in text.splitlines() if line.partition(" ")[0].rpartition(":")[2].startswith("uffd_")
    ]
    problems = []
    if error and not any(re.search(rf"errno: {error}\b", line) for line in lines):
        said = "; ".join(lines) or "nothing"
        problems.append(
            Problem(
                Code.TRACE_NO_ERRNO,
                f"QEMU's trace does not give {errno.errorcode[error]} ({error}) but: {said}.",
                {"errno": errno.errorcode[error]},
            )
        )
    return judged("trace", _TRACED, problems, {"trace": "; ".join(lines)})
