"""Tries whether a QEMU creates a device, without starting the guest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import SubjectFailed
from harness.process import log_tail
from harness.qemu import migration
from harness.qemu.configuration import QEMU_LOG
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.devices.backends import Candidate
from tests_functional.lib.guest import Stack

# QEMU's trace of userfaultfd, in its log beside its messages.
_TRACE = "uffd_"

FILE = "vmstate"
"""Name of the file of a save, in the folder of the QEMU that was saved."""


@dataclass(frozen=True)
class Creation:
    """Whether a device was created.

    Attributes:
        created: whether QEMU runs with it.
        words: QEMU's, why it does not.
        refusal: QEMU's words, why it does not save a guest with it; "" where that has not been seen.
    """

    created: bool
    words: str = ""
    refusal: str = ""


def create(stack: Stack, candidate: Candidate, folder: Path) -> Creation:
    """Start a QEMU with a device, and end it again.

    Raises:
        SetupBroken: a limit of the machine was reached.
    """
    config = replace(stack, extra=(*stack.extra, *candidate.arguments, "-S")).machine_config()
    try:
        with SpawnedMachine(config, folder) as machine:
            refusal = _refusal(machine, folder) if "blocked-reasons" in machine.query_migrate() else ""
            machine.quit()
    except SubjectFailed as error:
        return Creation(False, last_words(folder) or error.sentence)
    return Creation(True, refusal=refusal)


def _refusal(machine: SpawnedMachine, folder: Path) -> str:
    """Return the words of QEMU when it is asked for a background snapshot, "" if it takes one."""
    migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
    # QEMU aborts when a guest that was not started is saved so (docs/findings.md, F24).
    machine.qmp.execute("cont")
    return migration.try_start_save(machine, migration.exec_sink(folder / FILE))


def last_words(folder: Path) -> str:
    """Return the last line of QEMU's log that is a message of its own."""
    lines = log_tail(folder / QEMU_LOG).strip().splitlines()
    own = [line for line in lines if _TRACE not in line]
    return own[-1].strip() if own else ""
