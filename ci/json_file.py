"""JSON files that commands write for `--json OUT`."""

from __future__ import annotations

from pathlib import Path

from harness.errors import SetupBroken, UsageError
from tests_functional.scenarios.outcome import write_atomically


def write_json_file(path: Path, text: str) -> None:
    """Write a JSON text and a newline to the file that a user named, whole or not at all.

    Raises:
        UsageError: there is something that is no regular file, such as /dev/null, which a rename would
            replace.
        SetupBroken: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"'{path}' is not a regular file; give --json the name of one.")
        write_atomically(path, text + "\n")
    except OSError as error:
        raise SetupBroken(f"The JSON could not be written to '{path}': {error.strerror}.") from error
