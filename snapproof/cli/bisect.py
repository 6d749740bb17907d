"""Turns a command's exit code into one for `git bisect run` (git-bisect(1), "Bisect run"), for `--bisect`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.errors import NoSubject, SnapproofError, UsageError
from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.runs.interruption import EXIT_INTERRUPTED, asked_to_stop

GOOD, BAD, SKIP = 0, 1, 125
STOP = 255
"""Ends the bisection, as each exit code from 128 on does: the command line is wrong at every commit."""

_OPTION = "--bisect"
_WORDS = {GOOD: "good", BAD: "bad", SKIP: "cannot be tested"}


def add_bisect_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--bisect`."""
    parser.add_argument(
        _OPTION,
        action="store_true",
        help="exit codes for 'git bisect run': 0 good, 1 bad, 125 cannot be tested; see docs/bisecting.md",
    )


def asked_for(given: Sequence[str]) -> bool:
    """Return whether a command line that argparse refuses has `--bisect`; git would take code 2 for bad."""
    return any(
        len(name) > len("--b") and _OPTION.startswith(name) for name in (word.split("=")[0] for word in given)
    )


def require_verdict(arguments: argparse.Namespace) -> None:
    """Check that the command tests a commit.

    Raises:
        UsageError: the command only lists tests, or checks the A/B gate itself.
    """
    for option in ("list", "self_check"):
        if getattr(arguments, option, None):
            raise UsageError(
                f"--{option.replace('_', '-')} does not test a commit, so it cannot be used with {_OPTION}; "
                "leave one of them out."
            )


def code_for_git(code: int) -> int:
    """Return git's exit code for a command's exit code: only a pass is good, and only a failure is bad."""
    if asked_to_stop():
        return EXIT_INTERRUPTED
    return {EXIT_PASS: GOOD, EXIT_FAIL: BAD, STOP: STOP}.get(code, SKIP)


def concerns_all_commits(error: SnapproofError) -> bool:
    """Return whether an error would occur at every commit because the command line is wrong.

    A missing QEMU or kernel was not built: only that commit cannot be tested.
    """
    return isinstance(error, UsageError) and not isinstance(error, NoSubject)


def line_for(code: int) -> str:
    """Return the line that tells the user what the exit code means to git."""
    return f"bisect: {_WORDS.get(code, 'stop here')} (exit code {code})"
