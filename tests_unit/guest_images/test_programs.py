"""Contract: a program that does not end is killed with its children, and a sentence says so."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from guest_images import programs
from guest_images.agent import build as agent_build
from guest_images.agent.build import compile_agent, find_compiler, plan_agent
from guest_images.cache import Cache
from guest_images.hosts import kernel_build
from guest_images.programs import first_output_line, run_program
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline, more_patience
from harness.errors import SetupBroken
from tests_unit.support.hanging_compiler import hanging_cc


def _runs(pid: int) -> bool:
    """Return whether a process runs; a zombie, which has no command line, does not."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """A time-out ends the program's children too; one would go on and hold the output open."""
    child = tmp_path / "child"
    command = ["sh", "-c", f"sleep 300 & echo $! > {child}; wait"]
    before = time.monotonic()
    with pytest.raises(SetupBroken, match=r"^The compiler did not finish the agent within 3 s\.$") as caught:
        run_program("The compiler", "finish the agent", command, 3)
    assert time.monotonic() - before < 60
    assert caught.value.evidence.command == command
    Deadline(20).wait_for(lambda: not _runs(int(child.read_text())), "The end of the child")


def test_limit_grows_with_patience() -> None:
    """A program that takes longer than its limit ends well, and a sentence names the time that it had."""
    with more_patience(50):
        assert run_program("sh", "end", ["sh", "-c", "sleep 0.3"], 0.1).returncode == 0
    with more_patience(2), pytest.raises(SetupBroken, match=r"did not end within 2 s\."):
        run_program("sleep", "end", ["sleep", "100"], 1)


def test_a_program_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    """E.g. it was removed since it was found."""
    with pytest.raises(SetupBroken, match="The compiler could not be started: No such file or directory"):
        run_program("The compiler", "finish the agent", [str(tmp_path / "cc")], 3)


def test_output_and_exit_code_are_kept() -> None:
    """The result has the program's output and its exit code, or its signal as a negative number."""
    done = run_program("sh", "end", ["sh", "-c", "echo out; echo err >&2; exit 3"], 60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert run_program("sh", "end", ["sh", "-c", "kill -9 $$"], 60).returncode == -signal.SIGKILL
    assert first_output_line(["printf", "one\\ntwo\\n"]) == "one"
    assert first_output_line(["true"]) == ""


def test_a_compiler_that_hangs_when_asked_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for one ends."""
    hanging_cc(tmp_path, monkeypatch, answers=False)
    monkeypatch.setattr(programs, "_LINE_SECONDS", 0.5)
    with pytest.raises(SetupBroken, match="cc -dumpmachine' did not end within"):
        find_compiler()
    with pytest.raises(SetupBroken, match="gcc -dumpmachine' did not end within"):
        kernel_build._toolchain()


def test_a_compiler_that_hangs_over_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that hangs puts nothing into the cache."""
    hanging_cc(tmp_path, monkeypatch)
    monkeypatch.setattr(agent_build, "COMPILE_SECONDS", 0.5)
    cache = Cache(tmp_path / "cache")
    build = plan_agent(cache)
    with pytest.raises(SetupBroken, match="The compiler did not finish the agent within"):
        compile_agent(build, Provisioning(cache, lambda _line: None))
    assert not build.executable.exists()


def test_a_compiler_that_hangs_over_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look for what a kernel's build lacks ends too."""
    hanging_cc(tmp_path, monkeypatch)
    monkeypatch.setattr(kernel_build, "_PREPROCESS_SECONDS", 0.5)
    with pytest.raises(SetupBroken, match=r"gcc did not include gelf\.h within"):
        kernel_build.missing_tools()
