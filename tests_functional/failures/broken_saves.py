"""Breaks one save after another in one guest, and replaces a guest that does not survive a case."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, SnapproofError
from harness.qemu import migration
from harness.qemu.machine import Machine, known_pid
from harness.status import Status
from tests_functional.failures.afterwards import Group, judge_afterwards, judge_last
from tests_functional.failures.cases import Act, Case, When, call_cases
from tests_functional.failures.ending import (
    LIMIT_SECONDS,
    Ending,
    judge_ending,
    judge_resumed,
    wait_ending,
)
from tests_functional.failures.sinks import SinkPlace, descriptor_limit, end_sinks, sink
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, resting, writing_guest
from tests_functional.lib.guest import Stack
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot, take
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.lib.warm_source import warm_source
from validators.checks import Problem, judged, problems_of, skipped
from validators.faults.calls.control import Call, CallControl, call_control, controlled_qemu
from validators.judge import check_file
from validators.verdict import CheckResult

# Long enough for a running save to make progress, and for the guest to write to a protected page.
_STALL_SECONDS = 3.0
_RELEASED = f"QEMU works normally again within {LIMIT_SECONDS:.0f} s after the sink was killed."
_ALIVE = "QEMU answers over QMP, and the guest over SSH."
_FILE = "If QEMU reports the save as completed, its file is right by every offline check."


@dataclass
class _Broken:
    """Results of a broken save.

    Attributes:
        checks: in the order in which they were made.
        of_save: the checks that are about the save alone. A guest that passes all others can be used again.
        hangs: whether QEMU does not work normally even after its sink is gone.
        stands_still: whether QMP says that the guest does not run, so that it cannot answer.
        file: what a save that QEMU calls completed has written, None if there is nothing to judge.
    """

    checks: list[CheckResult] = field(default_factory=list)
    of_save: list[CheckResult] = field(default_factory=list)
    hangs: bool = False
    stands_still: bool = False
    file: Path | None = None


def failures(cases: Sequence[Case]) -> Callable[[Run], Outcome]:
    """Return a scenario that runs a group of cases one after the other."""
    return lambda run: _all(run, cases)


def call_failures(run: Run) -> Outcome:
    """Let each userfaultfd call of a save fail in turn, after counting them in a save that works."""
    with call_control(run.folder / "calls") as control:
        wrapper = controlled_qemu(run.stack.executable, run.folder / "calls", run.provisioning)
        controlled = replace(run, stack=replace(run.stack, executable=wrapper))
        counts = _counts(controlled, control)
        run.say(
            "Calls: " + ", ".join(f"{call.slug} {count}" for call, count in counts.items() if count) + "."
        )
        return _all(controlled, call_cases(counts), control)


def _counts(run: Run, control: CallControl) -> dict[Call, int]:
    """Count the calls of each kind that an undisturbed save makes.

    Raises:
        SetupBroken: QEMU runs without our library, or makes no call through it.
    """
    folder = run.folder / "counting"
    folder.mkdir()
    with writing_guest(replace(run, folder=folder)) as source:
        control.reset()
        take(Flow.LIVE, source.guest, source.counters, folder, run.deadline.at_most(SMALL_SAVE_SECONDS))
        counts = control.counts()
        source.guest.machine.quit()
    if not control.loaded or not (counts[Call.PROTECT] and counts[Call.UNPROTECT]):
        raise SetupBroken(
            "QEMU's userfaultfd calls do not go through the preloaded fault library, so none can be made to "
            "fail; a QEMU that is linked statically ignores LD_PRELOAD."
        )
    run.discard(folder)
    return counts


def _all(run: Run, cases: Sequence[Case], control: CallControl | None = None) -> Outcome:
    begun = time.monotonic()
    run = replace(run, stack=_with_card(run.stack, cases))
    group, left, guests = Group(run, [], control), list(cases), 0
    warm: Snapshot | None = None
    while left:
        guests += 1
        folder = run.folder / f"guest-{guests}"
        folder.mkdir()
        with _guest(replace(run, folder=folder), warm) as source:
            warm = warm or _save_warm(run, source)
            well = True
            while left and well:
                case = left.pop(0)
                run.say(f"{case.name}: {case.reason}.")
                place = SinkPlace(folder / case.name, warm.size_bytes)
                place.folder.mkdir()
                well = _survived(group, source, case, place)
    run.discard(run.folder / "warm")
    if group.last is not None:
        group.checks += judge_last(run, *group.last)
    if all(check.status is Status.PASS for check in group.checks):
        run.discard(run.folder)
    holds = f"After each of {len(cases)} failed saves the guest went on and the next snapshot was right."
    figures = {"guests": guests}
    return outcome_of(run, group.checks, time.monotonic() - begun, holds, figures)


def _with_card(stack: Stack, cases: Sequence[Case]) -> Stack:
    """Return the stack with a network card for its bare guest, unless QEMU's descriptors are counted.

    Nobody in a bare guest ends a connection, so QEMU has each open until it times out. A number that becomes
    free during a save would be one more than the case allows.
    """
    counted = any(case.free_descriptors is not None for case in cases)
    return stack if counted else stack.with_nic()


@contextmanager
def _guest(run: Run, warm: Snapshot | None) -> Iterator[Source]:
    """Boot the first guest, or restore its replacement from the warm guest; yield it writing."""
    if warm is None:
        with writing_guest(run) as source:
            yield source
        return
    run.say("Replacing the guest: restoring the one that was saved before the first failure.")
    with warm_source(run.stack, warm, run.folder, run.deadline.at_most(SMALL_SAVE_SECONDS)) as source:
        yield source


def _save_warm(run: Run, source: Source) -> Snapshot:
    """Save the warm guest undisturbed. If that fails, the failures that follow would prove nothing."""
    folder = run.folder / "warm"
    folder.mkdir()
    return take(Flow.LIVE, source.guest, source.counters, folder, run.deadline.at_most(SMALL_SAVE_SECONDS))


def _survived(group: Group, source: Source, case: Case, place: SinkPlace) -> bool:
    """Run one case; return whether its guest can be used for the next."""
    machine = source.guest.machine
    found: list[CheckResult] = []
    broken = _Broken()
    try:
        broken = _broken_save(source, case, place, group.control)
        found += broken.checks
        # If the monitor is silent even without the sink, further checks would only wait for their limits.
        if not broken.hangs:
            found += judge_afterwards(group, source, case, place, broken.stands_still)
    except NotApplicable as error:
        group.checks.append(skipped(f"failures/{case.name}/end", _ALIVE, error.sentence))
        return True
    except (MachineryMissing, SetupBroken):
        raise
    except SnapproofError as error:
        found.append(judged(f"failures/{case.name}/alive", _ALIVE, [Problem.of_error(error)]))
    if broken.file:
        with resting(group.run.stack, machine, found):
            file = _judge_file(case, broken.file)
        found.append(file)
        broken.of_save.append(file)
    group.checks += found
    bad = [check for check in found if check.status is Status.FAIL]
    for check in bad:
        group.run.say(f"{check.name}: {check.violations[0].sentence}")
    if not bad:
        group.run.discard(place.folder)
    # A guest that passes the checks after its case can be used again, however the save itself ended.
    return machine.alive() and all(check in broken.of_save for check in bad)


def _broken_save(source: Source, case: Case, place: SinkPlace, control: CallControl | None) -> _Broken:
    """Start a save, break it and judge how it ends; remove its sink."""
    machine = source.guest.machine
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(sink(case.uri, place))
        stack.enter_context(descriptor_limit(known_pid(machine), case.free_descriptors))
        if control and case.call:
            stack.enter_context(control.armed(case.call))
        refusal = _start(machine, uri)
        silent = None if refusal else _act(source, case, place)
        seconds = SMALL_SAVE_SECONDS if "completed" in case.expected else LIMIT_SECONDS
        ending = Ending("unknown", silent=silent) if silent else wait_ending(machine, seconds, refusal)
    if control and not control.acted:
        reason = "QEMU made fewer of these calls this time."
        return _Broken([skipped(f"failures/{case.name}/end", _ALIVE, reason)])
    end = judge_ending(case, ending)
    resumed = judge_resumed(case, machine, source.counters, silent)
    still = any(violation.code is Code.GUEST_NOT_RESUMED for violation in resumed.violations)
    file = place.file if ending.status == "completed" and case.right else None
    broken = _Broken([end, resumed], [end], stands_still=still, file=file)
    if machine.alive() and any(check.status is Status.FAIL for check in broken.checks):
        released = _released(machine, case)
        broken.checks.append(released)
        broken.hangs = released.status is Status.FAIL
    return broken


def _judge_file(case: Case, file: Path) -> CheckResult:
    return judged(
        f"failures/{case.name}/file", _FILE, problems_of(check_file(file, agent_ran=True).violations)
    )


def _start(machine: Machine, uri: str) -> str:
    """Start the save; return QEMU's error message if it refuses, otherwise an empty string.

    Raises:
        NotApplicable: this QEMU has no such capability or transport.
    """
    migration.require_known(machine, migration.BACKGROUND_SNAPSHOT)
    refusal = migration.try_set_capability(machine, migration.BACKGROUND_SNAPSHOT, True)
    return refusal or migration.try_start_save(machine, uri)


def _act(source: Source, case: Case, place: SinkPlace) -> SnapproofError | None:
    """Do the case's act to a running save; return the error if QEMU does not answer."""
    machine = source.guest.machine
    try:
        _wait_until(source, case.when, place)
        if case.act is Act.CANCEL:
            machine.qmp.execute("migrate_cancel", deadline=Deadline(LIMIT_SECONDS))
        elif case.act is Act.END_SINK:
            end_sinks(known_pid(machine))
    except SnapproofError as error:
        return error
    return None


