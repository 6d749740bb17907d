"""The jobs that `snapproof bench validator` times, each run in a process of its own.

Run as ``python -m snapproof.bench.validator_jobs JOB FILE [ARGUMENT]``; prints nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.errors import SnapproofError
from validators.judge import check_file
from validators.oracles.o1_golden.golden import check_golden, open_golden
from validators.oracles.o4_structure.structure import check_structure
from validators.vmstate.digests import read_digests
from validators.vmstate.extract import extract
from validators.vmstate.pages import PageReader
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source


def nothing(_file: Path, _argument: str) -> None:
    """Do nothing: this times the start of Python and our imports, which each job includes."""


def digests(file: Path, _argument: str) -> None:
    """Check the structure and digest every page."""
    with open_source(file) as source:
        index, _ = read_digests(source)
        check_structure(index)


def full(file: Path, _argument: str) -> None:
    """Do all that `snapproof check FILE` does."""
    check_file(file)


def extracted(file: Path, folder: str) -> None:
    """Extract RAM and device state into a folder."""
    extract(file, Path(folder))


def golden(file: Path, image: str) -> None:
    """Check the structure and compare every page with a golden image."""
    with open_source(file) as source, open_golden(Path(image)) as ram:
        index = read_index(source)
        check_structure(index)
        check_golden(PageReader(source, index), ram)


JOBS: Mapping[str, Callable[[Path, str], None]] = {
    "start": nothing,
    "digests": digests,
    "check": full,
    "extract": extracted,
    "golden": golden,
}


def main(arguments: list[str]) -> int:
    """Do one job and return 0 if it ran to its end, whatever it found."""
    job, file, *rest = arguments
    try:
        JOBS[job](Path(file), rest[0] if rest else "")
    except SnapproofError as error:
        print(error.sentence, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
