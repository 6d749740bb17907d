"""Fills the folder of a merge: copies the tests' files, and makes one stack.json for each QEMU."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken, UsageError
from snapproof.report.merge import FolderCopy, Merged
from tests_functional.lib.outcome import write_atomically

_MOST_BYTES = 16 << 20


def require_apart(parts: Iterable[Path], folder: Path) -> None:
    """Check that a merge would not copy its own output.

    Args:
        parts: the results folders that are merged.
        folder: where the merge goes.

    Raises:
        UsageError: the folder lies among the tests' files of a part.
    """
    for part in parts:
        if folder.resolve().is_relative_to((part / "tests").resolve()):
            raise UsageError(
                f"'{folder}' lies in the files of '{part}', which are to be copied; name a folder elsewhere "
                "with --output."
            )


def copy_files(merged: Merged, folder: Path, heavy: Sequence[str]) -> None:
    """Copy the tests' folders and write the stack.json of each QEMU.

    Args:
        merged: the merged results.
        folder: their results folder.
        heavy: shell patterns of the names of files and folders that are not copied.

    Raises:
        SetupBroken: the disk is full, or a file cannot be read.
    """
    for copy in merged.folders:
        _copy(copy, folder, heavy)
    for place, parts in merged.stacks.items():
        text = _united_stack(parts)
        if text is None:
            continue
        try:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / place, text)
        except OSError as error:
            raise SetupBroken(f"'{folder / place}' could not be written: {error.strerror}.") from error


def _copy(copy: FolderCopy, folder: Path, heavy: Sequence[str]) -> None:
    target = folder / copy.place

    def left_out(place: str, names: list[str]) -> set[str]:
        """Return the names of heavy files, of links, and of special files such as pipes."""
        found = {name for pattern in heavy for name in fnmatch.filter(names, pattern)}
        paths = {name: Path(place, name) for name in names}
        return found | {
            name for name, path in paths.items() if path.is_symlink() or not (path.is_dir() or path.is_file())
        }

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy.source.is_dir():
            shutil.copytree(copy.source, target, ignore=left_out)
    except (OSError, shutil.Error) as error:
        raise SetupBroken(f"'{copy.source}' could not be copied to '{folder}': {error}.") from error


def _united_stack(parts: Sequence[Path]) -> str | None:
    """Return the first stack.json that can be read, with the `guests` of all of them; None without one."""
    found = [content for content in map(_read, parts) if content is not None]
    if not found:
        return None
    guests: dict[str, Any] = {}
    for content in found:
        others = content.get("guests")
        guests |= others if isinstance(others, dict) else {}
    return json.dumps({**found[0], **({"guests": guests} if guests else {})}, indent=1) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where it cannot be read, is larger than 16 MiB or no object."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
