"""Runs one test in a process of its own, with its own time limit, and says what became of it."""

from __future__ import annotations

import contextlib
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
from .memory import ANON
from .registry import FeatureTest
from .trial import CheckFailed, Skip, Trial

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_DEATH_SECONDS = 5.0


@dataclass
class Result:
    """Outcome of one run of one test.

    Attributes:
        status: PASS, FAIL, SKIP, ERROR, TIMEOUT, or XFAIL for a known issue.
        reason: why it is not PASS, empty if it is.
        checks: assertions that held.
        seconds: how long it took.
        notes: further lines for a reader.
    """

    status: str
    reason: str = ""
    checks: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def run_isolated(test: FeatureTest, helper: str = "", slow: float = 1.0) -> Result:
    """Fork, run the test in the child, and kill the child's process group at the time limit.

    A child that does not die by SIGKILL, or dies by SIGBUS, is the kernel's fault; one that is only too slow,
    or dies otherwise, says nothing about the kernel.
    """
    reason = why_not(test)
    if reason:
        return Result("SKIP", reason)
    began = time.monotonic()
    source, sink = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(test, helper, sink)
    os.close(sink)
    result = _await(child, source, test.seconds * slow)
    os.close(source)
    result.seconds = round(time.monotonic() - began, 3)
    return result


def why_not(test: FeatureTest) -> str:
    """Why a test does not apply to this host, empty if it does."""
    for need in test.needs:
        reason = needs.missing_need(need)
        if reason:
            return reason
    return needs.missing_features(test.features)


def _child(test: FeatureTest, helper: str, sink: int) -> None:
    """Never returns: nothing of the parent may run twice."""
    try:
        os.setpgid(0, 0)
        LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        result = _outcome(test, helper)
        os.write(sink, json.dumps(vars(result)).encode())
    finally:
        # Threads may still wait for faults; the end of the process releases them.
        os._exit(0)


def _outcome(test: FeatureTest, helper: str) -> Result:
    trial = Trial(
        test.memory or ANON, test.features, user_mode_only=not needs.may_trap_kernel(), helper=helper
    )
    try:
        # No `with`: closing waits for threads that a failed test leaves behind.
        test.run(trial)
    except Skip as skip:
        return Result("SKIP", str(skip), trial.checks, notes=trial.notes)
    except CheckFailed as failure:
        return _failed(test, str(failure), trial.checks, trial.notes + _where(failure))
    except UserfaultfdError as error:
        # Its features were probed and its use is as documented, so a refusal is the kernel's.
        reason = f"The kernel refuses what it offers: {error}."
        return Result("FAIL", reason, trial.checks, notes=trial.notes + _where(error))
    except BaseException as error:
        reason = f"The test itself broke: {type(error).__name__}: {error}."
        return Result("ERROR", reason, trial.checks, notes=trial.notes + _where(error))
    if trial.checks == 0:
        return Result("ERROR", "The test asserted nothing, so it shows nothing.", notes=trial.notes)
    return Result("PASS", "", trial.checks, notes=trial.notes)


def _failed(test: FeatureTest, reason: str, checks: int, notes: list[str]) -> Result:
    for issue in test.known_issues:
        if issue.explains(reason, test.memory_name, platform.release()):
            return Result("XFAIL", f"{issue.what}: {reason}", checks, notes=notes)
    return Result("FAIL", reason, checks, notes=notes)


def _where(error: BaseException) -> list[str]:
    """Files, lines and functions of ours on the way to the error, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"at {Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[1:]]


def _await(child: int, source: int, seconds: float) -> Result:
    end = time.monotonic() + seconds
    data = b""
    poll = select.poll()
    poll.register(source, select.POLLIN | select.POLLHUP)
    while True:
        left = end - time.monotonic()
        if left <= 0:
            notes = _threads(child)
            dead = _kill(child)
            if not dead:
                return Result("FAIL", "The kernel does not let the test's process die.", notes=notes)
            return Result("TIMEOUT", f"It was not done after {seconds:.0f} s.", notes=notes)
        if poll.poll(left * 1000):
            chunk = os.read(source, 1 << 16)
            if not chunk:
                break
            data += chunk
    status = _reap(child)
    if status is None:
        notes = _threads(child)
        _kill(child)
        return Result("FAIL", "The test ended and the kernel does not let its process go.", notes=notes)
    _kill_group(child)
    return _result(data, status)


def _result(data: bytes, status: int) -> Result:
    if data:
        fields: dict[str, Any] = json.loads(data)
        return Result(**fields)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGBUS:
        return Result("FAIL", "The kernel ended an access by SIGBUS that should have waited.")
    name = signal.Signals(number).name if number else f"exit code {status >> 8}"
    return Result("ERROR", f"The test's process ended without a result: {name}.")


def _threads(child: int) -> list[str]:
    """Where in the kernel each thread of the child waits, for whoever reads of a time-out."""
    lines = []
    for task in sorted(Path(f"/proc/{child}/task").glob("*")):
        try:
            where = (task / "wchan").read_text().strip()
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        lines.append(f"thread {task.name}: state {state}, waits in {where}")
    return lines


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _kill(child: int) -> bool:
    """Whether the child has died by it."""
    _kill_group(child)
    return _reap(child) is not None


def _reap(child: int) -> int | None:
    """The child's status, None if it does not end in time."""
    end = time.monotonic() + _DEATH_SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.002)
