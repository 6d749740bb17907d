"""Starts a runner of the kernel's tests, here or on another host, and yields its events while they come."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.hosts.host import Host
from tests_functional.hosts.feature_tests import run_feature_tests
from tests_functional.kernel import registry

_ROOT = Path(registry.__file__).parents[2]
_UNDO_SECONDS = 30.0


def events_there(host: Host, module: str, words: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the events of a runner on another host, while a thread waits for it to end.

    Args:
        host: to which the tests have been copied.
        module: the runner.
        words: its arguments.
        seconds: most for all of it.
    """
    told: Queue[dict[str, Any] | BaseException | None] = Queue()

    def work() -> None:
        try:
            run_feature_tests(host, Deadline(seconds), words, module=module, told=told.put)
            told.put(None)
        except BaseException as error:
            told.put(error)

    Thread(target=work, daemon=True).start()
    while (item := told.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def events_here(module: str, words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the events of a runner on this host.

    Raises:
        SetupBroken: it ended before its last event.
    """
    command = [sys.executable, "-m", module, "--json-lines", *words]
    last: dict[str, Any] = {}
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        try:
            for line in runner.stdout:
                last = json.loads(line)
                yield last
        except BaseException:
            # SIGTERM lets it undo what --prepare has set up; Popen would leave it alone soon after Ctrl-C.
            runner.terminate()
            runner.stdout.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.wait(_UNDO_SECONDS)
            raise
    if last.get("event") != "end":
        raise SetupBroken(
            f"The runner of the tests ended with exit code {runner.returncode} before the tests were "
            "done; its messages are above."
        )
