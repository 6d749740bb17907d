"""Judges or describes every vmstate file below a folder, one line for each, as of a results folder."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MachineryMissing, SetupBroken, SnapproofError, UsageError
from harness.plural import counted
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS, Status, exit_code
from snapproof.cli.info import content_of
from snapproof.cli.streams import shown
from snapproof.runs.outputs import write_json_file
from validators.judge import check_file
from validators.verdict import CheckResult, Verdict
from validators.vmstate.containers.opening import holds_stream, open_stream
from validators.vmstate.stream.reader import read_index

_GOLDEN = "golden"
_OF_GOLDEN = "vmstate"
_GOLDEN_INDEX = "golden.json"
_FORMAT_VERSION = 1
# What keeps a file from being read, such as a disk that is full, a library that is missing, or its removal.
_OF_ONE_FILE = (UsageError, SetupBroken, MachineryMissing, OSError)


@dataclass(frozen=True)
class FoundFiles:
    """The files below a folder.

    Attributes:
        streams: those that begin as a vmstate stream, or cannot be read, in order of their paths.
        others: how many do not.
    """

    streams: tuple[Path, ...]
    others: int


def find_streams(folder: Path) -> FoundFiles:
    """Return the vmstate files below a folder; links are not followed.

    Raises:
        UsageError: there is none, or a folder cannot be read.
    """
    streams: list[Path] = []
    others = 0
    for path in _regular_files(folder):
        try:
            stream = holds_stream(path)
        except UsageError:
            # It cannot be told; it is reported in its turn, beside the files that can be read.
            stream = True
        if stream:
            streams.append(path)
        else:
            others += 1
    if not streams:
        raise UsageError(
            f"None of the {counted(others, 'file')} below '{folder}' begins as a vmstate stream; name a "
            "folder with files that 'migrate' wrote, such as the results of 'snapproof run --keep'."
        )
    return FoundFiles(tuple(sorted(streams)), others)


def check_folder(arguments: argparse.Namespace) -> int:
    """Judge each vmstate file below the folder, print a line for each, and return the worst exit code.

    Raises:
        UsageError: an option is given that is for one file, or as `find_streams`.
    """
    require_no_options(arguments, ("golden", "extract", "elf", "map", "offset", "snapshot"))
    folder: Path = arguments.file
    found = find_streams(folder)
    entries = []
    for path in found.streams:
        entry = _judged(path, path.relative_to(folder), arguments.agent_ran)
        entries.append(entry)
        _print(entry)
    counts = Counter(str(entry["status"]) for entry in entries)
    statuses = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{counted(len(entries), 'vmstate file')}: {statuses}; {counted(found.others, 'other file')}.")
    if arguments.json:
        content = {"version": _FORMAT_VERSION, "others": found.others, "files": entries}
        write_json_file(arguments.json, json.dumps(content, indent=1))
    return exit_code(Status(entry["status"]) for entry in entries)


def info_folder(arguments: argparse.Namespace) -> int:
    """Describe each vmstate file below the folder in a line; return the exit code that `--help` explains.

    Raises:
        UsageError: `--offset` is given, or as `find_streams`.
    """
    require_no_options(arguments, ("offset", "snapshot"))
    folder: Path = arguments.file
    entries = []
    unread = False
    for path in find_streams(folder).streams:
        entry: dict[str, Any] = {"name": str(path.relative_to(folder))}
        try:
            with open_stream(path) as opened:
                index = read_index(opened.source, opened.start, opened.ends_file)
                entry |= content_of(index, opened.containers)
            described = _described(entry)
        except _OF_ONE_FILE as error:
            unread = True
            entry["error"] = _reason(path, error)
            described = f"not read: {shown(entry['error'])}"
        entries.append(entry)
        print(f"{shown(entry['name'])}: {described}")
    if arguments.json:
        write_json_file(arguments.json, json.dumps({"version": _FORMAT_VERSION, "files": entries}, indent=1))
    if unread:
        return EXIT_ERROR
    return EXIT_FAIL if any(entry["damage"] for entry in entries) else EXIT_PASS


def _described(content: Mapping[str, Any]) -> str:
    """Return what is in a file, in a line."""
    facts, damage = content["file"], content["damage"]
    parts = [str(facts[name]) for name in ("machine", "flow", "layout") if name in facts]
    pages = sum(block["data pages"] for block in content["blocks"])
    parts += [counted(len(content["blocks"]), "RAMBlock"), counted(pages, "data page")]
    parts.append(counted(len(content["devices"]), "device section"))
    parts += [f"iterable {entry['name']}" for entry in content["iterables"]]
    if damage:
        parts.append(f"damaged at offset {damage['offset']:,}: {damage['sentence']}")
    return shown(", ".join(parts))


def require_no_options(arguments: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Check that no option is given that is for one file.

    Raises:
        UsageError: one is.
    """
    for name in names:
        if getattr(arguments, name):
            raise UsageError(f"--{name} is for one file, and '{arguments.file}' is a folder.")


def _regular_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"The folder '{error.filename}' cannot be read: {error.strerror}.")

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _judged(path: Path, name: Path, agent_ran: bool) -> dict[str, Any]:
    """Return what becomes of one file, as JSON values; a golden image beside it is compared.

    It is that of the file by the name that tests give; a copy beside it may be of another guest.
    """
    golden = path.parent / _GOLDEN
    image = golden if path.name == _OF_GOLDEN and (golden / _GOLDEN_INDEX).is_file() else None
    entry: dict[str, Any] = {"file": str(name), "golden": image is not None}
    try:
        verdict = check_file(path, golden=image, agent_ran=agent_ran)
    except _OF_ONE_FILE as error:
        # The other files are not to blame for it.
        return {**entry, "status": Status.ERROR.value, "reason": _reason(path, error), "failed": []}
    return {**entry, "status": verdict.status.value, "failed": _failed(verdict)}


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, SnapproofError):
        return error.sentence
    return f"The file '{path}' cannot be read: {error}."


def _failed(verdict: Verdict) -> list[dict[str, Any]]:
    """Return the failed checks of a file, each with its first violation."""
    return [_summary(check) for check in verdict.checks if check.status is Status.FAIL]


def _summary(check: CheckResult) -> dict[str, Any]:
    first = check.violations[0]
    return {"check": check.name, "code": first.code.value, "total": check.total, "sentence": first.sentence}


def _print(entry: dict[str, Any]) -> None:
    with_golden = " (with its golden image)" if entry["golden"] else ""
    print(f"{entry['status']:5} {shown(entry['file'])}{with_golden}")
    if "reason" in entry:
        print(f"        {shown(entry['reason'])}")
    for check in entry["failed"]:
        more = f" ... and {check['total'] - 1:,} more" if check["total"] > 1 else ""
        print(f"        {check['check']}: {shown(check['sentence'])}{more}")
