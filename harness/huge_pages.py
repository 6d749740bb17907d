"""Transparent huge pages: what this host does, and how to have none."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import MachineryMissing

# linux/prctl.h (3.15); a process gives it on to its children, through exec as well.
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages_setting() -> str:
    """What this host does by default: ``always``, ``madvise`` or ``never``; "" where it has none at all."""
    try:
        found = re.search(r"\[(\w+)\]", _SWITCH.read_text(encoding="ascii"))
    except OSError:
        return ""
    return found[1] if found else ""


@contextmanager
def huge_pages_disabled() -> Iterator[None]:
    """No transparent huge pages for processes that are started meanwhile, nor for this one.

    Raises:
        MachineryMissing: the kernel does not switch them off.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0)
    if before < 0 or libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise MachineryMissing(
            "This kernel does not switch transparent huge pages off for a process: "
            f"{os.strerror(ctypes.get_errno())}."
        )
    try:
        yield
    finally:
        libc.prctl(_PR_SET_THP_DISABLE, before, 0, 0, 0)
