"""Asks a machine what its monitor alone can tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from harness.qemu.qmp import QmpSession


class MonitoredMachine(ABC):
    """The part of `Machine` that a QMP session is enough for."""

    @property
    @abstractmethod
    def qmp(self) -> QmpSession:
        """The QMP session."""

    @abstractmethod
    def failure(
        self, sentence: str, code: Code = Code.QEMU_FAILED, fields: Fields | None = None
    ) -> SubjectFailed | SetupBroken:
        """Return an error that says whose fault it is, with evidence; see `Machine`."""

    @abstractmethod
    def pause(self, deadline: Deadline, seconds: float = 0.01) -> int | None:
        """Sleep between two checks of a condition; see `Machine`."""

    def wait_status(self, wanted: Callable[[str], bool], deadline: Deadline, what: str) -> str:
        """Poll `query-status` until `wanted` accepts its status, and return the status.

        Raises:
            SubjectFailed: QEMU ended, or the status did not come in time.
        """
        while True:
            status = str(self.qmp.execute("query-status")["status"])
            if wanted(status):
                return status
            if deadline.expired:
                raise self.failure(
                    f"The guest is '{status}' and did not become {what} in time",
                    Code.GUEST_WRONG_STATE,
                    {"state": status},
                )
            self.pause(deadline)

    def hmp(self, command: str) -> str:
        """Run a command of the human monitor (HMP) and return its output."""
        text = str(self.qmp.execute("human-monitor-command", {"command-line": command}))
        return text.replace("\r\n", "\n")

    def query_migrate(self) -> dict[str, Any]:
        """Return the answer to `query-migrate`."""
        return dict(self.qmp.execute("query-migrate"))

    def version(self) -> str:
        """Return QEMU's version as `query-version` has it, e.g. ``10.0.2 (Debian 1:10.0.2+ds-2)``."""
        answer = self.qmp.execute("query-version")
        numbers = answer["qemu"]
        package = f" ({answer['package'].strip()})" if answer["package"].strip() else ""
        return f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}{package}"
