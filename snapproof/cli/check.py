"""Runs `snapproof check`: judges a vmstate file offline, prints the verdict, extracts what is in the file.

Modules for drawings and for --extract are imported only where they are needed: most files are right, and
starting takes longer than checking 100 MiB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from harness.errors import SnapshotWrong, UsageError
from harness.status import EXIT_FAIL, Status, exit_code
from snapproof.cli.numpy_note import note_numpy
from snapproof.cli.progress_bar import WORTH_BYTES, ProgressBar
from snapproof.cli.streams import shown
from snapproof.cli.verdict_text import check_lines, range_lines
from snapproof.runs.outputs import write_json_file, write_named_file
from validators.judge import check_file
from validators.verdict import Verdict

_STDIN = Path("-")


def check(arguments: argparse.Namespace) -> int:
    """Judge the file, or all files of a folder, print the verdict, and return its exit code."""
    path: Path = arguments.file
    if arguments.raw and (path.is_dir() or arguments.extract or arguments.elf):
        raise UsageError("--raw is for one file, and has no stream to extract from; leave out --raw.")
    if path.is_dir():
        from snapproof.cli.vmstate_folder import check_folder

        return check_folder(arguments)
    verdict = _judge(path, arguments)
    if arguments.json:
        write_json_file(arguments.json, verdict.to_json())
    if arguments.map:
        from validators.page_map import svg_map

        write_named_file(arguments.map, svg_map(verdict.lengths, _bad_pages(verdict)), "map")
    _print(path, verdict)
    extracted = not arguments.extract or _written(_extract, path, arguments)
    written = not arguments.elf or _written(_write_elf_core, path, arguments)
    return exit_code([verdict.status]) if extracted and written else EXIT_FAIL


def _judge(path: Path, arguments: argparse.Namespace) -> Verdict:
    try:
        _require_readable(path, arguments)
        big = path != _STDIN and path.is_file() and path.stat().st_size > WORTH_BYTES
        note_numpy(path)
        with ProgressBar() as bar:
            return check_file(
                path,
                golden=arguments.golden,
                offset=arguments.offset,
                snapshot=arguments.snapshot,
                agent_ran=arguments.agent_ran,
                raw=arguments.raw,
                progress=bar.update if big else None,
            )
    except OSError as error:
        raise UsageError(f"The file '{path}' cannot be read: {error.strerror}.") from error


def _require_readable(path: Path, arguments: argparse.Namespace) -> None:
    if path == _STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "'-' reads standard input, but that is a terminal or closed; pipe a vmstate stream into it."
            )
    elif not path.exists():
        raise UsageError(f"The file '{path}' does not exist; name a vmstate file.")
    for option in ("extract", "elf"):
        if getattr(arguments, option) and not path.is_file():
            raise UsageError(
                f"--{option} needs a regular file, because a pipe can be read only once; save the stream to "
                "a file."
            )
    if arguments.extract:
        _require_extraction(arguments)


def _require_extraction(arguments: argparse.Namespace) -> None:
    """Check that --extract can be done, and loses neither a file nor another output.

    Raises:
        UsageError: it cannot, or does.
    """
    from validators.vmstate.extract import is_extracted_name, require_room_for_extraction

    require_room_for_extraction(arguments.extract)
    for path in filter(None, (arguments.json, arguments.map, arguments.elf)):
        if path.parent.resolve() == arguments.extract.resolve() and is_extracted_name(path.name):
            raise UsageError(
                f"--extract would write '{path}', too; name another file for --json, --map or --elf."
            )


def _bad_pages(verdict: Verdict) -> dict[str, list[int]]:
    """Return the offsets of all pages that any check found wrong, by RAMBlock."""
    bad: dict[str, set[int]] = {}
    for result in verdict.checks:
        for block, offsets in result.bad_pages.items():
            bad.setdefault(block, set()).update(offsets)
    return {block: sorted(offsets) for block, offsets in bad.items()}


def _written(
    write: Callable[[Path, argparse.Namespace], None], path: Path, arguments: argparse.Namespace
) -> bool:
    """Write something out of the file; return False, and say why, if it is too damaged for that."""
    try:
        write(path, arguments)
    except SnapshotWrong as error:
        print(f"snapproof: {shown(error.sentence)}", file=sys.stderr)
        return False
    return True


def _extract(path: Path, arguments: argparse.Namespace) -> None:
    """Extract RAM and device state."""
    from validators.vmstate.extract import extract

    content = extract(path, arguments.extract, offset=arguments.offset, snapshot=arguments.snapshot)
    for entry in content["blocks"]:
        place = shown(arguments.extract / entry["file"])
        print(f"extracted {shown(entry['idstr'])}: {entry['bytes']:,} bytes in {place}")


def _write_elf_core(path: Path, arguments: argparse.Namespace) -> None:
    """Write an ELF core of main RAM."""
    from validators.vmstate.elf_core import write_elf_core

    core = write_elf_core(path, arguments.elf, offset=arguments.offset, snapshot=arguments.snapshot)
    print(f"ELF core: {shown(arguments.elf)}")
    for segment in core.segments:
        end = segment.address + segment.size
        print(f"  guest-physical {segment.address:#x} to {end:#x}: {segment.size:,} bytes")
    for sentence in core.sentences():
        print(f"  {shown(sentence)}")


def _print(path: Path, verdict: Verdict) -> None:
    for name, value in verdict.facts.items():
        print(f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    for entry in (result.to_json(verdict.page_size) for result in verdict.checks):
        if entry["status"] == Status.PASS.value:
            print(f"      PASS {entry['name']}: {entry['explanation']}")
        else:
            print("\n".join([*check_lines(entry), *range_lines(entry)]))
    if bad := _bad_pages(verdict):
        from validators.page_map import terminal_map

        drawing = terminal_map(verdict.lengths, bad)
        if drawing:
            print(f"Bad pages in RAM:\n{drawing}")
    print(f"{verdict.status.value}: {shown(path)}")
