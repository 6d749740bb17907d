"""Shared by the example histories: commits the states of a tree, and runs the script that makes them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import SnapproofError


def begin(folder: Path) -> None:
    """Make a folder a git repository."""
    _git(folder, "init", "-q")


def commit(folder: Path, number: int, subject: str, paths: Sequence[str]) -> None:
    """Commit the paths as they are now, even if git ignores them, and tag the commit v1, v2 and so on."""
    _git(folder, "add", "-f", *paths)
    _git(folder, "commit", "-q", "-m", subject)
    _git(folder, "tag", f"v{number}")


def _git(folder: Path, *words: str) -> None:
    name = ("-c", "user.name=Example", "-c", "user.email=example@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *words], cwd=folder, check=True)


def run(usage: Sequence[str], commits: int, make: Callable[[Sequence[str]], Path]) -> int:
    """Make a history from the command line's arguments, print how to bisect it, and return an exit code.

    Args:
        usage: names of the script and its arguments.
        commits: how many commits the history has.
        make: makes the history and returns its folder.
    """
    words = sys.argv[1:]
    if len(words) != len(usage) - 1:
        print(f"Usage: {' '.join(usage)}", file=sys.stderr)
        return 2
    try:
        folder = make(words)
    except SnapproofError as error:
        print(error.sentence, file=sys.stderr)
        return 2
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"The history could not be made: {error}.", file=sys.stderr)
        return 2
    print(f"cd {shlex.quote(str(folder))} && git bisect start v{commits} v1")
    return 0
