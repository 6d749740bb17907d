"""Writes the files that a user names with `--json OUT` or `--output FILE`, for all commands."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import SetupBroken, UsageError
from tests_functional.lib.outcome import write_atomically


def write_json_file(path: Path, text: str) -> None:
    """Write a JSON text and a newline to the file that a user named with `--json`; see `write_named_file`."""
    write_named_file(path, text + "\n", "--json", "JSON")


def require_json_file(path: Path) -> None:
    """Check, before anything slow, that the file that a user named with `--json` can be written.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        _require_file(path, "--json")
        if not path.parent.is_dir():
            raise UsageError(f"There is no folder '{path.parent}' for the file of --json; make it first.")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(f"Nothing can be written to '{path.parent}'; give --json a name elsewhere.")
    except OSError as error:
        raise UsageError(f"--json cannot name '{path}': {error.strerror}.") from error


def _require_file(path: Path, option: str) -> None:
    if path.exists() and not path.is_file():
        raise UsageError(f"'{path}' is not a regular file; give {option} the name of one.")


def write_named_file(path: Path, text: str, option: str, what: str) -> None:
    """Write a text to the file that a user named, whole or not at all.

    Args:
        path: the file.
        text: its content.
        option: the option that names the file.
        what: kind of the text, for messages.

    Raises:
        UsageError: the path is no regular file, such as /dev/null, which a rename would replace.
        SetupBroken: the file cannot be written.
    """
    try:
        _require_file(path, option)
        write_atomically(path, text)
    except OSError as error:
        raise SetupBroken(f"The {what} could not be written to '{path}': {error.strerror}.") from error
