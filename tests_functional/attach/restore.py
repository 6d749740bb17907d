"""Restores the snapshot of an attached VM in a QEMU made like it, compares RAM, and lets the guest go on."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.client import AgentClient
from harness.attach.clone import ClonedMachine
from harness.attach.guard import DESCRIPTOR_NAME
from harness.attach.machine import AttachedMachine
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import HostTooBusy, MachineryMissing, NotApplicable, SetupBroken, SnapproofError
from harness.guest.guest_agent import CHANNEL_NAME, PING_SECONDS, GuestAgent, GuestAgentShell, SocketChannel
from harness.guest.shell import GuestShell
from harness.qemu import migration
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.handed_over import hand_over
from harness.qemu.machine import Machine
from harness.qemu.monitor_tables import parse_block_lines
from harness.qemu.ram import differing_pages, ramblocks
from harness.qemu.spawned_machine import SpawnedMachine
from harness.status import Status
from tests_functional.attach.guest_writers import GuestWriters
from tests_functional.attach.save import AttachedSnapshot
from validators.checks import Problem, judged, skipped
from validators.oracles.o3_restored_guest.restored_guest import check_restored_guest, check_run_state
from validators.verdict import T0, CheckResult, Tally

_RESTORE = "A new QEMU like the VM's takes the file."
_RAM = "Before it goes on, the restored guest's RAM equals the golden image bit for bit."
_GOES_ON = "The restored guest goes on: it runs, and neither stops, resets nor panics."
_ASKED = "Our agent in the restored guest answers, by the QEMU guest agent."
_DISKS = "The restored guest's kernel finds no error on its disks, which are those of T0."
_FOLDER = "restored"
_OF_NOW = "Its disks have the content of now and not of T0, so this does not blame the snapshot."
_STAMP = re.compile(r"\[\s*(\d+\.\d+)\]")
_MOST_LINES = 5
# A guest that has stood still may have to catch up first.
_ANSWER_SECONDS = 60.0
_DISK_SECONDS = 120.0
# Words of Linux fs/ext4/super.c, fs/jbd2/, fs/xfs/xfs_error.c, fs/btrfs/messages.c and block/blk-core.c.
_DISK_ERRORS = "EXT4-fs error|EXT4-fs warning|JBD2: .*rror|XFS .*[Cc]orrupt|BTRFS (error|critical)|I/O error"
# It reads metadata from the disks again, and writes what it had still to write.
_USE_DISKS = "sync; echo 3 > /proc/sys/vm/drop_caches; ls -R /etc /var > /dev/null 2>&1; sync"
_NOT_STARTED = (Code.QEMU_ENDED, Code.QMP_NO_GREETING)
_WATCH_SECONDS = 2.0
# QEMU 11.1 qapi/run-state.json: events of a guest that does not go on.
_ENDINGS = ("RESET", "SHUTDOWN", "GUEST_PANICKED", "GUEST_CRASHLOADED", "STOP", "WATCHDOG", "BLOCK_IO_ERROR")


@dataclass(frozen=True)
class Asked:
    """What a restored guest is asked.

    Attributes:
        writers: our agent, as it was in the VM's guest; None where it was not.
        t0: as found in the file, None where it was not.
        further: checks of its own, by a shell in the guest.
    """

    writers: GuestWriters | None = None
    t0: T0 | None = None
    further: Callable[[GuestShell], list[CheckResult]] | None = None


def judge_clone(
    machine: AttachedMachine,
    snapshot: AttachedSnapshot,
    folder: Path,
    deadline: Deadline,
    asked: Asked,
) -> tuple[list[CheckResult], tuple[str, ...]]:
    """Restore a snapshot and judge the restored guest.

    Args:
        machine: the VM, which runs on.
        snapshot: of it.
        folder: gets a folder `restored`.
        deadline: for all of it.
        asked: what the restored guest is asked, where its QEMU guest agent answers.

    Returns:
        The checks, and how the new QEMU differs from the VM's.

    Raises:
        HostTooBusy, MachineryMissing: as it says.
    """
    try:
        clone = ClonedMachine(machine, folder / _FOLDER, snapshot.pins, CHANNEL_NAME)
    except NotApplicable as error:
        return [skipped("restore", _RESTORE, error.sentence)], ()
    started = False
    try:
        with clone:
            started = True
            if differing := differing_blocks(machine.hmp("info ramblock"), clone.hmp("info ramblock")):
                return [skipped("restore", _RESTORE, differing)], clone.changes
            begun = time.monotonic()
            state = _load(clone, snapshot.path, deadline)
            checks = [judged("restore", _RESTORE, []), check_run_state(state, snapshot.state)]
            checks += [compare_ram(clone, snapshot)]
            checks += [_go_on(clone, state, deadline)]
            checks += _ask(clone, asked, begun, deadline)
    except (HostTooBusy, MachineryMissing):
        raise
    except SetupBroken as error:
        # A QEMU that does not start here says nothing about the snapshot.
        return [skipped("restore", _RESTORE, error.sentence)], clone.changes
    except SnapproofError as error:
        if error.code in _NOT_STARTED and not started:
            return [_not_started(error)], clone.changes
        problem = Problem.of_error(error, f"The restored guest failed: {error.sentence}")
        return [judged("restore", _RESTORE, [problem])], clone.changes
    return checks, clone.changes


def _not_started(error: SnapproofError) -> CheckResult:
    return skipped(
        "restore",
        _RESTORE,
        f"The QEMU that was made like the VM's did not start: {error.sentence} Its command line and how it "
        f"differs are in the folder '{_FOLDER}'.",
    )


def _load(clone: SpawnedMachine, path: Path, deadline: Deadline) -> str:
    """Load the file and return the guest's run state; the guest waits where it was running at T0, too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        uri = hand_over(clone, descriptor, DESCRIPTOR_NAME)
    finally:
        os.close(descriptor)
    return migration.restore(clone, uri, deadline)


