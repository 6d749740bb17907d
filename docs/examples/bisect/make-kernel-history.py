#!/usr/bin/env python3
"""Makes a Linux tree to bisect, whose history breaks userfaultfd write protection.

Usage: make-kernel-history.py FOLDER

The tree is Debian's Linux with the configuration of the kernel 'uffd' (snapproof images build kernel:uffd);
git tracks two of its files. Of eight commits the fourth does not compile. From the sixth on pages that are
read-only anyway are not marked as protected, so that a write to them is missed. Run this with snapproof's own
Python. The tree takes 2 GB, and the first compilation takes minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from history import begin, commit, run

from guest_images.cache import Cache, default_cache_folder
from guest_images.hosts.kernel_build import unpack_kernel
from guest_images.provisioning import Provisioning
from harness.errors import SnapproofError

_PROTECT, _UFFD = "mm/mprotect.c", "mm/userfaultfd.c"
_MARK = "if (uffd_wp)\n\t\t\t\tptent ="
_COUNT = "long pages = 0;"
_SUBJECTS = (
    "Import",
    "mm/userfaultfd: a note on lengths",
    "mm/mprotect: a note on flushing",
    "mm/mprotect: count pages in a type of their own",
    "mm/mprotect: count pages as before",
    "mm/mprotect: leave pages alone that are read-only anyway",
    "mm/userfaultfd: a note on waking",
    "mm/mprotect: a note on the dirty bit",
)
_BROKEN, _FAULTY = 4, 6


def sources_at(number: int, imported: Mapping[str, str]) -> dict[str, str]:
    """Return the content of the files at a commit, from their imported content; the first commit is 1."""
    notes = {1: _UFFD, 2: _PROTECT, 6: _UFFD, 7: _PROTECT}
    found = dict(imported)
    for before, file in notes.items():
        if before < number:
            found[file] += f"\n/* {_SUBJECTS[before].partition(': ')[2]} */\n"
    if number == _BROKEN:
        found[_PROTECT] = _changed(found[_PROTECT], _COUNT, "pages_t pages = 0;")
    if number >= _FAULTY:
        found[_PROTECT] = _changed(
            found[_PROTECT], _MARK, _MARK.replace("uffd_wp", "uffd_wp && pte_write(oldpte)")
        )
    return found


def _changed(text: str, old: str, new: str) -> str:
    if old not in text:
        raise SnapproofError(f"The example does not fit this version of Linux, which does not have {old!r}.")
    return text.replace(old, new, 1)


def make_history(words: Sequence[str]) -> Path:
    """Make the tree in a folder that does not exist yet; return the folder."""
    folder = Path(words[0])
    folder.parent.mkdir(parents=True, exist_ok=True)
    unpack_kernel("uffd", folder, Provisioning(Cache(default_cache_folder()), print))
    imported = {name: (folder / name).read_text() for name in (_PROTECT, _UFFD)}
    begin(folder)
    for number, subject in enumerate(_SUBJECTS, 1):
        for name, text in sources_at(number, imported).items():
            # An unchanged file keeps its time, so that it is not compiled again.
            if (folder / name).read_text() != text:
                (folder / name).write_text(text)
        commit(folder, number, subject, (_PROTECT, _UFFD))
    return folder


if __name__ == "__main__":
    sys.exit(run(("make-kernel-history.py", "FOLDER"), len(_SUBJECTS), make_history))
