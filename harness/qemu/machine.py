"""The protocol of a running QEMU: what scenarios and oracles may use of it, whether we started it or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import Evidence, MachineryMissing, SetupBroken, SubjectFailed
from harness.linux.listeners import Endpoint
from harness.qemu.configuration import MachineConfig
from harness.qemu.disk import KeptDisk
from harness.qemu.qmp import QmpSession


class Machine(Protocol):
    """A QEMU with its QMP session and a way to its guest's SSH; `SpawnedMachine` is one that we start.

    Attributes:
        config: what runs.
        folder: receives the logs.
        ssh: where QEMU listens on this machine, to forward connections to the guest's SSH server.
        kept_disk: the disk to restore this guest's snapshots with, None if there is none; see `keep_disk()`.
    """

    config: MachineConfig
    folder: Path
    ssh: Endpoint
    kept_disk: KeptDisk | None

    @property
    def qmp(self) -> QmpSession:
        """Its QMP session."""

    @property
    def pid(self) -> int | None:
        """Process id of QEMU, None where it cannot be known; see `known_pid()`."""

    def alive(self) -> bool:
        """Return whether QEMU runs."""

    def evidence(self, *paths: Path) -> Evidence:
        """Return what is known of QEMU's process (command line, exit code, log) and `paths`, for an error."""

    def failure(
        self, sentence: str, code: Code = Code.QEMU_FAILED, fields: Fields | None = None
    ) -> SubjectFailed | SetupBroken:
        """Return an error that blames this QEMU, or the limit of the machine that ended it, with evidence.

        Args:
            sentence: what QEMU did wrong, without the full stop.
            code: what happened.
            fields: values that tell cases with the same code apart.
        """

    def wait_status(self, wanted: Callable[[str], bool], deadline: Deadline, what: str) -> str:
        """Poll `query-status` until `wanted` accepts its status, and return the status.

        Raises:
            SubjectFailed: QEMU ended, or the status did not come in time.
        """

    def pause(self, deadline: Deadline, seconds: float = 0.01) -> int | None:
        """Sleep between two checks of a condition, less if QEMU ends; return its exit code in that case."""

    def hmp(self, command: str) -> str:
        """Run a command of the human monitor (HMP) and return its output."""

    def query_migrate(self) -> dict[str, Any]:
        """Return the answer to `query-migrate`."""

    def version(self) -> str:
        """Return QEMU's version as `query-version` has it, e.g. ``10.0.2 (Debian 1:10.0.2+ds-2)``."""

    def quit(self) -> None:
        """Ask a QEMU that we have started to quit, and wait until it has ended.

        Raises:
            SubjectFailed: it did not end in time.
            SetupBroken: we have not started it, so it is not ours to end.
        """


def known_pid(machine: Machine) -> int:
    """Return the process id of QEMU, for what is read from /proc/PID.

    Raises:
        MachineryMissing: it cannot be known.
    """
    if machine.pid is None:
        raise MachineryMissing(
            "The process id of this QEMU is not known, so its memory and open files cannot be read."
        )
    return machine.pid
