"""Puts devices into a bare guest, saves the guest, restores it paused and saves it again."""

from __future__ import annotations

import enum
from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guest_images.agent.client import AgentStatus
from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import (
    DeadlineExpired,
    MachineryMissing,
    NotApplicable,
    SetupBroken,
    SnapproofError,
    SnapshotWrong,
    SubjectFailed,
    UsageError,
)
from harness.guest.shell import GuestUnreachable
from harness.qemu import migration
from harness.qemu.qmp import CommandRefused
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.devices.backends import Candidate
from tests_functional.devices.creation import FILE, last_words
from tests_functional.devices.differences import device_sections, difference_problems, source_problems
from tests_functional.lib.guest import Guest, Stack, logged_in, start_writers
from validators.checks import Problem
from validators.judge import check_file
from validators.vmstate.diff import diff_files

_BOOT_SECONDS, _SAVE_SECONDS, _RESTORE_SECONDS, _GO_ON_SECONDS = 30.0, 40.0, 40.0, 10.0
_PATTERN = "random"


LATER = f"later/{FILE}"
"""Name of the file of an ordinary save of the source guest after its snapshot."""


MACHINE_ALONE = "machine-alone"
"""The label of a passage without a device."""


class End(enum.StrEnum):
    """How the passage of a device ends."""

    IMPOSSIBLE = "impossible"
    NOT_CREATED = "not created"
    REFUSED = "refused"
    RIGHT = "right"
    WRONG = "wrong"


@dataclass
class Passage:
    """What has become of a device.

    Attributes:
        label: what results call the device.
        end: how it ended.
        words: QEMU's, why it was not created, or not saved.
        problems: all that is wrong.
        sections: names of the device sections in the file of the snapshot, where it was read.
    """

    label: str
    end: End = End.RIGHT
    words: str = ""
    problems: list[Problem] = field(default_factory=list)
    sections: frozenset[str] = frozenset()

    def note(self, code: Code, sentence: str, fields: dict[str, Any] | None = None) -> None:
        """Note a problem of the device."""
        self.problems.append(Problem(code, sentence, {**(fields or {}), "device": self.label}))

    def blame(self, code: Code, error: SnapproofError) -> None:
        """Note an error as a problem of the device; pass on one that is not QEMU's fault.

        Raises:
            MachineryMissing, SetupBroken: the error is one.
        """
        if isinstance(error, (MachineryMissing, SetupBroken)) and not isinstance(error, GuestUnreachable):
            raise error
        self.note(code, error.sentence, dict(error.fields))


class _Ended(Exception):
    """The passage has ended early; what it came to is noted."""


def put_through(
    stack: Stack,
    devices: Sequence[Candidate],
    folder: Path,
    seed: int,
    deadline: Deadline,
    *,
    background: bool,
    machine: Container[str] = (),
) -> Passage:
    """Put devices into a guest, save and restore the guest, and judge file, device state and guest.

    Args:
        stack: with a bare guest.
        devices: those that can be created together; none for the machine alone.
        folder: for files and logs, made here.
        seed: of the guest's writers.
        deadline: of the passage.
        background: by a background snapshot, or as a control by an ordinary save of the stopped guest.
        machine: names of the sections that the machine has without these devices.

    Raises:
        MachineryMissing: the machine lacks something.
        SetupBroken: a limit of the machine was reached.
    """
    passage = Passage("+".join(device.label for device in devices) or MACHINE_ALONE)
    folder.mkdir(parents=True)
    arguments = [text for device in devices for text in device.arguments]
    stack = replace(stack, extra=(*stack.extra, *arguments))
    source, restored = folder / "source", folder / "restored"
    try:
        status = _save(stack, source, seed, deadline, passage, background)
        if background and devices:
            later = diff_files(source / FILE, source / LATER)
            passage.problems += source_problems(later, passage.label, machine)
        passage.sections = device_sections(source / FILE)
        _save_again(stack, source / FILE, restored, deadline, passage)
        _judge_file(restored / FILE, status, passage)
        passage.problems += difference_problems(diff_files(source / FILE, restored / FILE), passage.label)
    except _Ended:
        pass
    except (SnapshotWrong, UsageError) as error:
        # A file that cannot be read at all, or not to the end of RAM.
        passage.note(error.code, error.sentence)
    if passage.problems:
        passage.end = End.WRONG
    return passage


def _save(
    stack: Stack, folder: Path, seed: int, deadline: Deadline, passage: Passage, background: bool
) -> AgentStatus:
    """Boot a guest with the device and save it; in the background, its writers write meanwhile.

    Returns:
        The agent's status before the save.
    """
    with ExitStack() as opened:
        try:
            machine = opened.enter_context(SpawnedMachine(stack.machine_config(), folder))
        except SubjectFailed as error:
            passage.end, passage.words = End.NOT_CREATED, last_words(folder) or error.sentence
            raise _Ended from error
        limit = deadline.at_most(_BOOT_SECONDS)
        try:
            guest = opened.enter_context(logged_in(machine, stack, limit))
            status, counters = start_writers(guest, stack.writer_plan(_PATTERN, seed), limit)
        except SnapproofError as error:
            passage.blame(Code.DEVICES_NOT_BOOTED, error)
            raise _Ended from error
        _migrate(machine, folder / FILE, deadline, passage, background)
        if background:
            _require_onward(machine, counters, deadline, passage, "source guest")
            (folder / LATER).parent.mkdir()
            _migrate(machine, folder / LATER, deadline, passage, background=False)
        machine.quit()
    for name in (FILE, LATER) if background else (FILE,):
        _judge_file(folder / name, status, passage)
    return status


