"""Run requests in copies of the tree, one process of trial.py for each copy."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from tests_unit.mutants.copied import copy_tree, environment
from tests_unit.mutants.trial import Answer, Request

# Loaded before the fork, so that not every mutant waits for them.
_WARM = (
    "asyncio",
    "jinja2",
    "numpy",
    "paramiko",
    "qemu.qmp",
    "unittest.mock",
    "hypothesis.strategies",
)
_Job = TypeVar("_Job")


class Worker:
    """One copy of the tree and its process."""

    def __init__(self, tree: Path, process: subprocess.Popen[str]) -> None:
        self.tree = tree
        self._process = process

    def run(self, request: Request) -> Answer:
        """Run a request.

        Raises:
            RuntimeError: the process has ended; its message is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request.__dict__) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"The process that tries mutants in {self.tree} has ended; see its message above."
            )
        return Answer(**json.loads(line))


@contextmanager
def worker(root: Path) -> Iterator[Worker]:
    """Copy the tree at `root` and start a process in the copy; end it and remove the copy afterwards."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree, scratch = Path(folder) / "tree", Path(folder) / "scratch"
        scratch.mkdir()
        copy_tree(root, tree)
        command = [sys.executable, "-m", "tests_unit.mutants.trial", str(scratch), *_WARM]
        with subprocess.Popen(
            command,
            cwd=tree,
            env=environment(tree),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield Worker(tree, process)


def in_parallel(root: Path, count: int, jobs: Iterable[_Job], run: Callable[[Worker, _Job], None]) -> None:
    """Call `run` for each job, with one of `count` workers.

    Raises:
        Exception: the first that `run` raised; jobs not begun by then are left out.
    """
    waiting, lock = iter(jobs), threading.Lock()
    raised: list[Exception] = []

    def take(one: Worker) -> None:
        while not raised:
            with lock:
                job = next(waiting, None)
            if job is None:
                return
            try:
                run(one, job)
            except Exception as error:
                raised.append(error)

    with ExitStack() as stack:
        workers = [stack.enter_context(worker(root)) for _ in range(count)]
        threads = [threading.Thread(target=take, args=(one,)) for one in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if raised:
        raise raised[0]
