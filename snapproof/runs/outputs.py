"""Files that a user names for a command to write, such as `--json OUT`: never one of its inputs.

A plain file is replaced as a whole; a pipe, a terminal or another device is written to, and stays what it is.
"""

from __future__ import annotations

import codecs
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from harness.errors import SetupBroken, UsageError
from tests_functional.lib.outcome import write_atomically
from tests_functional.lib.result_files import RESULTS_FILE, STACK_FILE

_FILES = ("json", "map", "output", "events", "elf")
# Of these none is replaced, also if it is an earlier output.
_NEW_FILES = ("elf",)
# Nothing is replaced in the folder `extract`, and the cache is ours. `results` stays: `report` reads
# it, and the other commands refuse a folder with results.
_NO_INPUTS = (*_FILES, "extract", "cache")
_STANDARD = "-"
_MOST_LINKS = 40
# A stream, an image, an archive and an ELF file have a byte that is no text much earlier.
_HEAD_BYTES = 512
_NO_TEXT = "{option} would replace '{path}', which is no text; name another file, or delete it."
# Nothing of a results folder's top folder is read but these; the other files there are made from them.
_READ_RESULTS = (RESULTS_FILE, "bench.json", "ab.json", STACK_FILE)

FileId = tuple[int, int]
"""Device and inode of a file, the same by all of its names."""


def require_outputs(arguments: Mapping[str, object]) -> None:
    """Check, before anything is written or slow, that a command's outputs can be written and are no inputs.

    Everything that the arguments name and that is there is an input, except for what they name as an output;
    of a folder every file in it is one.

    Args:
        arguments: the command's arguments by name, as the argument parser has them.

    Raises:
        UsageError: an output, or the file behind standard output, is an input or another output; or an output
            cannot be written.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    outputs = {f"--{name}": Path(str(given[name])) for name in _FILES if _names_file(given.get(name))}
    if arguments.get("merging"):
        # Its output is a folder, which `make_results_folder` looks at.
        del outputs["--output"]
    outputs |= _appended_by_format(given)
    for option, path in outputs.items():
        _require_file(path, option)
        _require_no_input(path, option, given)
    _require_new(outputs)
    _require_apart(outputs)
    for option, path in outputs.items():
        _require_no_data(path, option)
    _require_printed_apart(outputs, given)


def _require_new(outputs: Mapping[str, Path]) -> None:
    """Check that nothing is there by the name of an output that may be gigabytes of a guest's memory.

    Raises:
        UsageError: something is, if only a link.
    """
    for option in (f"--{name}" for name in _NEW_FILES):
        if option in outputs and os.path.lexists(outputs[option]):
            raise UsageError(f"'{outputs[option]}' exists already; name a new file with {option}.")


def _require_no_data(path: Path, option: str) -> None:
    """Check that what an output replaces is text, as all outputs are, and no snapshot, disk or archive.

    Raises:
        UsageError: it is not, or cannot be read to know.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        # The last character may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(_NO_TEXT.format(option=option, path=path)) from error
    if b"\0" in head:
        raise UsageError(_NO_TEXT.format(option=option, path=path))


def write_json_file(path: Path, text: str) -> None:
    """Write a JSON text and a newline to the file that a user named with `--json`; see `write_named_file`."""
    write_named_file(path, text + "\n", "JSON")


def write_named_file(path: Path, text: str, what: str) -> None:
    """Write a text to the file that a user named: a plain file whole or not at all, anything else as it is.

    Args:
        path: the file, which `require_outputs` has looked at.
        text: its content.
        what: the text is, for messages.

    Raises:
        SetupBroken: it cannot be written.
    """
    try:
        if _is_replaceable(path):
            write_atomically(_real(path), text)
        else:
            with open_in_place(path) as stream:
                stream.write(text)
    except OSError as error:
        raise SetupBroken(f"The {what} could not be written to '{path}': {error.strerror}.") from error


def open_in_place(path: Path) -> TextIO:
    """Open a file for writing without replacing it.

    A path that leads to a descriptor of ours, such as /dev/stdout, is written through that descriptor: opened
    anew, a plain file behind it would be truncated, and be written twice at the same place.

    Raises:
        OSError: it cannot be opened.
    """
    own = _own_descriptor(path)
    if own is None:
        return path.open("w", encoding="utf-8", errors="backslashreplace")
    sys.stdout.flush()
    return os.fdopen(os.dup(own), "w", encoding="utf-8", errors="backslashreplace")


def _appended_by_format(given: dict[str, object]) -> dict[str, Path]:
    """Return the CI system's files that a report in a wanted format is appended to, by their variable."""
    wanted = given.get("format")
    if not wanted or given.get("output"):
        return {}
    # `check` and other commands without `--format` start sooner without it.
    from snapproof.report.formats import FORMATS

    names = wanted if isinstance(wanted, list | tuple) else [wanted]
    variables = {FORMATS[name].variable for name in map(str, names) if name in FORMATS} - {""}
    return {f"${name}": Path(os.environ[name]) for name in sorted(variables) if os.environ.get(name)}