def _migrate(
    machine: SpawnedMachine, path: Path, deadline: Deadline, passage: Passage, background: bool
) -> None:
    try:
        if background:
            migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
        else:
            machine.qmp.execute("stop")
        migration.complete_save(machine, migration.exec_sink(path), deadline.at_most(_SAVE_SECONDS))
        if background:
            migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
    except (CommandRefused, NotApplicable) as error:
        passage.end = End.REFUSED
        passage.words = error.reason if isinstance(error, CommandRefused) else error.sentence
        raise _Ended from error
    except SnapproofError as error:
        passage.blame(Code.DEVICES_NOT_SAVED if machine.alive() else Code.DEVICES_LOST, error)
        raise _Ended from error


def _require_onward(
    machine: SpawnedMachine, counters: AgentCounters, deadline: Deadline, passage: Passage, who: str
) -> None:
    """Note a problem if a guest that should run does not, or its writers do not write."""
    try:
        state = str(machine.qmp.execute("query-status")["status"])
        if state != "running":
            sentence = f"The {who} is '{state}', and should run."
            passage.note(Code.DEVICES_STANDS_STILL, sentence, {"state": state})
            return
        before = counters.steps()
        deadline.at_most(_GO_ON_SECONDS).wait_for(
            lambda: all(now > then for now, then in zip(counters.steps(), before, strict=True)),
            f"The writing of the {who}",
            interval=0.002,
        )
    except DeadlineExpired as error:
        passage.note(Code.DEVICES_STANDS_STILL, error.sentence)
    except SnapproofError as error:
        passage.blame(Code.DEVICES_LOST, error)
        raise _Ended from error


def _judge_file(path: Path, status: AgentStatus, passage: Passage) -> None:
    """Judge a file by the offline oracles, which must have seen all of the agent's pages."""
    verdict = check_file(path, agent_ran=True)
    # A device may have more memory than the guest, all zero; that RAM is there the agent's pages show.
    found = [one for one in verdict.violations if one.code is not Code.RAM_NOT_EMPTY_ALL_ZERO]
    for violation in found:
        passage.note(
            violation.code, f"The file '{_short(path)}': {violation.sentence}", dict(violation.fields)
        )
    order = verdict.check("write-order")
    seen = order.facts.get("pages verified", 0) if order else 0
    if not found and seen != status.data_pages:
        sentence = f"The agent has {status.data_pages} pages, {seen} were verified in the file "
        sentence += f"'{_short(path)}'."
        passage.note(Code.ORACLES_AGENT_PAGES, sentence)


def _short(path: Path) -> str:
    """Return the part of a file's path that says whose file it is."""
    return str(path.relative_to(path.parents[2 if path.parent.name == "later" else 1]))


def _save_again(stack: Stack, file: Path, folder: Path, deadline: Deadline, passage: Passage) -> None:
    """Restore a file into a QEMU that does not start the guest, save it, and let the guest go on."""
    config = replace(stack, extra=(*stack.extra, "-S")).machine_config()
    with ExitStack() as opened:
        try:
            machine = opened.enter_context(SpawnedMachine(config, folder, incoming=True))
            limit = deadline.at_most(_RESTORE_SECONDS)
            migration.restore(machine, migration.exec_source(file), limit)
        except SnapproofError as error:
            passage.blame(Code.DEVICES_NOT_RESTORED, error)
            raise _Ended from error
        try:
            limit = deadline.at_most(_SAVE_SECONDS)
            migration.complete_save(machine, migration.exec_sink(folder / FILE), limit)
            machine.qmp.execute("cont")
            guest = opened.enter_context(logged_in(machine, stack, deadline.at_most(_BOOT_SECONDS)))
            _require_onward(machine, guest.agent.counters(machine), deadline, passage, "restored guest")
            _verify(guest, passage)
            machine.quit()
        except SnapproofError as error:
            passage.blame(Code.DEVICES_NOT_SAVED_AGAIN, error)
            raise _Ended from error


def _verify(guest: Guest, passage: Passage) -> None:
    """Have the restored guest check its memory."""
    guest.agent.pause()
    found, errors = guest.agent.verify(), guest.agent.status().errors
    if found.mismatch_count or errors:
        sentence = f"The restored guest found {found.mismatch_count + errors} wrong pages."
        passage.note(Code.RESTORED_WRONG_PAGE, sentence)
