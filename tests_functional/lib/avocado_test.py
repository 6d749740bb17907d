"""The base class of all Avocado tests: reads a test's parameters, runs a scenario and stores its outcome."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from avocado import Test

from guest_images.cache import Cache
from harness.deadline import Deadline
from harness.errors import SetupBroken, SnapproofError
from harness.linux.cgroup import oom_kills
from harness.status import Status
from tests_functional.lib.host_limits import require_limits, without_limits
from tests_functional.lib.known_issues import load_known_issues, with_known_issues
from tests_functional.lib.outcome import Outcome, from_error
from tests_functional.lib.profile_row import UEFI
from tests_functional.lib.run import Run, remove_heavy
from tests_functional.lib.stack_file import load_stack

_PR_SET_PDEATHSIG = 1
# Time a test keeps for itself to end its guests and write its outcome.
_CLOSING_SECONDS = 20


class SnapshotTest(Test):  # type: ignore[misc]  # avocado has no type information
    """Base of all functional tests; a test body is one call of `self.judge(scenario)`."""

    def setUp(self) -> None:
        """Bind this process to the command that started it, and give it the user's environment again."""
        given = os.environ.pop("SNAPPROOF_VIRTUAL_ENV", None)
        if given:
            os.environ["VIRTUAL_ENV"] = given
        elif given is not None:
            os.environ.pop("VIRTUAL_ENV", None)
        _die_with(int(self._parameter("parent_pid", os.getppid())))

    def judge(self, scenario: Callable[[Run], Outcome]) -> None:
        """Run a scenario and report its outcome to Avocado and to our own results."""
        run = self._make_run()
        started = time.monotonic()
        killed = oom_kills()
        try:
            run.begun()
            require_limits(run.stack.total_mib)
            outcome = scenario(run)
        except SnapproofError as error:
            outcome = from_error(run.name, error, time.monotonic() - started, run.environment())
        except KeyboardInterrupt:
            remove_heavy(run.folder)
            raise
        except (OSError, MemoryError) as error:
            broken = SetupBroken(f"The test could not go on: {error or 'out of memory'}.")
            outcome = from_error(run.name, broken, time.monotonic() - started, run.environment())
        outcome = without_limits(outcome, oom_kills() - killed)
        outcome = with_known_issues(self._without_full_disk(run, outcome), load_known_issues())
        if outcome.status is Status.PASS:
            run.discard(run.folder)
        outcome.save(run.folder)
        run.ended(outcome)
        self._tell_avocado(outcome)

    def option(self, name: str) -> str:
        """Return a parameter of the test's row in the profile, as text."""
        return str(self._parameter(name))

    def newer_qemus(self) -> dict[str, Path]:
        """Return the run's QEMUs that are newer than this test's, by their label in the run.

        Only those that emulate the processor of the test's guest.
        """
        found = json.loads(str(self._parameter("newer", "{}")))
        stack, _ = load_stack(Path(self._parameter("results")), self._parameter("guest", ""))
        program = stack.image.architecture.qemu
        return {label: Path(programs[program]) for label, programs in found.items() if program in programs}

    def _without_full_disk(self, run: Run, outcome: Outcome) -> Outcome:
        """Return the outcome, or an ERROR if the test failed on a full disk, which is not QEMU's fault."""
        if outcome.status not in (Status.FAIL, Status.ERROR) or not run.disk_full():
            return outcome
        remove_heavy(run.folder)
        sentence = (
            f"The disk that holds '{run.folder}' is full, so this test says nothing about the snapshot; "
            f"name a folder on another disk with --results. (It ended with: {outcome.sentence})"
        )
        return replace(outcome, status=Status.ERROR, sentence=sentence)

    def _tell_avocado(self, outcome: Outcome) -> None:
        if outcome.status is Status.FAIL:
            self.fail(outcome.sentence)
        elif outcome.status in (Status.ERROR, Status.MISS):
            self.error(outcome.sentence)
        elif outcome.status is Status.SKIP:
            self.cancel(outcome.sentence)

    def _make_run(self) -> Run:
        guest = self._parameter("guest", "")
        uefi = self._parameter("firmware", "") == UEFI
        stack, environment = load_stack(Path(self._parameter("results")), guest, uefi)
        folder = Path(self._parameter("folder"))
        stack = replace(
            stack,
            ram_mib=int(self._parameter("ram_mib", stack.ram_mib)),
            vcpus=int(self._parameter("vcpus", stack.vcpus)),
            coverage=float(self._parameter("coverage", stack.coverage)),
            accel=str(self._parameter("accel", stack.accel)),
            machine=str(self._parameter("machine", stack.machine)),
            cpu=str(self._parameter("cpu", stack.cpu)),
            host_key_file=folder / "ssh_host_key",
        )
        folder.mkdir(parents=True, exist_ok=True)
        return Run(
            name=self._parameter("name"),
            stack=stack,
            host_environment=environment,
            folder=folder,
            events=Path(self._parameter("events")),
            cache=Cache(Path(self._parameter("cache"))),
            mirror=self._parameter("mirror") or None,
            pattern=self._parameter("pattern", "random"),
            seed=int(self._parameter("seed")),
            repeat=int(self._parameter("repeat")),
            keep=bool(self._parameter("keep")),
            deadline=Deadline(int(self._parameter("seconds")) - _CLOSING_SECONDS),
        )

    def _parameter(self, name: str, default: Any = None) -> Any:
        value = self.params.get(name, default=default)
        if value is None:
            raise SetupBroken(f"The test got no parameter '{name}'; run it through 'snapproof run'.")
        return value


def _die_with(command_pid: int) -> None:
    """Make this process end when the command that started it does, even by SIGKILL.

    Our QEMUs die with us in turn, so an interrupted run leaves nothing behind.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    runner = os.getppid()
    started_by = multiprocessing.parent_process()
    if started_by and started_by.pid != runner:
        # It had ended before the kernel was asked to tell.
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        command = os.pidfd_open(command_pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
        return

    def watch() -> None:
        select.select([command], [], [])
        if runner not in (1, command_pid):
            # Avocado's runner waits for ever for a test that was killed, so the runner is killed first.
            os.kill(runner, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="command-watch", daemon=True).start()
