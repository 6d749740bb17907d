"""`snapproof run --events`: what happens in a run, as it happens, one JSON object per line.

Each object has ``schema``, ``type`` and ``time`` (seconds since 1970, UTC). The types and what they carry:

* ``run-started``: ``tests`` (their names), ``command``, ``results`` (the folder).
* ``test-started``: ``test``.
* ``step``: ``text``, and ``test``, which is null while the run is being set up.
* ``test-ended``: ``test``, ``status``, ``sentence``, ``seconds``. Each test ends exactly once; one that does
  not apply, was killed or was never begun ends without having started.
* ``run-ended``, always the last: ``status``, ``exit_code``, ``counts``, and ``sentence``, which is "" where
  the run has not broken.
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
from snapproof.report.result import OutcomeRecord, RunResult
from snapproof.runs.outputs import open_in_place

EVENTS_SCHEMA = 1
STANDARD_OUTPUT = "-"


class EventStream:
    """The stream of one run, for the length of a `with`; without a target, all of it does nothing."""

    def __init__(self, target: str | None, log: Callable[[str], None]) -> None:
        """Make it.

        Args:
            target: a file, a named pipe, "-" for standard output, None for nothing.
            log: told when nobody reads any more.

        Raises:
            UsageError: the file cannot be opened.
        """
        self._log = log
        self._lock = threading.Lock()
        self._tests: tuple[str, ...] = ()
        self._ended: dict[str, str] = {}
        self._over = False
        # Standard output is for programs then, and what is printed for people goes to the other one.
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
            sentence = error.sentence if isinstance(error, SnapproofError) else "The run was broken off."
            self.settle([OutcomeRecord(name, Status.ERROR, sentence) for name in self._tests])
            counts = Counter(self._ended.values())
            self._end("ERROR", EXIT_ERROR, counts, sentence)
        if self._stream not in (None, sys.stdout):
            self._stream.close()

    def started(self, tests: Sequence[str], command: Sequence[str], folder: Path) -> None:
        """All is set up."""
        self._tests = tuple(tests)
        self._tell("run-started", tests=list(tests), command=list(command), results=str(folder))

    def step(self, text: str) -> None:
        """Something of the set-up began."""
        self._tell("step", test=None, text=text)

    def test(self, event: Mapping[str, Any], label: str) -> None:
        """Hand on an event that a test has told.

        Args:
            event: as `Run` writes it.
            label: of its leg, "" where the run has one only.
        """
        name = f"{label}/{event['test']}" if label else event["test"]
        if event["type"] == "test-ended":
            self._ended[name] = event["status"]
        content = {key: value for key, value in event.items() if key not in ("type", "time")}
        self._tell(event["type"], at=event["time"], **{**content, "test": name})

    def settle(self, outcomes: Sequence[OutcomeRecord]) -> None:
        """Tell the end of those tests that could not tell it themselves."""
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
        """The run has ended."""
        status = result.status.value if result.status else "NONE"
        self._end(status, result.exit_code, result.counts(), "")

    def _end(self, status: str, exit_code: int, counts: Mapping[str, int], sentence: str) -> None:
        self._over = True
        self._tell("run-ended", status=status, exit_code=exit_code, counts=dict(counts), sentence=sentence)

    def _tell(self, kind: str, at: float | None = None, **content: Any) -> None:
        """Write one line; the thread that follows the tests tells too."""
        head = {"schema": EVENTS_SCHEMA, "type": kind, "time": round(time.time(), 3) if at is None else at}
        with self._lock:
            if self._stream is None:
                return
            try:
                # ASCII, so that no byte of a path or a message can break a reader.
                self._stream.write(json.dumps({**head, **content}) + "\n")
                self._stream.flush()
            except OSError as error:
                # A dashboard that has gone away is no reason to end a night's run.
                self._stream = None
                self._log(f"Nobody reads the events any more ({error.strerror}); the run goes on without.")
