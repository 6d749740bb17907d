"""What a merge puts into its folder: the files of tests, and what each QEMU's tests ran on."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ci.reports.merge import Merged, Move
from harness.errors import SetupBroken, UsageError
from tests_functional.scenarios.outcome import write_atomically

_MOST_BYTES = 16 << 20


def require_apart(parts: Iterable[Path], folder: Path) -> None:
    """Check that a merge does not copy what it writes.

    Args:
        parts: the results folders that are merged.
        folder: where the merge goes.

    Raises:
        UsageError: it goes into the files of a test.
    """
    for part in parts:
        if folder.resolve().is_relative_to((part / "tests").resolve()):
            raise UsageError(f"'{folder}' lies in the files of '{part}'; give --output a folder elsewhere.")


def copy_files(merged: Merged, folder: Path, heavy: Sequence[str]) -> None:
    """Copy all that belongs to the tests.

    Args:
        merged: what was merged.
        folder: the results folder that it goes to.
        heavy: patterns of the names of files that are left out.

    Raises:
        SetupBroken: the disk is full, or a file cannot be read.
    """
    for move in merged.moves:
        _copy(move, folder, heavy)
    for place, parts in merged.stacks.items():
        text = _united(parts)
        if text is None:
            continue
        try:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / place, text)
        except OSError as error:
            raise SetupBroken(f"'{folder / place}' could not be written: {error.strerror}.") from error


def _copy(move: Move, folder: Path, heavy: Sequence[str]) -> None:
    target = folder / move.place

    def left_out(place: str, names: list[str]) -> set[str]:
        """Heavy files, and what is neither file nor folder, such as a pipe."""
        found = {name for pattern in heavy for name in fnmatch.filter(names, pattern)}
        paths = {name: Path(place, name) for name in names}
        return found | {
            name for name, path in paths.items() if path.is_symlink() or not (path.is_dir() or path.is_file())
        }

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if move.source.is_dir():
            shutil.copytree(move.source, target, ignore=left_out)
    except (OSError, shutil.Error) as error:
        raise SetupBroken(f"'{move.source}' could not be copied to '{folder}': {error}.") from error


def _united(parts: Sequence[Path]) -> str | None:
    """The stack.json of several parts: the first that there is, with the further guests of all."""
    found = [content for content in map(_read, parts) if content is not None]
    if not found:
        return None
    guests: dict[str, Any] = {}
    for content in found:
        others = content.get("guests")
        guests |= others if isinstance(others, dict) else {}
    return json.dumps({**found[0], **({"guests": guests} if guests else {})}, indent=1) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
