"""`snapproof check`: judge a vmstate file offline."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ci.verdict_text import check_lines
from harness.errors import SetupBroken, UsageError
from harness.status import Status, exit_code
from tests_functional.scenarios.outcome import write_atomically
from validators.judge import check_file
from validators.verdict import Verdict


def add_parser(commands: Any) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "check",
        help="judge a vmstate file offline",
        description="Checks the structure of a vmstate file, the agent's pages in it, and the golden image.",
        epilog="Example: snapproof check vmstate --golden golden/ --json verdict.json",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what 'migrate' wrote")
    parser.add_argument(
        "--golden", type=Path, metavar="RAM", help="folder with golden.json, or a raw file of the main RAM"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the whole verdict there")
    parser.set_defaults(run=check)


def check(arguments: argparse.Namespace) -> int:
    """Judge the file, print the verdict, and return its exit code."""
    path: Path = arguments.file
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "does not exist"
        raise UsageError(f"The file '{path}' {problem}.")
    try:
        verdict = check_file(path, golden=arguments.golden)
    except PermissionError as error:
        raise UsageError(f"The file '{path}' cannot be read: {error.strerror}.") from error
    if arguments.json:
        _write_json(arguments.json, verdict)
    _print(path, verdict)
    return exit_code([verdict.status])


def _write_json(path: Path, verdict: Verdict) -> None:
    try:
        write_atomically(path, verdict.to_json() + "\n")
    except OSError as error:
        raise SetupBroken(f"The verdict could not be written to '{path}': {error.strerror}.") from error


def _print(path: Path, verdict: Verdict) -> None:
    for name, value in verdict.facts.items():
        print(f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    for entry in json.loads(verdict.to_json())["checks"]:
        if entry["status"] == Status.PASS.value:
            print(f"      PASS {entry['name']}: {entry['explanation']}")
        else:
            print("\n".join(check_lines(entry)))
    print(f"{verdict.status.value}: {path}")
