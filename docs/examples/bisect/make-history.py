#!/usr/bin/env python3
"""Makes a small repository whose history breaks QEMU's background snapshots, to be bisected.

Usage: make-history.py QEMU FOLDER

Each of its eight commits has a script `build.sh`, which makes the program `qemu`: one that runs QEMU. From
the seventh commit on it drops the write protection of an eighth of guest RAM
(validators/live_faults/drop_protection.c); that of the fourth does not build. Run it with snapproof's own
Python.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from guest_images.cache import Cache, default_cache_folder
from harness.errors import SnapproofError
from harness.qemu_probe import probe_qemu
from validators.live_faults.wrapper import fault_library

_SUBJECTS = (
    "Import",
    "ui: draw the cursor last",
    "docs: name the maintainers",
    "build: use the new compiler",
    "build: use the old compiler again",
    "block: count reads that were merged",
    "migration: protect RAM in three pieces",
    "migration: say which piece it is",
)
_BROKEN, _FAULTY = 4, 7


def build_script(number: int, qemu: Path, library: Path) -> str:
    """What `build.sh` is at a commit, the first being 1."""
    lines = ["#!/bin/sh", f"# {_SUBJECTS[number - 1]}", "set -e", "rm -f qemu"]
    if number == _BROKEN:
        lines += ["echo 'cc: no such compiler' >&2", "exit 1"]
    environment = f"LD_PRELOAD={shlex.quote(str(library))} " if number >= _FAULTY else ""
    program = f'#!/bin/sh\n{environment}exec {shlex.quote(str(qemu))} "$@"\n'
    lines += ["cat > qemu << 'EOF'", program + "EOF", "chmod +x qemu"]
    return "\n".join(lines) + "\n"


def make_history(qemu: Path, folder: Path) -> None:
    """Make the repository in a folder that does not exist."""
    library = fault_library("drop_protection", Cache(default_cache_folder()), print)
    folder.mkdir(parents=True)
    _git(folder, "init", "-q")
    (folder / ".gitignore").write_text("/qemu\n/results/\n")
    for number, subject in enumerate(_SUBJECTS, 1):
        script = folder / "build.sh"
        script.write_text(build_script(number, qemu, library))
        script.chmod(0o755)
        _git(folder, "add", ".")
        _git(folder, "commit", "-q", "-m", subject)
        _git(folder, "tag", f"v{number}")


def _git(folder: Path, *words: str) -> None:
    name = ("-c", "user.name=Example", "-c", "user.email=example@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *name, *words], cwd=folder, check=True)


def main(arguments: list[str]) -> int:
    """Make it, and say how it is bisected."""
    if len(arguments) != 2:
        print("Usage: make-history.py QEMU FOLDER", file=sys.stderr)
        return 2
    try:
        make_history(probe_qemu(arguments[0]).executable, Path(arguments[1]))
    except SnapproofError as error:
        print(error.sentence, file=sys.stderr)
        return 2
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"The repository could not be made: {error}.", file=sys.stderr)
        return 2
    print(f"cd {shlex.quote(arguments[1])} && git bisect start v{len(_SUBJECTS)} v1")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
