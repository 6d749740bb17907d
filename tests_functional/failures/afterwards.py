"""Judges the guest, the host and the next snapshot after a failed save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.client import AgentStatus
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SubjectFailed
from harness.process import session_members
from harness.qemu import migration
from harness.qemu.machine import known_pid
from tests_functional.failures.cases import Case
from tests_functional.failures.ending import LIMIT_SECONDS
from tests_functional.failures.sinks import SinkPlace, open_numbers
from tests_functional.lib.cycle import Source, resting
from tests_functional.lib.guest import Guest, logged_in
from tests_functional.lib.offline_checks import judge_oracles
from tests_functional.lib.restored_checks import judge_restored
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged, problems_of
from validators.faults.calls.control import CallControl
from validators.judge import check_file
from validators.verdict import T0, CheckResult

_SINK = f"The sink's processes are gone within {LIMIT_SECONDS:.0f} s of the end of the save."
_NEXT = "The next snapshot succeeds and is right by every offline check."


@dataclass
class Group:
    """Results of a group of cases: their checks and the last right snapshot."""

    run: Run
    checks: list[CheckResult]
    control: CallControl | None = None
    last: tuple[Snapshot, T0 | None, AgentStatus] | None = None


def judge_afterwards(
    group: Group, source: Source, case: Case, place: SinkPlace, stands_still: bool = False
) -> list[CheckResult]:
    """Judge guest, QEMU and host after a case, and take the next snapshot.

    Args:
        group: receives the snapshot if it is right.
        source: the guest.
        case: what broke the save.
        place: of the case's files.
        stands_still: whether the guest is known not to run, so that it can answer nothing; only QEMU and the
            host are judged then.
    """
    machine, run = source.guest.machine, group.run
    migration.wait_cleaned_up(machine, Deadline(LIMIT_SECONDS))
    checks = [_sink_gone(source, case)]
    if stands_still:
        return checks
    # A new login within the limit: an old connection may outlive a guest that takes no new one.
    with logged_in(machine, run.stack, Deadline(LIMIT_SECONDS)) as guest:
        checks += [
            replace(check, name=f"failures/{case.name}/{check.name}")
            for check in judge_source(guest, source.before)
        ]
        checks.append(_next_snapshot(group, guest, source, case, place, checks))
    return checks


def _next_snapshot(
    group: Group,
    guest: Guest,
    source: Source,
    case: Case,
    place: SinkPlace,
    checks: Sequence[CheckResult] = (),
) -> CheckResult:
    """Take the snapshot after a failure and judge its file; a good one is kept as the group's last.

    Args:
        group: receives the snapshot.
        guest: logged in to after the failure.
        source: the same guest as it was before.
        case: what broke the save.
        place: of the case's files.
        checks: made of the guest so far.
    """
    run, folder = group.run, place.folder / "next"
    folder.mkdir()
    gone = lost_descriptors(source)
    try:
        snapshot = take(Flow.LIVE, guest, source.counters, folder, run.deadline.at_most(SMALL_SAVE_SECONDS))
    except NotApplicable as error:
        # A snapshot was possible before the failure, so the failure is to blame.
        problem = Problem.of_error(error, f"No snapshot is possible after the failure: {error.sentence}")
        return judged(f"failures/{case.name}/next", _NEXT, [problem])
    except SubjectFailed as error:
        if error.code is not Code.SAVE_FAILED:
            raise
        fields = {**error.fields, "lost_descriptors": ", ".join(map(str, gone))} if gone else error.fields
        problem = Problem(error.code, f"The next snapshot failed: {error.sentence}", fields)
        return judged(f"failures/{case.name}/next", _NEXT, [problem])
    with resting(run.stack, guest.machine, checks):
        offline = check_file(snapshot.path, agent_ran=True)
        problems = problems_of(offline.violations)
        problems += problems_of(judge_oracles(offline, snapshot, source.status).violations)
    if not problems:
        group.last = (_kept(snapshot, run.folder), offline.t0, source.status)
    return judged(f"failures/{case.name}/next", _NEXT, problems)


def lost_descriptors(source: Source) -> list[int]:
    """Return the numbers of the files that QEMU had open before its first failure and has no longer."""
    open_now = open_numbers(known_pid(source.guest.machine))
    return [number for number, _ in source.before.host.descriptors if number not in open_now]


def _kept(snapshot: Snapshot, folder: Path) -> Snapshot:
    """Return the snapshot with its file moved to where the next good one replaces it."""
    path = folder / "last" / "vmstate"
    path.parent.mkdir(exist_ok=True)
    return replace(snapshot, path=snapshot.path.replace(path))


def _sink_gone(source: Source, case: Case) -> CheckResult:
    pid = known_pid(source.guest.machine)
    known = {pid, *(process.pid for process in source.before.host.processes)}
    problems = []
    try:
        Deadline(LIMIT_SECONDS).wait_for(lambda: known.issuperset(session_members(pid)), "The sink's end")
    except DeadlineExpired:
        problems.append(
            Problem(
                Code.SINK_LEFT,
                f"The sink's processes still run {LIMIT_SECONDS:.0f} s after the end of the save.",
            )
        )
    return judged(f"failures/{case.name}/sink-gone", _SINK, problems)


def judge_last(run: Run, snapshot: Snapshot, t0: T0 | None, status: AgentStatus) -> list[CheckResult]:
    """Restore the last snapshot that was taken after a failure, and judge the guest in it."""
    run.say("Restoring the last snapshot that followed a failure.")
    deadline = run.deadline.at_most(SMALL_SAVE_SECONDS)
    found = judge_restored(run.stack, snapshot, status, t0, run.folder / "restored", deadline)
    return [replace(check, name=f"failures/last/{check.name}") for check in found]