def compare_ram(clone: Machine, snapshot: AttachedSnapshot) -> CheckResult:
    """Compare RAM of a restored guest that has not gone on with the golden image."""
    if snapshot.golden is None:
        return skipped("restored-ram", _RAM, "There is no golden image.")
    tally = Tally("restored-ram", _RAM)
    missing = []
    blocks = {block.idstr: block for block in ramblocks(clone)}
    compared = 0
    for then, image in snapshot.golden.copies():
        block = blocks.get(then.idstr)
        if block is None or not block.host_address:
            missing.append(then.idstr)
            continue
        gaps = snapshot.golden.gaps.get(then.idstr, ())
        for offset in differing_pages(clone, block, image):
            if any(start <= offset < end for start, end in gaps):
                continue
            tally.report(
                Code.GOLDEN_DIFFERS,
                f"Page {offset:#x} of RAMBlock '{then.idstr}' of the restored guest differs from RAM at T0.",
                then.idstr,
                offset,
            )
        compared += (block.used_bytes - sum(end - start for start, end in gaps)) // TARGET_PAGE_BYTES
    tally.facts["pages compared"] = compared
    result = tally.result()
    if result.status is Status.PASS and (missing or not compared):
        names = ", ".join(f"'{name}'" for name in missing) or "none has a page"
        return skipped(
            "restored-ram",
            _RAM,
            f"{compared} pages of the restored guest are equal; not every RAMBlock was compared: {names}.",
        )
    return result


def differing_blocks(theirs: str, ours: str) -> str:
    """Compare two outputs of `info ramblock`; return a sentence that names what differs, "" for nothing.

    The used length is no difference: firmware tables get theirs from the stream.
    """
    sizes = [
        {line.idstr: line.total_bytes for line in parse_block_lines(text) if line.idstr}
        for text in (theirs, ours)
    ]
    names = sorted(name for name in {*sizes[0], *sizes[1]} if sizes[0].get(name) != sizes[1].get(name))
    if not names:
        return ""
    return (
        "The RAMBlocks of the VM are not those of a QEMU with its command line, so it has devices that were "
        f"plugged in or out since: {', '.join(names)}."
    )


