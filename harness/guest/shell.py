"""The protocol of a shell in a guest: it runs commands there, over SSH or another way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken, SnapproofError


class GuestUnreachable(SnapproofError):
    """The guest did not answer in time."""

    code = Code.GUEST_NO_ANSWER


@dataclass(frozen=True)
class CommandResult:
    """The result of a command in the guest: its exit code and decoded output."""

    exit_code: int
    stdout: str
    stderr: str


class GuestShell(Protocol):
    """A shell in a guest; `SshShell` is one over SSH.

    It does not survive a restore: open a new one in the restored guest. An implementation inherits from this
    class, for `check`.
    """

    def run(self, command: str, deadline: Deadline | None = None, stdin: bytes = b"") -> CommandResult:
        """Run a shell command in the guest.

        Args:
            command: command line for the guest's shell.
            deadline: for the whole command, 30 s by default.
            stdin: its standard input.

        Raises:
            GuestUnreachable: the connection broke, or the command did not end in time.
        """

    def check(self, command: str, deadline: Deadline | None = None) -> str:
        """Run a command that must succeed and return its standard output.

        Raises:
            SetupBroken: it exited non-zero.
            GuestUnreachable: as for `run`.
        """
        result = self.run(command, deadline)
        if result.exit_code != 0:
            raise SetupBroken(
                f"'{command}' failed in the guest with exit code {result.exit_code}: {result.stderr.strip()}"
            )
        return result.stdout
