"""Run a child process that the kernel kills when we end, and check that no process of its session is left."""

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

_LOG_TAIL_BYTES = 4 << 10
_END_SECONDS = 10.0


def log_tail(path: Path, limit: int = _LOG_TAIL_BYTES) -> str:
    """Return the last `limit` bytes of a log as text, empty if the file cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - limit))
            return stream.read(limit).decode(errors="replace")
    except OSError:
        return ""


def last_line(text: str) -> str:
    """Return the last line of a program's output that is not empty, "" if there is none."""
    return "".join(text.strip().splitlines()[-1:])


def session_members(session: int) -> list[int]:
    """Return the ids of the live (not zombie) processes of a session."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The command name is in parentheses and may contain any character, even ')'.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            # It has ended, or is hidden from us. Any other error (no free descriptor) would hide all of them.
            continue
        state, session_field = fields[0], int(fields[3])
        if session_field == session and state not in "ZX":
            members.append(int(entry.name))
    return members


# If the parent dies before PR_SET_PDEATHSIG is set, the child gets no signal but has another parent.
IF_PARENT_LIVES = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'
"""Shell script: runs the command in its arguments from the second on if the first is its parent's pid."""


class ChildProcess:
    """A process in a session of its own, which the kernel kills when the thread that started it ends.

    Leaving its `with` kills the process and all others of its session, then checks that the session is empty.
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
            MachineryMissing: `setpriv` (util-linux) is missing.
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
        """Return its exit code (negative for the signal that ended it), None while it runs."""
        return self._process.poll()

    def evidence(self, *paths: Path) -> Evidence:
        """Return its command line, exit code and log tail, for an error."""
        return Evidence(self.argv, self.exit_code(), log_tail(self.log), (self.log, *paths))

    def wait(self, deadline: Deadline) -> int:
        """Wait until the process ends by itself, and return its exit code.

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
        """Kill the process and all others of its session, and check that none is left.

        Raises:
            SetupBroken: a process of its session could not be ended.
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
