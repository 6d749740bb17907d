"""Saves a guest that sleeps (ACPI S3), and wakes it up while its RAM is saved; the file's guest still sleeps.

A guest with an operating system goes on where it was, source and restored guest alike. A bare guest has
nobody who resumes it: waking up resets its machine, and its agent begins anew in the RAM that slept. So the
host compares RAM of the restored guest, while it sleeps and after it has woken up, with RAM at T0.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.bare_agent import BareAgent
from guest_images.agent.format import PAGE_BYTES, WORD_BYTES, ControlWord
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, NotApplicable, SnapproofError, SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.ram import GoldenImage, RamBlock, dump_golden, ramblocks, read_block
from harness.qemu.spawned_machine import SpawnedMachine
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.build_outcome import outcome_of, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.guest import Guest, logged_in, start_writers
from tests_functional.lib.offline_checks import judge_oracles
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.restored_checks import ONWARDS
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from tests_functional.lib.source_checks import judge_source, judge_source_host
from tests_functional.lib.time_limits import FILL_SECONDS, RESTORE_SECONDS, SMALL_SAVE_SECONDS
from tests_functional.run_states.states import RUN_STATES, state_problems
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.oracles.o3_restored_guest.restored_guest import check_run_state
from validators.oracles.o5_source_guest.source_guest import check_unprotected
from validators.verdict import CheckResult

_STATE = "suspended"
_PREFIX, _CONTROL = "run-states/woken", "run-states/woken-control"
_WAKE_UP = ONWARDS[_STATE]
_AFTER = "A guest that sleeps is woken up while its RAM is saved, and goes on."
_ASLEEP = "RAM of the restored guest, which still sleeps, is RAM at T0, page by page."
_KEPT = "RAM that the guest does not use to wake up is as it was at T0."
_WOKEN = "The restored guest wakes up and goes on."
_HOLDS = "The file has the guest asleep as at T0, and source and restored guest can be woken up."
_CONTROL_HOLDS = (
    "The file of an ordinary save has the guest asleep as at T0, and the restored guest can be woken up."
)
_ENTER_SECONDS, _WAKE_SECONDS = 30.0, 30.0
# A guest that woke up writes a third of what it wrote before it slept: RAM must still be being saved then.
_PART = 3


def woken_while_saved(run: Run) -> Outcome:
    """Save a sleeping guest, wake it up meanwhile, and judge the file, the source and the restored guest.

    Raises:
        NotApplicable: neither the guest's kernel nor its machine can suspend to RAM.
    """
    begun = time.monotonic()
    bare = run.stack.image.bare
    if bare and not can_drive(run.stack.image.architecture, run.stack.machine):
        raise NotApplicable(
            f"A bare guest on machine type '{run.stack.machine}' has no I/O ports to sleep by."
        )
    with writing_guest(run) as source:
        machine = source.guest.machine
        with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
            run.say("Putting the guest to sleep.")
            RUN_STATES[_STATE].enter(source.guest, run.deadline.at_most(_ENTER_SECONDS))
            run.say("Saving it, and waking it up meanwhile.")
            try:
                saved = _save(run, source)
            except SubjectFailed as error:
                failed = judged("after", _AFTER, [Problem.of_error(error)])
                return outcome_of(run, _named([failed]), time.monotonic() - begun, _HOLDS)
        after = judged("after", _AFTER, saved.problems)
        if saved.problems:
            # QEMU itself has woken it up, before T0 or after it: which memory is that of T0 nobody can say.
            return outcome_of(run, _named([after]), time.monotonic() - begun, _HOLDS)
        checks = [after, *_judge_source(source, bare)]
        machine.quit()
        if not bare:
            cycle = judge_cycle(run, source, saved.snapshot, _PREFIX, checks)
            return outcome_of_cycles(run, [cycle], time.monotonic() - begun)
    checks += _judge_bare(run, source, saved.snapshot)
    if all(not check.violations for check in checks):
        run.discard(saved.snapshot.path.parent)
    return outcome_of(run, _named(checks), time.monotonic() - begun, _HOLDS)


def asleep_control(run: Run) -> Outcome:
    """Save a sleeping bare guest in the ordinary way, and judge file and restored guest as the others.

    Raises:
        NotApplicable: its machine cannot suspend to RAM.
    """
    begun = time.monotonic()
    if not run.stack.image.bare or not can_drive(run.stack.image.architecture, run.stack.machine):
        raise NotApplicable("This control is of a bare guest that has I/O ports to sleep by.")
    with writing_guest(run) as source:
        machine = source.guest.machine
        run.say("Putting the guest to sleep, and saving it in the ordinary way.")
        RUN_STATES[_STATE].enter(source.guest, run.deadline.at_most(_ENTER_SECONDS))
        folder = run.folder / _STATE
        folder.mkdir()
        path = folder / "vmstate"
        golden, before = dump_golden(machine, folder / "golden"), source.counters.steps()
        limit = run.deadline.at_most(SMALL_SAVE_SECONDS * run.stack.slowness)
        migration.begin_save(machine, migration.exec_sink(path), limit)
        figures = migration.wait_completed(machine, limit)
        snapshot = Snapshot.unmeasured(Flow.STOP_AND_SAVE, path, golden, _STATE, (before, before), figures)
        # What an ordinary save does to the guest that it leaves behind is no matter of snapshots.
        machine.quit()
    checks = _judge_bare(run, source, snapshot)
    if all(not check.violations for check in checks):
        run.discard(folder)
    return outcome_of(run, _named(checks, _CONTROL), time.monotonic() - begun, _CONTROL_HOLDS)


def _named(checks: Sequence[CheckResult], prefix: str = _PREFIX) -> list[CheckResult]:
    return [replace(check, name=f"{prefix}/{check.name}") for check in checks]


@dataclass(frozen=True)
class _Saved:
    """The snapshot, and what was wrong with the source meanwhile."""

    snapshot: Snapshot
    problems: Sequence[Problem]


def _save(run: Run, source: Source) -> _Saved:
    """Save the sleeping guest through a slow sink, and wake it up once RAM is being saved.

    Raises:
        SubjectFailed: the save failed, or QEMU ended. SetupBroken: it was over before the guest wrote.
    """
    machine, counters = source.guest.machine, source.counters
    folder = run.folder / _STATE
    folder.mkdir()
    path, slow = folder / "vmstate", folder / "slow"
    golden, before = dump_golden(machine, folder / "golden"), counters.steps()
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS * run.stack.slowness)
    slow.touch()
    try:
        migration.begin_save(machine, migration.slow_sink(path, slow), limit)
        problems = _wake_up_source(run, source, before)
        migration.require_under_way(
            machine,
            "The save was over before the guest that woke up had written, so this run proves nothing.",
        )
    finally:
        slow.unlink()
    figures = migration.wait_completed(machine, limit)
    snapshot = Snapshot.unmeasured(Flow.STOPPED, path, golden, _STATE, (before, before), figures)
    return _Saved(snapshot, problems)


def _wake_up_source(run: Run, source: Source, before: tuple[int, ...]) -> list[Problem]:
    """Wake the guest up and have it write; return what is wrong if QEMU has done so already."""
    machine = source.guest.machine
    status = str(machine.qmp.execute("query-status")["status"])
    if problems := state_problems(status, _STATE):
        return problems
    wake_up(machine, run.deadline.at_most(_WAKE_SECONDS))
    limit = run.deadline.at_most(FILL_SECONDS * run.stack.slowness)
    if run.stack.image.bare:
        _write_anew(run, source.guest, limit)
    else:
        limit.wait_for(
            lambda: all(now > then for now, then in zip(source.counters.steps(), before, strict=True)),
            "The first writes of the guest that woke up",
        )
    return []


def wake_up(machine: Machine, limit: Deadline) -> None:
    """Wake a sleeping guest up, and wait until QEMU says that it has.

    Raises:
        CommandRefused: QEMU does not. SubjectFailed: it does not in time, or the guest does not run then.
    """
    mark = machine.qmp.mark()
    machine.qmp.execute(_WAKE_UP)
    machine.qmp.wait_event(lambda event: event.name == "WAKEUP", mark, limit, "send the event WAKEUP")
    machine.wait_status(lambda status: status == "running", limit, "running")


def _write_anew(run: Run, guest: Guest, limit: Deadline) -> None:
    """Have the agent of a bare guest, which has started again, write a part of its pages in another order.

    Raises:
        GuestUnreachable, DeadlineExpired: it does not in time.
    """
    assert isinstance(guest.agent, BareAgent)
    guest.agent.wait_booted(limit)
    plan = replace(run.stack, coverage=run.stack.coverage / _PART).writer_plan(run.pattern, run.seed + 1)
    start_writers(guest, plan, limit)


def _judge_source(source: Source, bare: bool) -> list[CheckResult]:
    """Judge the guest that was woken up: a bare one has started anew, so that only the host tells."""
    if bare:
        return [check_unprotected(source.guest.machine), judge_source_host(source.guest, source.before)]
    return judge_source(source.guest, source.before)


def _judge_bare(run: Run, source: Source, snapshot: Snapshot) -> list[CheckResult]:
    """Judge the file, and a restored bare guest from outside: asleep, woken up, and writing."""
    golden = snapshot.golden
    assert golden is not None
    run.say("Judging the file.")
    offline = check_file(snapshot.path, golden=golden.folder, agent_ran=True)
    oracles = judge_oracles(offline, snapshot, source.status)
    return [*offline.checks, oracles, *_restored(run, snapshot, golden)]


def _restored(run: Run, snapshot: Snapshot, golden: GoldenImage) -> list[CheckResult]:
    run.say("Restoring it into a new QEMU, and waking that up.")
    stack, folder = run.stack, snapshot.path.parent / "restored"
    limit = run.deadline.at_most(RESTORE_SECONDS * stack.slowness)
    checks: list[CheckResult] = []
    problems: list[Problem] = []
    try:
        with SpawnedMachine(stack.machine_config(), folder, incoming=True) as machine:
            state = migration.restore(machine, migration.exec_source(snapshot.path), limit)
            checks.append(check_run_state(state, _STATE))
            if state == _STATE:
                checks.append(judge_memory("asleep", _ASLEEP, machine, golden, 0))
                wake_up(machine, limit)
                checks.append(judge_memory("kept", _KEPT, machine, golden, agent_begins(run, golden)))
                with logged_in(machine, stack, limit) as guest:
                    _write_anew(run, guest, limit)
            machine.quit()
    except MachineryMissing:
        raise
    except SnapproofError as error:
        problems.append(Problem.of_error(error, f"The restored guest failed: {error.sentence}"))
    return [*checks, judged("woken", _WOKEN, problems)]


def agent_begins(run: Run, golden: GoldenImage) -> int:
    """Return the offset in main RAM behind which the agent's pages of T0 are, as its control page says."""
    bare = run.stack.image.architecture.bare
    assert bare is not None
    with golden_file(golden, _main_ram(golden)).open("rb") as file:
        file.seek(bare.control_page + ControlWord.META * WORD_BYTES)
        return int.from_bytes(file.read(WORD_BYTES), "little")


