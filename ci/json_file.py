"""Files that a user names for a command to write: `--json OUT`, `--output FILE`."""

from __future__ import annotations

from pathlib import Path

from harness.errors import SetupBroken, UsageError
from tests_functional.scenarios.outcome import write_atomically


def write_json_file(path: Path, text: str) -> None:
    """Write a JSON text and a newline to the file that a user named with `--json`; see `write_named_file`."""
    write_named_file(path, text + "\n", "--json", "JSON")


def write_named_file(path: Path, text: str, option: str, what: str) -> None:
    """Write a text to the file that a user named, whole or not at all.

    Args:
        path: the file.
        text: its content.
        option: with which it was named.
        what: the text is, for messages.

    Raises:
        UsageError: there is something that is no regular file, such as /dev/null, which a rename would
            replace.
        SetupBroken: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"'{path}' is not a regular file; give {option} the name of one.")
        write_atomically(path, text)
    except OSError as error:
        raise SetupBroken(f"The {what} could not be written to '{path}': {error.strerror}.") from error
