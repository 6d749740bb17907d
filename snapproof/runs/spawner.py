"""Starts Avocado's runner of each test in a session of its own, and ends and reports for it where it cannot.

Avocado waits for ever for the result of a task whose process has ended without one, and spins for ever when
it is interrupted in that time (113.0, core/task/statemachine.py: `Worker.monitor`, `_terminate_tasks`). So
each task here gets a result, and an interrupted run ends by its tasks ending, not by an exception in the
event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from avocado.core.nrunner.runnable import RUNNERS_REGISTRY_STANDALONE_EXECUTABLE
from avocado.core.utils import messages
from avocado.plugins import runner_nrunner
from avocado.plugins.spawners.process import ProcessSpawner, ProcessSpawnerHandle

from harness.linux.processes import children
from snapproof.runs.forked_runner import RunnerServer, runner_server
from snapproof.runs.interruption import asked_to_stop
from snapproof.runs.runner_server import RUNNER_KIND, RUNNER_PROGRAM

SPAWNER = "snapproof"
"""Its name in Avocado's setting `run.spawner`."""

_POLL_SECONDS = 0.1
# A test that has ended is a zombie until its runner has passed on what it logged, a hundred lines a second.
_ZOMBIE_SECONDS = 20.0


class SessionSpawner(ProcessSpawner):  # type: ignore[misc]  # Avocado has no types.
    """Starts and ends the runners of one job.

    In sessions of their own, tests do not get the Ctrl-C of our terminal: they are ended by us alone, once.

    Attributes:
        killed: how a test's process ended that nobody here asked to end, by the name of its row.
    """

    def __init__(
        self, config: dict[str, Any], job: Any, server: RunnerServer, killed: dict[str, str]
    ) -> None:
        super().__init__(config=config, job=job)
        self._server = server
        self.killed = killed

    async def spawn_task(self, runtime_task: Any) -> bool:
        """Start the runner of a task, and return whether it could be started; none once we are to stop."""
        if asked_to_stop():
            return False
        self.create_task_output_dir(runtime_task)
        starting = asyncio.create_task(self._server.start(runtime_task.task.get_command_args()))
        while not await _is_done(starting):
            if asked_to_stop():
                starting.cancel()
                return False
        try:
            runtime_task.spawner_handle = ProcessSpawnerHandle(starting.result())
        except OSError:
            return False
        return True

    async def wait_task(self, runtime_task: Any) -> None:
        """Wait until the runner of a task has ended; end it if we are to stop, or if its test was killed."""
        process = runtime_task.spawner_handle.process
        test = _Test(process.pid)
        while not await _is_done(runtime_task.spawner_handle.wait_task):
            if asked_to_stop():
                await self.terminate_task(runtime_task)
            elif test.was_killed():
                self._note(runtime_task, "its process")
                process.kill()
        if process.returncode != 0:
            if process.returncode < 0 and not asked_to_stop():
                self._note(runtime_task, "the process that runs it")
            await self._report(runtime_task)

    def _note(self, runtime_task: Any, what: str) -> None:
        name = _parameters(runtime_task).get("name", "")
        self.killed.setdefault(name, f"{what} was killed, as the kernel does when memory runs out")

    async def _report(self, runtime_task: Any) -> None:
        """Send the result that a runner owes; ours is what the test has left in its folder."""
        task = runtime_task.task
        message = messages.FinishedMessage.get(
            "error", "The test did not report.", id=str(task.identifier), job_id=task.job_id
        )
        for service in task.status_services:
            await asyncio.to_thread(service.post, message)


@contextmanager
def own_spawner(modules: Sequence[str]) -> Iterator[dict[str, str]]:
    """Let Avocado's jobs in this block use `SessionSpawner`, and yield its `killed`.

    Args:
        modules: what the tests import, named as for `import`.

    Avocado finds spawners by entry points alone, through pkg_resources, which then refuses to load ours: it
    does not find our requirement `qemu.qmp`, for the dot in its name (setuptools 80, `WorkingSet.resolve`).
    """
    killed: dict[str, str] = {}

    def spawners(config: dict[str, Any], job: Any) -> dict[str, SimpleNamespace]:
        """Stand in for Avocado's dispatcher: a plug-in by its name in `run.spawner`."""
        return {SPAWNER: SimpleNamespace(obj=SessionSpawner(config, job, server, killed))}

    # Avocado would start the program to ask what it can run; ours is forked, and can run the tests.
    RUNNERS_REGISTRY_STANDALONE_EXECUTABLE[RUNNER_KIND] = [RUNNER_PROGRAM]
    original = runner_nrunner.SpawnerDispatcher
    runner_nrunner.SpawnerDispatcher = spawners
    try:
        with runner_server(modules) as server:
            yield killed
    finally:
        runner_nrunner.SpawnerDispatcher = original


async def _is_done(task: asyncio.Task[Any]) -> bool:
    """Wait for a task, for a moment, and return whether it is done."""
    done, _ = await asyncio.wait({task}, timeout=_POLL_SECONDS)
    return bool(done)


def _parameters(runtime_task: Any) -> dict[str, str]:
    """Return a test's parameters by name; Avocado keeps them as nodes, of triples (path, name, value)."""
    nodes = runtime_task.task.runnable.variant["variant"]
    return {name: value for _, values in nodes for _, name, value in values}


class _Test:
    """The process of a test, child of a runner that waits for ever for it if it is killed."""

    def __init__(self, runner: int) -> None:
        self._runner = runner
        self._since: float | None = None

    def was_killed(self) -> bool:
        """Return whether the runner's only children have been zombies for some time."""
        if not _has_only_zombies(self._runner):
            self._since = None
            return False
        now = time.monotonic()
        self._since = self._since or now
        return now - self._since > _ZOMBIE_SECONDS


def _has_only_zombies(parent: int) -> bool:
    """Return whether a process has children, all of which have ended.

    Source: the third field of `stat`, in Linux Documentation/filesystems/proc.rst.
    """
    try:
        states = [
            Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()[0]
            for child in children(parent)
        ]
    except OSError:
        return False
    return bool(states) and all(state == b"Z" for state in states)
