"""Attaches to guests of our own as to a stranger's VM: many times in a row, killed, with a planted fault."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.attach.ledger import PIN
from harness.attach.machine import AttachedMachine
from harness.attach.virsh import Domain
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.linux.socket_folder import socket_folder
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.status import Status
from tests_functional.attach.kills import ALL_INSTANTS, INSTANTS, Instant, way_text
from tests_functional.attach.look import Obstacle, look
from tests_functional.attach.prove import AttachOptions, prove
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run, remove_heavy
from validators.checks import Problem, judged, skipped
from validators.faults.live.wrapper import FaultyQemu, faulty_qemu
from validators.oracles.o5_source_guest.source_guest import check_source_guest
from validators.verdict import CheckResult

MAX_STOP = 30.0
"""Seconds for which these tests may stop a guest."""

_AS_BEFORE = "After an attachment that was killed, the guest runs, and no capability is on that was off."
PLANTED_FAULT = "drop_protection"
_BY = (Code.WRITE_ORDER_NEWER, Code.GOLDEN_DIFFERS)
_TIMES_MORE = 9
_SEEN = "A fault planted in the VM's QEMU is seen, and pages are named."
_TOLD = "A device whose other side writes guest RAM by itself is told before anything is saved."
_IVSHMEM = (
    *("-object", "memory-backend-ram,id=shared,size=1M,share=on"),
    *("-device", "ivshmem-plain,memdev=shared,master=on"),
)
_SETTLE_SECONDS = 60.0
_KILLED_SECONDS = 240.0
_ENDED = ("none", "completed")


@dataclass(frozen=True)
class Settled:
    """A VM after an attachment that was killed.

    Attributes:
        state: its run state.
        capability: whether background-snapshot is on.
        migration: the status of its migration.
        pins: what still pins its disks, by name.
    """

    state: str
    capability: bool
    migration: str
    pins: tuple[str, ...] = ()


RIGHT = Settled("running", False, "none")
"""A VM as it was; a save may have completed meanwhile."""


@contextmanager
def stranger(run: Run, *arguments: str) -> Iterator[tuple[Source, Path]]:
    """Boot a guest that writes, with a second monitor for those who attach; give the guest and the socket."""
    with socket_folder() as place:
        path = place / "qmp"
        monitor = ("-qmp", f"unix:{path},server=on,wait=off")
        with writing_guest(run.with_arguments((*monitor, *arguments))) as source:
            yield source, path


def attach_again_and_again(times: int) -> Callable[[Run], Outcome]:
    """Return a scenario that proves the same VM many times and finds it as it was each time."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        checks: list[CheckResult] = []
        figures: dict[str, float | int | str] = {}
        with stranger(run) as (source, path):
            for number in range(1, times + 1):
                folder = run.folder / f"{number:02d}"
                # A restore is the same each time; the last one shows that it is still right.
                options = AttachOptions(run.name, restore=number in (1, times))
                outcome = prove_at(path, folder, options, run)
                if options.restore:
                    require_restored(outcome)
                checks += [replace(check, name=f"{number:02d}/{check.name}") for check in outcome.checks]
                figures |= outcome.figures
                run.discard(folder)
            checks += check_source_guest(
                source.guest.machine, source.guest.agent, source.before.median_bucket
            )
        return outcome_of(run, checks, time.monotonic() - begun, "The VM was proven each time.", figures)

    return scenario


def require_restored(outcome: Outcome) -> None:
    """Raise SetupBroken if no clone was restored: the VMs of these tests can all be cloned."""
    for check in outcome.checks:
        if check.name == "restore" and check.status is Status.SKIP:
            raise SetupBroken(
                f"The snapshot was not restored, so this test proves too little: {check.reason}"
            )


def prove_at(
    way: Path | Domain, folder: Path, options: AttachOptions, run: Run, *, hidden: bool = False
) -> Outcome:
    """Prove the VM that a way leads to, as one whose process cannot be seen if it is hidden."""
    with AttachedMachine(way, folder, MAX_STOP) as machine:
        if hidden:
            # As it is for QEMU in another PID namespace, whose socket alone is shared.
            machine.process = None
        return prove(machine, options, folder, run.say)


