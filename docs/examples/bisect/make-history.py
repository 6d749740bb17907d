#!/usr/bin/env python3
"""Makes a small repository to bisect, whose history breaks QEMU's background snapshots.

Usage: make-history.py QEMU FOLDER

Each of its eight commits has a script `build.sh`, which makes a program `qemu` that runs QEMU. From the
seventh commit on the program drops the write protection of an eighth of guest RAM
(validators/faults/live/drop_protection.c). The fourth commit does not build. Run this with snapproof's own
Python.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from history import begin, commit, run

from guest_images.cache import Cache, default_cache_folder
from guest_images.provisioning import Provisioning
from harness.qemu.probe import probe_qemu
from validators.faults.live.wrapper import fault_library

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
    """Return the content of `build.sh` at a commit; the first commit is 1."""
    lines = ["#!/bin/sh", f"# {_SUBJECTS[number - 1]}", "set -e", "rm -f qemu"]
    if number == _BROKEN:
        lines += ["echo 'cc: no such compiler' >&2", "exit 1"]
    environment = f"LD_PRELOAD={shlex.quote(str(library))} " if number >= _FAULTY else ""
    program = f'#!/bin/sh\n{environment}exec {shlex.quote(str(qemu))} "$@"\n'
    lines += ["cat > qemu << 'EOF'", program + "EOF", "chmod +x qemu"]
    return "\n".join(lines) + "\n"


def make_history(words: Sequence[str]) -> Path:
    """Make the repository from the arguments QEMU and FOLDER, which must not exist; return the folder."""
    qemu, folder = probe_qemu(words[0]).executable, Path(words[1])
    library = fault_library("drop_protection", Provisioning(Cache(default_cache_folder()), print))
    folder.mkdir(parents=True)
    begin(folder)
    (folder / ".gitignore").write_text("/qemu\n/results/\n")
    for number, subject in enumerate(_SUBJECTS, 1):
        script = folder / "build.sh"
        script.write_text(build_script(number, qemu, library))
        script.chmod(0o755)
        commit(folder, number, subject, ("build.sh", ".gitignore"))
    return folder


if __name__ == "__main__":
    sys.exit(run(("make-history.py", "QEMU", "FOLDER"), len(_SUBJECTS), make_history))
