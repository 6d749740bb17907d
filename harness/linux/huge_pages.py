"""Read this host's setting for transparent huge pages, and disable them for processes started meanwhile."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import MachineryMissing

# linux/prctl.h (3.15); children inherit it, and it survives exec.
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages_setting() -> str:
    """Return this host's setting: ``always``, ``madvise`` or ``never``; "" without huge pages."""
    try:
        found = re.search(r"\[(\w+)\]", _SWITCH.read_text(encoding="ascii"))
    except OSError:
        return ""
    return found[1] if found else ""


@contextmanager
def huge_pages_disabled() -> Iterator[None]:
    """Disable transparent huge pages for this process, and those that it starts, during the `with`.

    Raises:
        MachineryMissing: the kernel cannot disable them for a process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0)
    if before < 0 or libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise MachineryMissing(
            "This kernel cannot disable transparent huge pages for a process (PR_SET_THP_DISABLE): "
            f"{os.strerror(ctypes.get_errno())}."
        )
    try:
        yield
    finally:
        libc.prctl(_PR_SET_THP_DISABLE, before, 0, 0, 0)
