"""Judges how QEMU refuses a kind of guest RAM: its message must be clear and the guest unharmed."""

from __future__ import annotations

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SubjectFailed
from harness.qemu import migration
from harness.qemu.qmp import CommandRefused
from tests_functional.failures.ending import LIMIT_SECONDS
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.source_checks import judge_source
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_REFUSAL = "A refusal says why, and leaves the guest as it was."
_SAVE = "QEMU fails a save that is not possible with a reason, and survives it."
_RESUMED = "A guest that ran before a failed save runs after it."
# QEMU 10.0 migration/options.c migrate_caps_check() and migration/ram.c ram_write_tracking_compatible().
_CLEAR = ("background-snapshot", "userfaultfd", "write-tracking", "write tracking", "memory", "RAM")


def refusal_when_set(source: Source) -> str | None:
    """Set the capability and switch it off; return QEMU's error message if it refuses, otherwise None.

    Raises:
        NotApplicable: this QEMU has no such capability.
    """
    machine = source.guest.machine
    migration.require_known(machine, migration.BACKGROUND_SNAPSHOT)
    try:
        migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, True)
        migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
    except CommandRefused as refusal:
        return refusal.reason
    return None


def judge_refusal(run: Run, source: Source, words: str, seconds: float) -> Outcome:
    """Return the outcome of a test in which QEMU refuses the guest's kind of RAM with this message."""
    checks = [_judge_words("memory/refusal", _REFUSAL, words), *judge_source(source.guest, source.before)]
    source.guest.machine.quit()
    return outcome_of(run, checks, seconds, f"QEMU refuses such RAM clearly: {words}")


def judge_given_up(source: Source, failure: SubjectFailed, name: str) -> list[CheckResult]:
    """Judge a save that QEMU failed at its start, or did not survive; raise any other failure.

    Args:
        source: the guest, running before the save.
        failure: the error that ended the save.
        name: the kind of memory; part of the names of the checks.
    """
    try:
        if source.guest.machine.alive():
            return _judge_survivor(source, failure, name)
    except SubjectFailed as later:
        # QEMU may say that the save failed, and end a moment later.
        if source.guest.machine.alive():
            raise
        failure = later
    return [judged(f"memory/{name}/save", _SAVE, [Problem.of_error(failure)])]


def _judge_survivor(source: Source, failure: SubjectFailed, name: str) -> list[CheckResult]:
    answer = source.guest.machine.query_migrate()
    if answer.get("status") != "failed":
        raise failure
    words = str(answer.get("error-desc", ""))
    checks = [_judge_words(f"memory/{name}/save", _SAVE, words), _judge_resumed(source, name)]
    return [*checks, *judge_source(source.guest, source.before)]


def _judge_words(check: str, explanation: str, words: str) -> CheckResult:
    problems = []
    if not words:
        problems.append(Problem(Code.SAVE_NO_REASON, "QEMU does not say why the save failed."))
    elif not any(word in words for word in _CLEAR):
        problems.append(
            Problem(
                Code.REFUSAL_UNCLEAR,
                f"QEMU refuses with the message '{words}', which does not tell the user why.",
            )
        )
    return judged(check, explanation, problems, {"words": words})


def _judge_resumed(source: Source, name: str) -> CheckResult:
    """Check that the guest goes on by itself; if it does not, resume it for the checks that follow."""
    machine, limit = source.guest.machine, Deadline(LIMIT_SECONDS)
    status = ""
    while status != "running" and not limit.expired:
        status = str(machine.qmp.execute("query-status")["status"])
        machine.pause(limit)
    problems = []
    if status != "running":
        problems.append(
            Problem(
                Code.GUEST_NOT_RESUMED,
                f"The guest is '{status}' {LIMIT_SECONDS:.0f} s after the save failed.",
                {"state": status},
            )
        )
        machine.qmp.execute("cont")
    return judged(f"memory/{name}/resumed", _RESUMED, problems)
