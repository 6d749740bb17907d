"""The results folder: results.json with its schema version, JUnit and KTAP beside it."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ci.junit import junit_xml
from ci.ktap import ktap_text
from harness.errors import SetupBroken, UsageError
from harness.status import Status, exit_code, worst
from tests_functional.scenarios.outcome import Outcome, write_atomically

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunResult:
    """Everything a run found.

    Attributes:
        outcomes: one per test, in the order of the profile.
        started: UTC time of the start, ISO 8601.
        seconds: wall time of the whole run.
        command: the command line that does it again.
        environment: what all tests share.
    """

    outcomes: Sequence[Outcome]
    started: str
    seconds: float
    command: Sequence[str]
    environment: Mapping[str, Any]

    @property
    def status(self) -> Status | None:
        """The worst status, None where nothing ran."""
        return worst(outcome.status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """See harness.status.exit_code."""
        return exit_code(outcome.status for outcome in self.outcomes)

    def counts(self) -> dict[str, int]:
        """How many tests have each status, in the order of severity."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status.value: found[status] for status in Status if found[status]}

    def to_json(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "schema": SCHEMA_VERSION,
            "status": self.status.value if self.status else "NONE",
            "exit_code": self.exit_code,
            "counts": self.counts(),
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "command": list(self.command),
            "environment": dict(self.environment),
            "tests": [outcome.to_json() for outcome in self.outcomes],
        }


def now() -> str:
    """The time as results carry it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_results_folder(path: Path) -> Path:
    """Make the folder for a run's results.

    Raises:
        UsageError: it cannot be made or written, or it already holds a run.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"The results folder '{path}' cannot be written: {error.strerror}.") from error
    # An interrupted run leaves no results.json, but outcomes that would pass for those of this run.
    if any((path / name).exists() for name in ("results.json", "tests")):
        raise UsageError(f"'{path}' already holds the results of a run; name another folder with --results.")
    return path.absolute()


def write_results(folder: Path, result: RunResult) -> None:
    """Write results.json, junit.xml, results.ktap and then report.html, each whole or not at all.

    Raises:
        SetupBroken: the disk is full or the folder is gone.
    """
    content = result.to_json()
    try:
        write_atomically(folder / "junit.xml", junit_xml(result.outcomes, result.started))
        write_atomically(folder / "results.ktap", ktap_text(result.outcomes))
        write_atomically(folder / "results.json", json.dumps(content, indent=1) + "\n")
        write_report(folder, content)
    except OSError as error:
        raise SetupBroken(f"The results could not be written to '{folder}': {error.strerror}.") from error


def write_report(folder: Path, content: Mapping[str, Any]) -> None:
    """Write report.html from the content of results.json.

    A page that cannot be made says nothing about the snapshots: the verdict and its exit code stay as they
    are. The page itself and a line on standard error say that it is missing, and why.

    Raises:
        OSError: the disk is full or the folder is gone.
    """
    # Half a second, which only the end of a run has a use for.
    from ci.reports.html import REPORT_FILE, report_html, sorry_html

    try:
        page = report_html(content, folder)
    except Exception as error:
        why = (
            f"report.html could not be made, which is snapproof's own fault: {type(error).__name__}: {error}"
        )
        print(f"snapproof: {' '.join(why.split())}. All results are in results.json.", file=sys.stderr)
        page = sorry_html(content, traceback.format_exc())
    write_atomically(folder / REPORT_FILE, page)


def write_reproducer(folder: Path, command: Sequence[str], sentence: str) -> None:
    """Write reproduce.sh: the one command that runs a test again with the same seed.

    Raises:
        SetupBroken: the disk is full or the folder is gone.
    """
    script = folder / "reproduce.sh"
    # A second line of the sentence would be a command. Paths may hold bytes that are not UTF-8.
    comment = " ".join(sentence.split())
    text = f"#!/bin/sh\n# {comment}\nexec {shlex.join(command)}\n"
    try:
        script.write_text(text, encoding="utf-8", errors="surrogateescape")
        script.chmod(0o755)
    except OSError as error:
        raise SetupBroken(f"'{script}' could not be written: {error.strerror}.") from error
