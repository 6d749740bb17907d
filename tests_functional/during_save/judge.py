"""Judges what became of a save, its guest and its QEMU after something was done while RAM was saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.codes import Code
from harness.errors import SnapproofError
from harness.status import Status
from tests_functional.during_save.thing import Answer, Thing
from tests_functional.refusals.migration_options import Settings
from validators.checks import Problem, judged, problems_of, skipped
from validators.oracles.o6_host.host_state import HostState
from validators.verdict import CheckResult

ANSWERS, END, GUEST, SETTINGS, QUIT = "answers", "end", "guest", "settings", "quit"
"""Names of the checks made here."""

_ANSWERS = "QEMU answers each command in time, and accepts or refuses it as it must."
_END = "The save ends as it must, with a reason where it fails."
_GUEST = "The guest is in the run state that the thing implies."
_SETTINGS = "Migration capabilities and parameters are as they were set."
_QUIT = "QEMU quits when it is told to after the save."
_ENDED = "QEMU has ended as it was told to, and the half file is no snapshot."


@dataclass(frozen=True)
class Ending:
    """What became of a save and its guest.

    Attributes:
        status: of the save, as `query-migrate` has it; "" if QEMU has ended.
        reason: QEMU's words where the save failed.
        state: the guest's run state; "" if QEMU has ended.
        lost: the error if QEMU ended or hung, None if it did not.
    """

    status: str = ""
    reason: str = ""
    state: str = ""
    lost: SnapproofError | None = None

    @property
    def words(self) -> str:
        """How it ended, for a table."""
        if self.lost is not None:
            return f"QEMU failed: {self.lost.sentence}"
        return f"save {self.status}, guest {self.state}"


@dataclass(frozen=True)
class Found:
    """The checks of one save during which a thing was done.

    Attributes:
        live: of the save, its guest, its QEMU and the host.
        file: of the file and of the guest that is restored from it.
    """

    live: Sequence[CheckResult]
    file: Sequence[CheckResult] = ()

    @property
    def wrong(self) -> bool:
        """Whether a check has failed."""
        return any(check.status is Status.FAIL for check in (*self.live, *self.file))

    def no_worse_than(self, control: Sequence[CheckResult]) -> Found:
        """Return the same with what an ordinary migration does no better as SKIP.

        The file is never excused so: a file that is wrong and whose save is completed is worse than none.
        """
        return Found(as_in_control(self.live, control), self.file)

    def named(self, prefix: str) -> list[CheckResult]:
        """Return all checks, with a prefix before their names."""
        return [replace(check, name=f"{prefix}/{check.name}") for check in (*self.live, *self.file)]


def judge_answers(thing: Thing, answers: Sequence[Answer]) -> CheckResult:
    """Check that QEMU refused what it must refuse, and nothing else."""
    refused = [answer for answer in answers if answer.refusal]
    accepted = [answer for answer in answers if not answer.refusal]
    problems = []
    if thing.refused is True:
        problems = [
            Problem(
                Code.DURING_SAVE_ACCEPTED,
                f"QEMU accepts '{answer.command}' while it saves RAM.",
                {"command": answer.command},
            )
            for answer in accepted
        ]
    elif thing.refused is False:
        problems = [
            Problem(
                Code.DURING_SAVE_REFUSED,
                f"QEMU refuses '{answer.command}' while it saves RAM: {answer.refusal}",
                {"command": answer.command},
            )
            for answer in refused
        ]
    facts: dict[str, int | float | str] = {
        "commands": len(answers),
        "refused": len(refused),
        "slowest_seconds": round(max((answer.seconds for answer in answers), default=0.0), 3),
    }
    if refused:
        facts["words"] = refused[0].refusal
    return judged(ANSWERS, _ANSWERS, problems, facts)


def judge_end(thing: Thing, ending: Ending) -> CheckResult:
    """Check how the save ended."""
    if ending.lost is not None:
        return judged(END, _END, [Problem.of_error(ending.lost)])
    problems = []
    if ending.status not in thing.ends:
        expected = " or ".join(sorted(thing.ends))
        why = f": {ending.reason}" if ending.reason else ""
        problems.append(
            Problem(
                Code.SAVE_WRONG_END,
                f"The save is '{ending.status}' and had to be '{expected}'{why}.",
                {"status": ending.status, "expected": expected},
            )
        )
    if ending.status == "failed" and not ending.reason.strip():
        problems.append(Problem(Code.SAVE_NO_REASON, "QEMU does not say why the save failed."))
    return judged(END, _END, problems, {"status": ending.status})


def judge_guest(expected: Sequence[str], ending: Ending) -> CheckResult:
    """Check the guest's run state, which must be one of those expected."""
    if ending.lost is not None:
        return skipped(GUEST, _GUEST, "QEMU has ended or does not answer.")
    problems = []
    if ending.state not in expected:
        wanted = "' or '".join(expected)
        sentence = f"The guest is '{ending.state}', and had to be '{wanted}'."
        problems.append(Problem(Code.RUN_STATE_CHANGED, sentence, {"state": ending.state}))
    return judged(GUEST, _GUEST, problems, {"state": ending.state})


