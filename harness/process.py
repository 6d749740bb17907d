"""A child process that dies with us, and the proof that nothing of it stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, Evidence, MachineryMissing, SetupBroken

_LOG_TAIL_BYTES = 4096
_END_SECONDS = 10.0


def log_tail(path: Path, limit: int = _LOG_TAIL_BYTES) -> str:
    """The last `limit` bytes of a log as text, empty where there is no such file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - limit))
            return stream.read(limit).decode(errors="replace")
    except OSError:
        return ""


def session_members(session: int) -> list[int]:
    """Process ids of the live (not zombie) members of a session."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The command name is in parentheses and may hold anything, even ')'.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        state, session_field = fields[0], int(fields[3])
        if session_field == session and state not in "ZX":
            members.append(int(entry.name))
    return members


# The kernel tells a child of its parent's death only once it has been asked to; a parent that has died by
# then is no longer the child's.
IF_PARENT_LIVES = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'
"""Shell script: runs its arguments from the second on, if the process named by the first is its parent."""


class ChildProcess:
    """A process in a session of its own, killed by the kernel when our thread ends.

    Used as a context manager; leaving it ends the process and whatever it started, then checks that
    its session is empty.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `argv` with no standard input and its output appended to `log`.

        Raises:
            MachineryMissing: the program or `setpriv` (util-linux) is not there.
            SetupBroken: the operating system refused to start it.
        """
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise MachineryMissing("The program 'setpriv' is missing; install the package util-linux.")
        self.argv = tuple(argv)
        self.log = log
        ask_to_die_with_us = [setpriv, "--pdeathsig", "KILL", "--"]
        if_we_live = ["/bin/sh", "-c", IF_PARENT_LIVES, "sh", str(os.getpid())]
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    [*ask_to_die_with_us, *if_we_live, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=pass_fds,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                )
        except OSError as error:
            raise SetupBroken(f"Could not start '{argv[0]}': {error.strerror}.") from error

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its session."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Its exit code (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def evidence(self, *paths: Path) -> Evidence:
        """Command line, exit code and log tail for an error message."""
        return Evidence(self.argv, self.exit_code(), log_tail(self.log), (self.log, *paths))

    def wait(self, deadline: Deadline) -> int:
        """Wait for the process to end by itself.

        Raises:
            DeadlineExpired: it still runs.
        """
        try:
            return self._process.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            raise DeadlineExpired(
                f"'{Path(self.argv[0]).name}' did not end in time.", self.evidence()
            ) from None

    def end(self) -> None:
        """Kill the process and all of its session, and prove that none is left.

        Raises:
            SetupBroken: a member of its session could not be ended.
        """
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait(_END_SECONDS)
        deadline = Deadline(_END_SECONDS)
        while left := session_members(self.pid):
            for member in left:
                try:
                    os.kill(member, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            try:
                deadline.wait_for(lambda: not session_members(self.pid), "The end of all child processes")
            except DeadlineExpired as error:
                raise SetupBroken(
                    f"Processes {left} started by '{Path(self.argv[0]).name}' could not be ended.",
                    self.evidence(),
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