def golden_file(golden: GoldenImage, idstr: str) -> Path:
    """Return the file of a golden image that has a RAMBlock."""
    index = json.loads((golden.folder / "golden.json").read_text())
    return golden.folder / next(str(entry["file"]) for entry in index["blocks"] if entry["idstr"] == idstr)


def _main_ram(golden: GoldenImage) -> str:
    return max(golden.blocks, key=lambda block: block.used_bytes).idstr


def judge_memory(
    name: str, explanation: str, machine: Machine, golden: GoldenImage, first: int
) -> CheckResult:
    """Compare RAM of a machine with a golden image.

    Args:
        name: of the check.
        explanation: what it demands.
        machine: QEMU; nobody writes to what is compared.
        golden: RAM at T0.
        first: offset in main RAM from which on that alone is compared; 0 for all RAMBlocks.
    """
    problems, compared = [], 0
    wanted = {_main_ram(golden)} if first else {block.idstr for block in golden.blocks}
    for block in ramblocks(machine):
        if block.idstr not in wanted or not block.host_address:
            continue
        offsets, pages = _differing(machine, block, golden_file(golden, block.idstr), first)
        compared += pages
        if offsets:
            sentence = (
                f"{len(offsets)} pages of RAMBlock '{block.idstr}' differ from T0, first {offsets[0]:#x}."
            )
            problems.append(Problem(Code.RESTORED_WRONG_PAGE, sentence, {"block": block.idstr}))
    if not compared:
        problems.append(Problem(Code.RESTORED_UNCHECKED_PAGE, "No page could be compared with T0."))
    return judged(name, explanation, problems, {"pages": compared})


def _differing(machine: Machine, block: RamBlock, path: Path, first: int) -> tuple[list[int], int]:
    """Return the offsets of pages that differ from a file, and how many were compared."""
    offsets, offset, compared = [], 0, 0
    with path.open("rb") as file:
        for data in read_block(machine, block):
            expected = file.read(len(data))
            for at in range(0, len(data), PAGE_BYTES):
                if offset + at < first:
                    continue
                compared += 1
                if data[at : at + PAGE_BYTES] != expected[at : at + PAGE_BYTES]:
                    offsets.append(offset + at)
            offset += len(data)
    return offsets, compared