def _names_file(value: object) -> bool:
    return isinstance(value, str | Path) and str(value) != _STANDARD


def _require_file(path: Path, option: str) -> None:
    """Check that a file can be written, without touching it."""
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
            raise UsageError(
                f"'{path}' is a folder, a disk or a socket; give {option} the name of a file, or of a pipe."
            )
        if not _is_replaceable(path):
            if not os.access(path, os.W_OK):
                raise UsageError(f"Nothing can be written to '{path}'; give {option} another name.")
            return
        folder = _real(path).parent
        if not folder.is_dir():
            raise UsageError(f"There is no folder '{path.parent}' for the file that {option} names.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"Nothing can be written to '{folder}'; give {option} a name elsewhere.")
        if len(os.fsencode(path.name)) > os.pathconf(folder, "PC_NAME_MAX"):
            raise UsageError(f"{option} cannot name '{path}': File name too long.")
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} cannot name '{path}': {getattr(error, 'strerror', error)}.") from error


def _is_replaceable(path: Path) -> bool:
    """Tell whether the path leads to a plain file by name, or to nothing yet; other files are written to."""
    if not path.exists():
        return True
    return path.is_file() and _proc_link(path) is None


def _own_descriptor(path: Path) -> int | None:
    """Return the number of our descriptor that a path such as /dev/stdout leads to, None for another path."""
    link = _proc_link(path)
    own = Path(f"/proc/{os.getpid()}")
    if link is None or link.parent.name != "fd" or not link.is_relative_to(own):
        return None
    return int(link.name)


def _proc_link(path: Path) -> Path | None:
    """Return the link in /proc that a path leads through, None without one.

    What such a link stands for is an open file, and its text need not be the name of that file any more.
    """
    for _ in range(_MOST_LINKS):
        path = _real(path.parent) / path.name
        if not path.is_symlink():
            break
        if path.is_relative_to("/proc"):
            return path
        path = path.parent / path.readlink()
    return None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _require_no_input(path: Path, option: str, given: dict[str, object]) -> None:
    try:
        found = path.stat()
    except OSError:
        # What is not there cannot be an input.
        return
    if not stat.S_ISREG(found.st_mode):
        return
    for name, identity in _inputs(given):
        if identity == (found.st_dev, found.st_ino):
            raise UsageError(
                f"{option} names '{path}', which is an input ('{name}') and would be lost; name another file."
            )


def _require_apart(outputs: dict[str, Path]) -> None:
    names: dict[Path, str] = {}
    for option, path in outputs.items():
        if _is_replaceable(path) and names.setdefault(_real(path), option) != option:
            raise UsageError(f"{names[_real(path)]} and {option} name the same file, '{path}'; name two.")


def _require_printed_apart(outputs: dict[str, Path], given: dict[str, object]) -> None:
    """Check the file behind standard output, if it is one: nothing is printed into an input, or replaces it.

    Files in folders do not count here: a run may be logged into the folder that it fills.
    """
    try:
        found = os.fstat(1)
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):
        return
    printed = (found.st_dev, found.st_ino)
    for name, identity in _inputs(given, folders=False):
        if identity == printed:
            raise UsageError(
                f"Standard output goes to '{name}', which is an input and would be changed; redirect it "
                "elsewhere."
            )
    for option, path in outputs.items():
        if _is_replaceable(path) and printed in [identity for _, identity in _identified(path)]:
            raise UsageError(
                f"Standard output goes to '{path}', which {option} would replace; redirect it elsewhere."
            )


def _inputs(given: dict[str, object], *, folders: bool = True) -> Iterator[tuple[str, FileId]]:
    """Yield name, device and inode of each file for reading that the arguments name or have in folders."""
    for argument, value in given.items():
        if argument in _NO_INPUTS:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Path | str):
                yield from _files(str(one), folders)


def _files(text: str, folders: bool) -> Iterator[tuple[str, FileId]]:
    """Yield the files that an argument stands for: a file, those of a folder, a kernel such as vm:PATH."""
    if text == _STANDARD:
        found = os.fstat(0)
        yield text, (found.st_dev, found.st_ino)
        return
    for name in dict.fromkeys((text, text.partition(":")[2])):
        if name and Path(name).is_dir():
            yield from _files_in(Path(name)) if folders else ()
        elif name:
            yield from _identified(Path(name))


def _files_in(folder: Path) -> Iterator[tuple[str, FileId]]:
    results = (folder / RESULTS_FILE).is_file()
    for place, _, names in os.walk(folder):
        top = Path(place) == folder
        for name in names:
            if not (top and results) or name in _READ_RESULTS:
                yield from _identified(Path(place, name))


def _identified(path: Path) -> Iterator[tuple[str, FileId]]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        # It is a name of the catalogue, say; or the command itself will say that it cannot be read.
        return
    yield str(path), (found.st_dev, found.st_ino)
