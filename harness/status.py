"""Result statuses as in KCIDB v5.3, how they combine, and the exit codes they give."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Status(enum.Enum):
    """Outcome of a test or a check.

    FAIL: the snapshot, QEMU or the kernel is wrong. ERROR: the test itself broke. MISS: machinery
    it needs could not be had. PASS: every check agreed. DONE: measured, nothing judged. SKIP: not
    applicable, with the probed reason. XFAIL: failed as a known issue says; XPASS: passed although
    a known issue says it should not.
    """

    FAIL = "FAIL"
    ERROR = "ERROR"
    MISS = "MISS"
    XPASS = "XPASS"
    XFAIL = "XFAIL"
    PASS = "PASS"
    DONE = "DONE"
    SKIP = "SKIP"


_WORST_FIRST = tuple(Status)

EXIT_PASS, EXIT_FAIL, EXIT_ERROR, EXIT_NOTHING_RAN, EXIT_ALL_SKIPPED = range(5)


def worst(statuses: Iterable[Status]) -> Status | None:
    """The worst of several statuses, or None where there is none."""
    return min(statuses, key=_WORST_FIRST.index, default=None)


def exit_code(statuses: Iterable[Status]) -> int:
    """Exit code of a run: nothing ran and all skipped are never green.

    Returns:
        0 pass, 1 fail, 2 error or missing machinery, 3 nothing ran, 4 all skipped.
    """
    match worst(statuses):
        case None:
            return EXIT_NOTHING_RAN
        case Status.FAIL:
            return EXIT_FAIL
        case Status.ERROR | Status.MISS:
            return EXIT_ERROR
        case Status.SKIP:
            return EXIT_ALL_SKIPPED
        case _:
            return EXIT_PASS