def judge_settings(thing: Thing, before: Settings, done: Settings, after: Settings) -> CheckResult:
    """Check the migration settings.

    Args:
        thing: what was done.
        before: the settings before it.
        done: those right after it, while RAM was still being saved.
        after: those after the save.
    """
    problems = []
    changed = _changed(done.capabilities, after.capabilities) + _changed(done.parameters, after.parameters)
    if changed:
        sentence = f"The end of the save has changed {', '.join(changed)}."
        problems.append(Problem(Code.DURING_SAVE_SETTINGS, sentence, {"setting": changed[0]}))
    changed = _changed(before.capabilities, done.capabilities)
    if not thing.sets:
        changed += _changed(before.parameters, done.parameters)
    if changed:
        sentence = f"{', '.join(changed)} is set while RAM is saved, which nobody asked for."
        problems.append(Problem(Code.DURING_SAVE_SETTINGS, sentence, {"setting": changed[0]}))
    return judged(SETTINGS, _SETTINGS, problems)


def judge_ended(exit_code: int | None, left: Sequence[int], file_passes: bool) -> CheckResult:
    """Check a QEMU that was to end in mid-save.

    Args:
        exit_code: its exit code, None if it runs.
        left: the processes of its session that are left.
        file_passes: whether the half file passes all offline checks.
    """
    problems = []
    if exit_code is None:
        problems.append(Problem(Code.DURING_SAVE_RUNS_ON, "QEMU was to end, and runs on."))
    elif exit_code != 0:
        sentence = f"QEMU was to end, and ended with exit code {exit_code}."
        problems.append(Problem(Code.QEMU_ENDED, sentence, {"exit_code": exit_code}))
    if left:
        names = ", ".join(str(pid) for pid in left)
        problems.append(
            Problem(Code.KILLED_PROCESSES_LEFT, f"Processes of QEMU's session are left: {names}.")
        )
    if file_passes:
        problems.append(Problem(Code.KILLED_FILE_PASSES, "The half file passes every offline check."))
    return judged(END, _ENDED, problems)


def judge_quit(exit_code: int | None) -> CheckResult:
    """Check that a QEMU that was told to quit, after all of it, has done so."""
    problems = []
    if exit_code is None:
        problems.append(
            Problem(Code.DURING_SAVE_RUNS_ON, "QEMU was told to quit after the save, and runs on.")
        )
    elif exit_code != 0:
        sentence = f"QEMU was told to quit after the save, and ended with exit code {exit_code}."
        problems.append(Problem(Code.QEMU_ENDED, sentence, {"exit_code": exit_code}))
    return judged(QUIT, _QUIT, problems)


def once_each(check: CheckResult) -> CheckResult:
    """Return a failed check with the first violation of each code alone, of thousands of missing pages."""
    first = {violation.code: violation for violation in reversed(check.violations)}
    if check.status is not Status.FAIL or len(first) == check.total:
        return check
    facts = {**check.facts, "violations": check.total}
    return judged(check.name, check.explanation, problems_of(reversed(first.values())), facts)


def as_in_control(found: Sequence[CheckResult], control: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the checks, those SKIP that are no worse than in an ordinary migration.

    These are a check that fails there as well, and any check if that migration has ended or hung QEMU.

    Args:
        found: of a background snapshot.
        control: of an ordinary migration.
    """
    bad = {check.name: check for check in control if check.status is Status.FAIL}
    lost = next((check for check in control if check.name == GUEST and check.status is Status.SKIP), None)
    worst = bad.get(END) if lost else None
    return [_unless_worse(check, bad.get(check.name) or worst) for check in found]


def no_worse(found: Sequence[CheckResult], checks: Sequence[CheckResult]) -> str:
    """Return a sentence about the first check that `as_in_control` skipped, "" if there is none."""
    for before, after in zip(found, checks, strict=True):
        if before is not after:
            return f"It is wrong, but no worse than in an ordinary migration: {after.name}: {after.reason}"
    return ""


def _unless_worse(check: CheckResult, control: CheckResult | None) -> CheckResult:
    if check.status is not Status.FAIL or control is None:
        return check
    sentences = f"{check.violations[0].sentence} An ordinary migration is no better: "
    return skipped(check.name, check.explanation, f"{sentences}{control.violations[0].sentence}")


def without_files_of(state: HostState, folder: str) -> HostState:
    """Return a host's state without the files of a folder, which a thing itself has QEMU open and close."""
    kept = tuple(entry for entry in state.descriptors if folder not in entry[1])
    return replace(state, descriptors=kept)


def _changed(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