def killed_at_each_instant(run: Run) -> Outcome:
    """Kill the command or its guard at each instant of a save; the VM is never left stopped or set."""
    begun = time.monotonic()
    with stranger(run) as (source, path):
        checks = kill_at_each_instant(run, source, path)
    return outcome_of(run, checks, time.monotonic() - begun, "The VM was put back after each kill.")


def kill_at_each_instant(
    run: Run, source: Source, way: Path | Domain, instants: Sequence[Instant] = INSTANTS
) -> list[CheckResult]:
    """Save a guest once for each instant and be killed there, and prove it afterwards."""
    checks = []
    machine = source.guest.machine
    for instant in instants:
        number = ALL_INSTANTS.index(instant)
        run.say(f"The {instant.words}.")
        folder = run.folder / f"{number:02d}"
        code = _be_killed(way, folder, run.stack.total_mib, number)
        found = settle(machine, _SETTLE_SECONDS)
        checks.append(judge_after_kill(instant, code, found))
        remove_heavy(folder)
    outcome = prove_at(way, run.folder / "afterwards", AttachOptions(run.name, restore=False), run)
    checks += [replace(check, name=f"afterwards/{check.name}") for check in outcome.checks]
    return [*checks, *check_source_guest(machine, source.guest.agent, source.before.median_bucket)]


def _be_killed(way: Path | Domain, folder: Path, ram_mib: int, number: int) -> int:
    """Run a process that attaches and is killed, or loses its guard; return its exit code.

    Raises:
        SetupBroken: it did not end.
    """
    folder.mkdir()
    program = [sys.executable, "-m", "tests_functional.attach.kills"]
    command = [*program, way_text(way), str(folder), str(ram_mib), str(number)]
    with (folder / "killed.log").open("wb") as log:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_KILLED_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise SetupBroken("The process that was to be killed did not end.") from error


def settle(machine: Machine, seconds: float) -> Settled:
    """Wait until the guest runs, no migration goes on and the capability is off; return what is so then."""
    deadline = Deadline(seconds)
    while True:
        found = Settled(
            str(machine.qmp.execute("query-status")["status"]),
            migration.capabilities(machine)[migration.BACKGROUND_SNAPSHOT],
            str(machine.query_migrate().get("status", "none")),
            left_pins(machine),
        )
        if found == replace(RIGHT, migration=found.migration) and found.migration in _ENDED:
            return found
        if deadline.expired:
            return found
        machine.pause(deadline, 0.05)


def left_pins(machine: Machine) -> tuple[str, ...]:
    """Return the names of all that still pins a VM's disks: nodes, jobs, exports and descriptors."""
    ask = machine.qmp.execute
    names = [one["node-name"] for one in ask("query-named-block-nodes", {"flat": True})]
    names += [one["id"] for one in (*ask("query-jobs"), *ask("query-block-exports"))]
    names += [str(one.get("opaque")) for fds in ask("query-fdsets") for one in fds["fds"]]
    return tuple(sorted({name for name in names if name.startswith(PIN)}))


def judge_after_kill(instant: Instant, code: int, found: Settled) -> CheckResult:
    """Check that the kill happened, and that the VM is as it was.

    Args:
        instant: when.
        code: exit code of the process that attached.
        found: the VM afterwards.

    Raises:
        SetupBroken: nobody was killed, so it shows nothing.
    """
    if code == 0 and instant.command == "cont":
        return skipped(
            instant.label,
            _AS_BEFORE,
            "This QEMU resumes a stopped guest by itself (F1), so nobody sent 'cont'.",
        )
    # Where the guard was killed, the process ends by itself with an error.
    if (code == -signal.SIGKILL) == instant.guard or code == 0:
        raise SetupBroken(f"The {instant.words}: that did not happen, the process ended with {code}.")
    problems = []
    if found.state != RIGHT.state:
        problems.append(Problem(Code.ATTACH_LEFT, f"The guest is left '{found.state}'.", {"what": "state"}))
    if found.capability:
        problems.append(Problem(Code.ATTACH_LEFT, "The capability is left on.", {"what": "capability"}))
    if found.migration not in _ENDED:
        sentence = f"A migration is left '{found.migration}'."
        problems.append(Problem(Code.ATTACH_LEFT, sentence, {"what": "migration"}))
    if found.pins:
        sentence = f"Its disks are left pinned: {', '.join(found.pins)}."
        problems.append(Problem(Code.ATTACH_LEFT, sentence, {"what": "pin"}))
    return judged(instant.label, _AS_BEFORE, problems)