def _go_on(clone: ClonedMachine, state: str, deadline: Deadline) -> CheckResult:
    """Let the guest run for a moment and watch QEMU's events and run state."""
    mark = clone.qmp.mark()
    if state != "running":
        clone.qmp.execute("cont")
    end = deadline.at_most(_WATCH_SECONDS)
    while not end.expired and clone.alive():
        clone.pause(end, 0.1)
    now = str(clone.qmp.execute("query-status")["status"])
    problems = []
    if now != "running":
        problems.append(
            Problem(
                Code.RESTORED_RUN_STATE, f"The restored guest is '{now}' after it went on.", {"state": now}
            )
        )
    problems += [
        Problem(
            Code.RESTORED_RUN_STATE,
            f"QEMU sent {event.name} when the restored guest went on.",
            {"state": now},
        )
        for event in clone.qmp.events_since(mark)
        if event.name in _ENDINGS
    ]
    if problems and clone.overlays:
        told = " ".join(problem.sentence for problem in problems)
        return skipped(
            "restored-goes-on",
            _GOES_ON,
            f"{told} {_OF_NOW}",
        )
    return judged("restored-goes-on", _GOES_ON, problems, {"seconds": _WATCH_SECONDS})


def _ask(clone: ClonedMachine, asked: Asked, begun: float, deadline: Deadline) -> list[CheckResult]:
    """Ask a restored guest that goes on, by its QEMU guest agent."""
    if clone.agent is None:
        why = "The VM has no QEMU guest agent, so the restored guest is judged by its memory alone."
        return [skipped("restored-asked", _ASKED, why)] if asked.writers else []
    agent = GuestAgent(SocketChannel(clone.agent))
    # Nobody has asked it before where our agent is not in the guest, so there may be none.
    seconds = _ANSWER_SECONDS if asked.writers else PING_SECONDS
    if not agent.answers(deadline.at_most(seconds).remaining()):
        return [_silent(clone, asked)]
    shell = GuestAgentShell(agent)
    checks = []
    if asked.writers is not None:
        checks += _ask_writers(shell, asked.writers, asked.t0, begun, deadline)
    checks.append(_ask_disks(clone, shell, asked.t0))
    return [*checks, *(asked.further(shell) if asked.further else [])]


def _ask_writers(
    shell: GuestShell, writers: GuestWriters, t0: T0 | None, begun: float, deadline: Deadline
) -> list[CheckResult]:
    agent = AgentClient(shell, writers.command)
    found = check_restored_guest(agent, writers.status, t0, begun, False, deadline)
    return [replace(check, name=f"agent/{check.name}") for check in found]


def _silent(clone: ClonedMachine, asked: Asked) -> CheckResult:
    """Return the check of a guest agent that does not answer, which had answered before if we asked it."""
    sentence = "The restored guest's agent does not answer in time."
    if asked.writers is None or clone.overlays:
        return skipped("restored-asked", _ASKED, sentence)
    return judged("restored-asked", _ASKED, [Problem(Code.RESTORED_AGENT, sentence)])


def _ask_disks(clone: ClonedMachine, shell: GuestShell, t0: T0 | None) -> CheckResult:
    """Have the restored guest use its disks, and return what its kernel says since T0."""
    name = "restored-disks"
    used = shell.run(_USE_DISKS, Deadline(_DISK_SECONDS))
    said = shell.run(f"dmesg | grep -E {shlex.quote(_DISK_ERRORS)}").stdout.splitlines()
    since = t0.monotonic_ns / 1e9 if t0 else 0.0
    lines = [line for line in said if said_at(line) >= since]
    if used.exit_code:
        lines.append(used.stderr.strip() or f"its commands ended with {used.exit_code}")
    problems = [
        Problem(Code.DISK_FILES_COMPLAINT, f"The restored guest reports an error of its disk: {line[:300]}")
        for line in lines[:_MOST_LINES]
    ]
    if problems and clone.overlays:
        told = " ".join(problem.sentence for problem in problems)
        return skipped(name, _DISKS, f"{told} {_OF_NOW}")
    if clone.overlays:
        return skipped(name, _DISKS, _OF_NOW)
    return judged(name, _DISKS, problems)


def said_at(line: str) -> float:
    """Return the time of a line of `dmesg` in seconds; 0.0 for a line without one."""
    match = _STAMP.match(line)
    return float(match[1]) if match else 0.0
