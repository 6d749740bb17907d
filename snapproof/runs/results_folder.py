"""Makes the results folder of a run, and writes results.json, the reports and the reproducers into it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken, UsageError
from snapproof.report.context import Context
from snapproof.report.formats import FORMATS, Format, deliver, delivered_anyway
from snapproof.report.run_result import RESULTS_FILE, RunResult
from snapproof.runs.events import EVENTS_FILE
from tests_functional.lib.outcome import write_atomically
from tests_functional.lib.result_files import STACK_FILE

BENCH_FILE, AB_FILE = "bench.json", "ab.json"
"""The files that `bench downtime` and `bench ab` write to their results folder."""

# An interrupted run leaves no results.json, but outcomes, which the next run would take for its own.
_HELD = (RESULTS_FILE, "tests", BENCH_FILE, AB_FILE)
_MOST_AT_ONCE = 1000
# What else a command writes there; a file of the user's by that name is not overwritten.
_WRITTEN = ("avocado", STACK_FILE, EVENTS_FILE, *(entry.file for entry in FORMATS.values()))


def now() -> str:
    """Return the time as results have it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def own_results_folder(given: Path | None, prefix: str = "") -> Path:
    """Make the folder for a command's results.

    Args:
        given: `--results`; None for `results/PREFIX` with the time at its end.
        prefix: what the name begins with then.

    Raises:
        UsageError: the folder cannot be made or written, or already holds a run.
    """
    return make_results_folder(given or _new_folder(f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"))


def _new_folder(name: str) -> Path:
    """Make `results/NAME`, or `results/NAME-2` and so on where other commands of the same second have them.

    The command that makes a folder has it; two that looked for a free name first could take the same one. If
    none can be made, a path is returned all the same, and `make_results_folder` says why.
    """
    path = Path("results", name)
    for number in range(2, _MOST_AT_ONCE):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path = path.with_name(f"{name}-{number}")
        except OSError:
            break
        else:
            break
    return path


def make_results_folder(path: Path) -> Path:
    """Make the folder for a run's results.

    Raises:
        UsageError: the folder cannot be made or written, or already holds a run.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{secrets.token_hex(8)}.writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"The results folder '{path}' cannot be written: {error.strerror}.") from error
    if any((path / name).exists() for name in _HELD):
        raise UsageError(f"'{path}' already holds the results of a run; name another folder with --results.")
    found = next((name for name in _WRITTEN if os.path.lexists(path / name)), None)
    if found is not None:
        raise UsageError(
            f"'{path}' holds '{found}', which would be overwritten; name another folder with --results."
        )
    return path.absolute()


def remove_empty(folder: Path) -> None:
    """Remove a results folder in which nothing has begun, with its empty folders."""
    with contextlib.suppress(OSError):
        for place in folder.iterdir():
            place.rmdir()
        folder.rmdir()


def write_results(folder: Path, result: RunResult, more: Sequence[Format] = ()) -> None:
    """Write results.json and the reports beside it, each whole or not at all.

    Args:
        folder: the results folder.
        result: the results of the run.
        more: formats beside those that every results folder has. A report that a CI system reads from the
            command's output, or from a file that a variable names, is written there too.

    Raises:
        SetupBroken: the disk is full or the folder is gone.
        MachineryMissing: this installation lacks one of the formats; all others are written.
    """
    context, content = Context(folder, folder), result.to_json()
    always = [entry for entry in FORMATS.values() if entry.always]
    try:
        for entry in always:
            write_atomically(folder / entry.file, entry.render(result, context))
        # After the formats that every folder has, so that a folder with results.json has them all.
        write_atomically(folder / RESULTS_FILE, json.dumps(content, indent=1) + "\n")
        write_report(folder, content)
        for entry in more:
            text = entry.render(result, context)
            write_atomically(folder / entry.file, text)
            if delivered_anyway(entry):
                deliver(entry, text)
    except OSError as error:
        raise SetupBroken(f"The results could not be written to '{folder}': {error.strerror}.") from error


def write_report(folder: Path, content: Mapping[str, Any]) -> None:
    """Write report.html from the content of results.json.

    A page that cannot be made says nothing about the snapshots: the verdict and its exit code stay as they
    are. The page itself and a line on standard error say that it is missing, and why.

    Raises:
        OSError: the disk is full or the folder is gone.
    """
    # This import takes half a second, and only the end of a run needs it.
    from snapproof.report.html import REPORT_FILE, report_html, sorry_html

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
        raise SetupBroken(f"The reproducer '{script}' could not be written: {error.strerror}.") from error
