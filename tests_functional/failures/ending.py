"""Waits for the end of a broken save and judges it: its status, its error and whether the guest resumes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.linux.uffd_waiters import Waiters, find_waiters
from harness.qemu.guest_memory import QemuMemoryGone
from harness.qemu.machine import Machine
from tests_functional.failures.cases import Case
from validators.checks import Problem, judged
from validators.verdict import CheckResult

LIMIT_SECONDS = 10.0
"""Seconds after a failure by which QEMU, guest and host must work normally again."""

_END = f"A broken save ends within {LIMIT_SECONDS:.0f} s, in the right state, and QEMU gives a reason."
_RESUMES = f"The guest runs, and its writers write, within {LIMIT_SECONDS:.0f} s of the end."
_ENDED = ("completed", "failed", "cancelled")
_ANSWER_SECONDS = 5.0
_MORE_STEPS = 50
_NONE = Waiters()


@dataclass(frozen=True)
class Ending:
    """How a save ended.

    Attributes:
        status: as `query-migrate` names it. ``refused`` if QEMU refused `migrate`; the last status seen if
            the save did not end in time.
        error: QEMU's error message, "" where it gives none.
        seconds: time from the act that broke the save to its end.
        left_in: the status that `query-migrate` still gives after a refusal, "" if there was no refusal.
        silent: the error if QMP gave no answer, otherwise None.
    """

    status: str
    error: str = ""
    seconds: float = 0.0
    left_in: str = ""
    silent: SnapproofError | None = None


def wait_ending(machine: Machine, seconds: float, refusal: str = "") -> Ending:
    """Wait until a save has ended, the time is over or QEMU does not answer; return which of them it was.

    Args:
        machine: QEMU.
        seconds: how long to wait.
        refusal: QEMU's error message if it refused `migrate`.
    """
    begun = time.monotonic()
    limit = Deadline(seconds)
    answer: dict[str, Any] = {}
    try:
        while True:
            answer = machine.qmp.execute("query-migrate", deadline=Deadline(_ANSWER_SECONDS))
            status = str(answer.get("status", "none"))
            if status in _ENDED or (refusal and status == "none") or limit.expired:
                break
            machine.pause(limit)
    except SnapproofError as error:
        return Ending(str(answer.get("status", "unknown")), silent=error)
    took = time.monotonic() - begun
    if refusal:
        settled = status in (*_ENDED, "none")
        return Ending("refused", refusal, took, "" if settled else status)
    return Ending(status, str(answer.get("error-desc", "")), took)


def judge_ending(case: Case, ending: Ending) -> CheckResult:
    """Check that a save ended as its case demands."""
    problems = []
    if ending.silent:
        sentence = f"QEMU's monitor hangs or is gone: {ending.silent.sentence}"
        problems.append(Problem.of_error(ending.silent, sentence))
    elif ending.status not in case.expected:
        wanted = " or ".join(f"'{status}'" for status in sorted(case.expected))
        problems.append(
            Problem(
                Code.SAVE_WRONG_END,
                f"The save is '{ending.status}' after {ending.seconds:.1f} s and had to be {wanted}.",
                {"status": ending.status, "expected": " or ".join(sorted(case.expected))},
            )
        )
    if ending.left_in:
        problems.append(
            Problem(
                Code.SAVE_REFUSED_BUT_ACTIVE,
                f"QEMU refused the save, yet says that a migration is in '{ending.left_in}'.",
                {"status": ending.left_in},
            )
        )
    if ending.status in ("failed", "refused") and not ending.error.strip():
        problems.append(Problem(Code.SAVE_NO_REASON, "QEMU does not say why the save failed."))
    facts: dict[str, int | float | str] = {
        "status": ending.status,
        "error": ending.error,
        "seconds": round(ending.seconds, 3),
    }
    return judged(f"failures/{case.name}/end", _END, problems, facts)


def judge_resumed(
    case: Case, machine: Machine, counters: AgentCounters, silent: SnapproofError | None = None
) -> CheckResult:
    """Check that QMP reports the guest as running and that its writers write.

    Args:
        case: how the save was broken.
        machine: QEMU.
        counters: of the writers.
        silent: why QMP has given no answer for the time that the guest has; it is not asked again then.
    """
    limit, begun = Deadline(LIMIT_SECONDS), time.monotonic()
    problems: list[Problem] = []
    try:
        if silent:
            raise silent
        before = counters.steps()
        while True:
            status = machine.qmp.execute("query-status", deadline=Deadline(_ANSWER_SECONDS))["status"]
            after = counters.steps()
            if (status == "running" and written_least(before, after) >= _MORE_STEPS) or limit.expired:
                break
            machine.pause(limit)
        waiting = find_waiters(machine.pid) if limit.expired else Waiters()
        problems = resumed_problems(status, written_least(before, after), waiting)
    except SnapproofError as error:
        if isinstance(error, QemuMemoryGone) or not machine.alive():
            problems.append(Problem(Code.QEMU_ENDED_BY_ITSELF, "QEMU has ended by itself."))
        else:
            problems.append(Problem.of_error(error, f"QEMU or its monitor failed: {error}"))
    facts = {"seconds": round(time.monotonic() - begun, 3)}
    return judged(f"failures/{case.name}/resumes", _RESUMES, problems, facts)


def written_least(before: Sequence[int], after: Sequence[int]) -> int:
    """Return the pages that the slowest writer wrote between two readings of the step counters."""
    return min(now - then for then, now in zip(before, after, strict=True))


def resumed_problems(status: str, written: int, held: Waiters = _NONE) -> list[Problem]:
    """Return what is wrong with a guest that should run.

    Args:
        status: as `query-status` names it.
        written: pages that its slowest writer has written.
        held: what of its QEMU waits in a page fault.
    """
    if status != "running":
        sentence = f"The guest is '{status}' {LIMIT_SECONDS:.0f} s after the save had to be over."
        return [Problem(Code.GUEST_NOT_RESUMED, sentence, {"state": status})]
    if written < _MORE_STEPS:
        wrote = f"a writer wrote {written} pages in {LIMIT_SECONDS:.0f} s"
        sentence = f"QEMU calls the guest running, but {wrote}{held.clause}."
        return [Problem(Code.GUEST_WRITERS_STALLED, sentence, held.fields)]
    return []
