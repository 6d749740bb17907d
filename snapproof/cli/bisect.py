"""`--bisect`: the end of a command as an exit code of `git bisect run` (git-bisect(1), "Bisect run")."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.errors import NoSubject, SnapproofError, UsageError
from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.runs.interruption import EXIT_INTERRUPTED, asked_to_stop

GOOD, BAD, SKIP = 0, 1, 125
STOP = 255
"""What ends the bisection, as all from 128 on does: no other commit could change a wrong command line."""

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
    """Whether a command line that argparse refuses has `--bisect`: git would take its exit code 2 for bad."""
    return any(
        len(name) > len("--b") and _OPTION.startswith(name) for name in (word.split("=")[0] for word in given)
    )


def require_verdict(arguments: argparse.Namespace) -> None:
    """Check that the command says something about a commit.

    Raises:
        UsageError: it only lists what there is, or judges itself.
    """
    for option in ("list", "self_check"):
        if getattr(arguments, option, None):
            raise UsageError(
                f"--{option.replace('_', '-')} says nothing about a commit, so it does not go with {_OPTION}."
            )


def code_for_git(code: int) -> int:
    """What a command's ordinary exit code, or STOP, means to git: only a pass is good, only a failure bad."""
    if asked_to_stop():
        return EXIT_INTERRUPTED
    return {EXIT_PASS: GOOD, EXIT_FAIL: BAD, STOP: STOP}.get(code, SKIP)


def concerns_all_commits(error: SnapproofError) -> bool:
    """Whether an error that ended a command would come at every commit, since the command line is wrong.

    A QEMU or a kernel that is not there was not built: that commit alone cannot be tested.
    """
    return isinstance(error, UsageError) and not isinstance(error, NoSubject)


def line_for(code: int) -> str:
    """The line that says what git is told."""
    return f"bisect: {_WORDS.get(code, 'stop here')} (exit code {code})"
