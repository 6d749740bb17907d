"""The shell of a guest that has none: a test that asks for it does not apply to that guest."""

from __future__ import annotations

from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.guest.shell import CommandResult, GuestShell


class NoShell(GuestShell):
    """Stands where a guest without an operating system would have a shell."""

    def run(
        self,
        command: str,  # noqa: ARG002  # the names belong to GuestShell
        deadline: Deadline | None = None,  # noqa: ARG002
        stdin: bytes = b"",  # noqa: ARG002
    ) -> CommandResult:
        """Raise NotApplicable."""
        raise NotApplicable("This test runs commands in its guest, and a bare guest has no operating system.")
