"""A child process ends with us, takes its own children along, and leaves evidence."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.process import ChildProcess, log_tail, session_members

# A shell that has started a child of its own and says so.
_SLEEPER = ("/bin/sh", "-c", "sleep 60 & echo started; wait")


def test_end_leaves_no_member_of_the_session(tmp_path: Path) -> None:
    """Ending a process ends its children too."""
    log = tmp_path / "log"
    with ChildProcess(_SLEEPER, log) as child:
        Deadline(10).wait_for(lambda: "started" in log_tail(log), "The child's start")
        assert len(session_members(child.pid)) == 2
    assert session_members(child.pid) == []
    assert child.exit_code() == -signal.SIGKILL


def test_children_of_an_ended_process_are_ended(tmp_path: Path) -> None:
    """A process that ends by itself and leaves a child behind is swept up after."""
    child = ChildProcess(["/bin/sh", "-c", "sleep 60 & exit 3"], tmp_path / "log")
    assert child.wait(Deadline(10)) == 3
    assert session_members(child.pid) != []
    child.end()
    assert session_members(child.pid) == []


def _child_of_a_killed_parent(log: Path) -> int:
    """A child's session after a SIGKILL to its parent, as soon as nobody is left in it."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from harness.process import ChildProcess
        child = ChildProcess(["sleep", "60"], Path(sys.argv[1]))
        print(child.pid, flush=True)
        time.sleep(60)
        """
    )
    command = [sys.executable, "-c", script, str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    Deadline(10).wait_for(lambda: session_members(child) == [], "The child's end")
    return child


def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    """SIGKILL to the process that started it ends the child: the kernel sees to it."""
    assert session_members(_child_of_a_killed_parent(tmp_path / "log")) == []


def test_child_of_a_parent_killed_at_once_does_not_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that dies before its child has asked to die with it leaves none behind either."""
    slow = tmp_path / "setpriv"
    slow.write_text(f'#!/bin/sh\nsleep 1\nexec {shutil.which("setpriv")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert session_members(_child_of_a_killed_parent(tmp_path / "log")) == []


def test_wait_names_the_program_and_keeps_its_output(tmp_path: Path) -> None:
    """A wait that runs out says which program and shows what it said."""
    with ChildProcess(["/bin/sh", "-c", "echo last words; sleep 60"], tmp_path / "log") as child:
        Deadline(10).wait_for(lambda: "words" in log_tail(tmp_path / "log"), "The child's output")
        with pytest.raises(DeadlineExpired, match="'sh' did not end") as caught:
            child.wait(Deadline(0.05))
    assert "last words" in caught.value.evidence.log_tail


def test_unwritable_log_is_a_broken_setup(tmp_path: Path) -> None:
    """A log that cannot be opened is no fault of the program's."""
    with pytest.raises(SetupBroken, match="Could not start"):
        ChildProcess(["true"], tmp_path / "missing" / "log")


def test_output_goes_to_the_log_and_stdin_is_empty(tmp_path: Path) -> None:
    """A child never waits for input from the user's terminal."""
    child = ChildProcess(["/bin/sh", "-c", "cat; echo end"], tmp_path / "log")
    assert child.wait(Deadline(10)) == 0
    assert (tmp_path / "log").read_text() == "end\n"
    assert not Path(f"/proc/{child.pid}").exists()


def test_a_process_that_has_no_free_descriptor_does_not_call_a_session_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only processes that are gone are left out; a read error of another kind is raised."""

    def read_text(_path: Path, *_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(OSError, match="Too many"):
        session_members(1)
