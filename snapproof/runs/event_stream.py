"""Writes the events of a run for `snapproof run --events`: one JSON object per line, as they happen.

Each object has ``schema``, ``type`` and ``time`` (seconds since 1970, UTC). The types and their fields:

* ``run-started``: ``tests`` (their names), ``command``, ``results`` (the folder).
* ``test-started``: ``test``.
* ``step``: ``text``, and ``test``, which is null while the run is being set up.
* ``test-ended``: ``test``, ``status``, ``sentence``, ``seconds``. Each test ends exactly once; a test
  that was skipped, killed or never begun may end without a start.
* ``run-ended``, always the last: ``status``, ``exit_code``, ``counts``, and ``sentence``, which is the error
  that ended the run, "" if there was none.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from harness.errors import SnapproofError, UsageError
from harness.status import EXIT_ERROR, Status
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.runs.outputs import open_in_place

EVENTS_SCHEMA = 1
STANDARD_OUTPUT = "-"


def append_end(path: Path, result: RunResult, sentence: str) -> None:
    """Append a `run-ended` to a file of events that a command without `--events` keeps.

    Args:
        path: the file.
        result: what the command has found.
        sentence: why it ended too early, "" if it did not.

    Raises:
        OSError: the disk is full.
    """
    status = result.status.value if result.status else "NONE"
    event = {
        "schema": EVENTS_SCHEMA, "type": "run-ended", "time": round(time.time(), 3), "status": status,
        "exit_code": result.exit_code, "counts": result.counts(), "sentence": sentence,
    }  # fmt: skip
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


class EventStream:
    """The event stream of one run, open for the length of a `with`; without a target it writes nothing."""

    def __init__(self, target: str | None, log: Callable[[str], None]) -> None:
        """Open the target.

        Args:
            target: a file, a named pipe, "-" for standard output, None for nothing.
            log: called with a sentence if the reader of the stream ends.

        Raises:
            UsageError: the file cannot be opened.
        """
        self._log = log
        self._lock = threading.Lock()
        self._tests: tuple[str, ...] = ()
        self._ended: dict[str, str] = {}
        self._over = False
        # With events on standard output, text for people goes to standard error.
        self.printing: AbstractContextManager[object] = nullcontext()
        self._stream = self._opened(target)

    def _opened(self, target: str | None) -> TextIO | None:
        if target is None:
            return None
        if target == STANDARD_OUTPUT:
            self.printing = redirect_stdout(sys.stderr)
            return sys.stdout
        try:
            return open_in_place(Path(target))
        except OSError as error:
            raise UsageError(f"The events cannot be written to '{target}': {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            sentence = error.sentence if isinstance(error, SnapproofError) else "The run ended too early."
            self.settle([OutcomeRecord(name, Status.ERROR, sentence) for name in self._tests])
            counts = Counter(self._ended.values())
            self._end("ERROR", EXIT_ERROR, counts, sentence)
        if self._stream not in (None, sys.stdout):
            self._stream.close()

    def started(self, tests: Sequence[str], command: Sequence[str], folder: Path) -> None:
        """Write that the run has been set up and its tests begin."""
        self._tests = tuple(tests)
        self._tell("run-started", tests=list(tests), command=list(command), results=str(folder))

    def step(self, text: str) -> None:
        """Write that a step of the set-up began."""
        self._tell("step", test=None, text=text)

    def test(self, event: Mapping[str, Any], label: str) -> None:
        """Write an event that a test has appended to its events file.

        Args:
            event: the event as `Run` writes it.
            label: label of the test's leg, "" if the run has only one leg.
        """
        name = f"{label}/{event['test']}" if label else event["test"]
        if event["type"] == "test-ended":
            self._ended[name] = event["status"]
        content = {key: value for key, value in event.items() if key not in ("type", "time")}
        self._tell(event["type"], at=event["time"], **{**content, "test": name})

    def settle(self, outcomes: Sequence[OutcomeRecord]) -> None:
        """Write a `test-ended` for each test that has not written one itself."""
        for outcome in outcomes:
            if outcome.name not in self._ended:
                self._ended[outcome.name] = outcome.status.value
                self._tell(
                    "test-ended",
                    test=outcome.name,
                    status=outcome.status.value,
                    sentence=outcome.sentence,
                    seconds=round(outcome.seconds, 3),
                )

    def over(self, result: RunResult) -> None:
        """Write that the run has ended."""
        status = result.status.value if result.status else "NONE"
        self._end(status, result.exit_code, result.counts(), "")

    def _end(self, status: str, exit_code: int, counts: Mapping[str, int], sentence: str) -> None:
        self._over = True
        self._tell("run-ended", status=status, exit_code=exit_code, counts=dict(counts), sentence=sentence)

    def _tell(self, kind: str, at: float | None = None, **content: Any) -> None:
        """Write one line; this is called by the main thread and by the one that follows the tests."""
        head = {"schema": EVENTS_SCHEMA, "type": kind, "time": round(time.time(), 3) if at is None else at}
        with self._lock:
            if self._stream is None:
                return
            try:
                # ASCII, so that no byte of a path or a message can break a reader.
                self._stream.write(json.dumps({**head, **content}) + "\n")
                self._stream.flush()
            except OSError as error:
                # The run must go on if the reader of its events ends.
                self._stream = None
                self._log(f"The events cannot be written ({error.strerror}); the run goes on without them.")
