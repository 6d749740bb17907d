"""Run one feature test in a child process with a time limit, and turn its end into a result."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.userfaultfd import UserfaultfdError
from harness.userfaultfd.libc import LIBC

from . import needs
from .golden import forget_images
from .memory import ANON
from .registry import FeatureTest
from .trial import CheckFailed, LimitReached, Skip, Trial

# linux/prctl.h
PR_SET_PDEATHSIG = 1
_DEATH_SECONDS = 5.0
_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass
class Result:
    """Outcome of one run of one test.

    Attributes:
        status: PASS, FAIL, SKIP, ERROR, TIMEOUT, or XFAIL for a known issue.
        reason: a sentence that says why it is not PASS, empty for PASS.
        checks: number of assertions that held.
        seconds: duration.
        notes: further lines for the reader of the results.
    """

    status: str
    reason: str = ""
    checks: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def run_isolated(test: FeatureTest, helper: str = "", slow: float = 1.0, *, again: bool = False) -> Result:
    """Run a test in a forked child, and kill the child's process group at the time limit.

    A child that survives SIGKILL, or that dies by SIGBUS, is a FAIL of the kernel. A child that is too slow
    or dies otherwise shows nothing about the kernel: TIMEOUT or ERROR.

    Args:
        test: what to run.
        helper: path of the library of tests_functional/kernel/trackers/segv.c, empty for none.
        slow: factor for the test's time limit.
        again: whether a run decides that follows another one; it shares nothing with other tests, not even
            the images of golden content.
    """
    reason = skip_reason(test)
    if reason:
        return Result("SKIP", reason)
    began = time.monotonic()
    source, sink = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        if again:
            forget_images()
        _run_in_child(test, helper, sink)
    os.close(sink)
    result = _wait_for_result(child, source, test.seconds * slow)
    os.close(source)
    result.seconds = round(time.monotonic() - began, 3)
    return result


def skip_reason(test: FeatureTest) -> str:
    """Return why a test does not apply to this host, empty if it does."""
    for need in test.needs:
        reason = needs.missing_need(need)
        if reason:
            return reason
    return needs.missing_features(test.features)


def _run_in_child(test: FeatureTest, helper: str, sink: int) -> None:
    """Run the test, write its result to `sink`, and exit without running any code of the parent."""
    try:
        os.setpgid(0, 0)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        result = outcome(test, helper)
        os.write(sink, encoded(result))
    finally:
        # Threads may still wait for pages; the end of the process releases them.
        os._exit(0)


def outcome(test: FeatureTest, helper: str, *, close: bool = False) -> Result:
    """Run a test in this process and return its result.

    Args:
        test: what to run.
        helper: path of the library of tests_functional/kernel/trackers/segv.c, empty for none.
        close: release what a test has made after it passes, for a process that goes on.
    """
    trial = Trial(
        test.memory or ANON,
        test.features,
        content=test.content,
        user_mode_only=not needs.may_trap_kernel(),
        helper=helper,
    )
    try:
        # Not in a `with`: leaving it would wait for the threads of a failed test.
        test.run(trial)
        if close:
            trial.close()
    except Skip as skip:
        return Result("SKIP", str(skip), trial.checks, notes=trial.notes)
    except CheckFailed as failure:
        return _failed(test, failure, trial.checks, trial.notes + _frames(failure))
    except LimitReached as limit:
        return Result("ERROR", str(limit), trial.checks, notes=trial.notes)
    except UserfaultfdError as error:
        if error.errno in _LIMITS:
            reason = f"A limit of this machine was reached: {error}."
            return Result("ERROR", reason, trial.checks, notes=trial.notes + _frames(error))
        # The features were probed and the call is as documented, so the error is the kernel's fault.
        reason = f"A call that the kernel should support failed: {error}."
        return Result("FAIL", reason, trial.checks, notes=trial.notes + _frames(error))
    except BaseException as error:
        reason = f"The test itself is broken: {type(error).__name__}: {error}."
        return Result("ERROR", reason, trial.checks, notes=trial.notes + _frames(error))
    if trial.checks == 0:
        return Result("ERROR", "The test made no assertion, so it shows nothing.", notes=trial.notes)
    return Result("PASS", "", trial.checks, notes=trial.notes)


def _failed(test: FeatureTest, failure: CheckFailed, checks: int, notes: list[str]) -> Result:
    content = test.content.name if test.content else ""
    for issue in test.known_issues:
        if issue.explains(failure.code, test.memory_name, platform.release(), content):
            return Result("XFAIL", f"{issue.what}: {failure}", checks, notes=notes)
    return Result("FAIL", str(failure), checks, notes=notes)


def _frames(error: BaseException) -> list[str]:
    """Return file, line and function of each frame that led to the error, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"at {Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[1:]]


def _wait_for_result(child: int, source: int, seconds: float) -> Result:
    data = read_reply(source, seconds)
    return killed_late(child, seconds) if data is None else ended(child, data)


def encoded(result: Result) -> bytes:
    """Return a result as a line of JSON."""
    return json.dumps(vars(result)).encode() + b"\n"


def read_reply(source: int, seconds: float) -> bytes | None:
    """Read the line that a child sends, or what there is of it at its end; return None after `seconds`.

    A process that the child has left behind may keep the pipe open.
    """
    end = time.monotonic() + seconds
    data = b""
    poll = select.poll()
    poll.register(source, select.POLLIN | select.POLLHUP)
    while True:
        left = end - time.monotonic()
        if left <= 0:
            return None
        if poll.poll(left * 1000):
            chunk = os.read(source, 1 << 16)
            data += chunk
            if not chunk or data.endswith(b"\n"):
                return data


def killed_late(child: int, seconds: float) -> Result:
    """Kill a child that was too slow and return its result: FAIL if it does not die, else TIMEOUT."""
    notes = _thread_states(child)
    dead = kill(child)
    if not dead:
        return Result("FAIL", "The test's process does not die by SIGKILL.", notes=notes)
    return Result("TIMEOUT", f"The test did not end within {seconds:.0f} s.", notes=notes)


def ended(child: int, data: bytes) -> Result:
    """Wait for a child that has no more to say, and return the result that it sent, or why there is none."""
    status = reap(child)
    if status is None:
        notes = _thread_states(child)
        kill(child)
        return Result("FAIL", "The test has ended, but the kernel does not end its process.", notes=notes)
    kill_group(child)
    return _result(data, status)


def _result(data: bytes, status: int) -> Result:
    if data:
        fields: dict[str, Any] = json.loads(data)
        return Result(**fields)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGBUS:
        return Result("FAIL", "The kernel sent SIGBUS for an access that should have waited.")
    name = signal.Signals(number).name if number else f"exit code {status >> 8}"
    return Result("ERROR", f"The test's process ended without a result: {name}.")


def _thread_states(child: int) -> list[str]:
    """Return, for each thread of the child, its state and the kernel function that it waits in."""
    lines = []
    for task in sorted(Path(f"/proc/{child}/task").glob("*")):
        try:
            where = (task / "wchan").read_text().strip()
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        lines.append(f"thread {task.name}: state {state}, waits in {where}")
    return lines


def kill_group(child: int) -> None:
    """Kill the processes that a child has started, and the child, where they still run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def kill(child: int) -> bool:
    """Kill the child's process group; return whether the child has ended."""
    kill_group(child)
    return reap(child) is not None


def reap(child: int) -> int | None:
    """Wait for the child's end and return its wait status, None if it does not end in time."""
    end = time.monotonic() + _DEATH_SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.002)
