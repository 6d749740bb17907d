"""The statuses of tests and checks, as in KCIDB v5.3: which is the worst of several, and its exit code."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Status(enum.Enum):
    """Outcome of a test or a check, worst first.

    FAIL: the snapshot, QEMU or the kernel is wrong. ERROR: the test itself failed. MISS: something that the
    test needs is missing. XPASS: passed although a known issue says that it fails. XFAIL: failed as a known
    issue says. PASS: every check agreed. DONE: measured, nothing judged. SKIP: not applicable, for a reason
    that was probed.
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
EXIT_INTERRUPTED = 130


def worst(statuses: Iterable[Status]) -> Status | None:
    """Return the worst of several statuses, None if there is none."""
    return min(statuses, key=_WORST_FIRST.index, default=None)


def exit_code(statuses: Iterable[Status]) -> int:
    """Return the exit code of a run; it is not 0 if nothing ran or everything was skipped.

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