def hidden_process(run: Run) -> Outcome:
    """Attach to a VM whose process cannot be seen: QEMU itself dumps RAM for the golden image."""
    begun = time.monotonic()
    with stranger(run) as (source, path):
        folder = run.folder / "hidden"
        outcome = prove_at(path, folder, AttachOptions(run.name, restore=False), run, hidden=True)
        checks = [*outcome.checks]
        checks += check_source_guest(source.guest.machine, source.guest.agent, source.before.median_bucket)
    require_compared(checks)
    run.discard(folder)
    return outcome_of(run, checks, time.monotonic() - begun, "The VM was proven.", outcome.figures)


def require_compared(checks: Sequence[CheckResult]) -> None:
    """Raise SetupBroken if there was no golden image that most pages were compared with."""
    golden = [check.facts for check in checks if check.name == "golden"]
    compared = sum(int(facts.get("pages compared", 0)) for facts in golden)
    left_out = sum(int(facts.get("pages not in the golden image", 0)) for facts in golden)
    if compared <= _TIMES_MORE * left_out:
        raise SetupBroken(f"{compared} pages were compared, and {left_out} not, so this proves too little.")


def planted_fault(run: Run, *, hidden: bool = False) -> Outcome:
    """Attach to a VM whose QEMU leaves pages unprotected; they must be named.

    Args:
        run: with the VM.
        hidden: whether QEMU's process cannot be seen.
    """
    begun = time.monotonic()
    qemu = faulty_qemu(PLANTED_FAULT, run.stack.executable, run.folder, run.provisioning)
    faulty = replace(run, stack=replace(run.stack, executable=qemu.executable))
    with stranger(faulty) as (_source, path):
        options = AttachOptions(run.name, restore=False)
        outcome = prove_at(path, run.folder / "planted", options, run, hidden=hidden)
    require_acted(qemu)
    check = judge_seen(outcome, by=(Code.GOLDEN_DIFFERS,) if hidden else _BY)
    run.discard(run.folder)
    return outcome_of(run, [check], time.monotonic() - begun, "The planted fault was seen.")


def require_acted(qemu: FaultyQemu) -> None:
    """Raise SetupBroken if the planted fault never acted, so that its run shows nothing."""
    if not qemu.acts:
        raise SetupBroken(f"The planted fault '{PLANTED_FAULT}' never acted, so this shows nothing.")


def judge_seen(outcome: Outcome, by: Sequence[Code] = _BY) -> CheckResult:
    """Check that an outcome is a FAIL that names a page newer than T0 by one of some codes."""
    named = [
        violation
        for check in outcome.checks
        for violation in check.violations
        if violation.code in by and violation.block
    ]
    problems = []
    if outcome.status is not Status.FAIL or not named:
        sentence = f"A VM whose QEMU leaves pages unprotected was {outcome.status.value}: {outcome.sentence}"
        problems.append(Problem(Code.ATTACH_UNSEEN, sentence, {"what": PLANTED_FAULT}))
    return judged("planted", _SEEN, problems, {"pages named": len(named)})


def foreign_writer(run: Run) -> Outcome:
    """Look at a VM with shared memory as a PCI device: it is told, and nothing has been saved."""
    begun = time.monotonic()
    with (
        stranger(run, *_IVSHMEM) as (_source, path),
        AttachedMachine(path, run.folder / "look", MAX_STOP) as machine,
    ):
        obstacles = look(machine, run.folder).obstacles
    check = judge_told("ivshmem-plain", obstacles)
    return outcome_of(run, [check], time.monotonic() - begun, "The foreign writer was told.")


def judge_told(device: str, obstacles: Sequence[Obstacle]) -> CheckResult:
    """Check that a device whose other side writes guest RAM is told as what makes the VM unfit."""
    problems = []
    if not any(device in one.sentence and one.status is Status.SKIP for one in obstacles):
        told = " ".join(one.sentence for one in obstacles) or "nothing"
        sentence = f"The device {device} was not told; told was: {told}"
        problems.append(Problem(Code.ATTACH_UNSEEN, sentence, {"what": device}))
    return judged("told", _TOLD, problems)