def _wait_until(source: Source, when: When, place: SinkPlace) -> None:
    machine = source.guest.machine
    limit = Deadline(_STALL_SECONDS if when is When.STALLED else SMALL_SAVE_SECONDS)
    if when is When.STALLED:
        _poke_nic(machine)
    sent_wanted = {When.MIDDLE: place.middle, When.NEAR_END: place.near_end}.get(when)
    while when is not When.AT_ONCE and not limit.expired:
        answer = machine.qmp.execute("query-migrate", deadline=Deadline(LIMIT_SECONDS))
        sent = answer.get("ram", {}).get("transferred", 0)
        ended = answer.get("status") in ("completed", "failed")
        if ended or (sent_wanted is not None and sent >= sent_wanted):
            return
        machine.pause(limit)


def _poke_nic(machine: Machine) -> None:
    """Connect to the guest's SSH port, so that its network card writes to guest RAM."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(machine.ssh, 1.0) as knock,
    ):
        knock.settimeout(1.0)
        knock.recv(1)


def _released(machine: Machine, case: Case) -> CheckResult:
    """Kill a sink that QEMU has not ended, as an operator would have to; judge how the save ends then."""
    count = end_sinks(known_pid(machine))
    problems: list[Problem] = []
    ending = wait_ending(machine, LIMIT_SECONDS)
    if ending.silent:
        sentence = f"QEMU does not answer even now: {ending.silent.sentence}"
        problems.append(Problem.of_error(ending.silent, sentence))
    elif ending.status not in ("completed", "failed", "cancelled", "none"):
        problems.append(
            Problem(Code.SAVE_UNFINISHED, f"The save is still '{ending.status}'.", {"status": ending.status})
        )
    return judged(f"failures/{case.name}/released", _RELEASED, problems, {"processes_killed": count})
