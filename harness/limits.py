"""Tell a limit of this machine (disk, memory, descriptors, processes) from a fault of the subject."""

from __future__ import annotations

import errno
import os

from harness.codes import Code
from harness.errors import SetupBroken

LIMIT_ERRNOS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
)
"""Errors by which Linux says that this process or this machine has no more of something."""


def is_limit(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that a limit of this machine is reached."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in LIMIT_ERRNOS):
            return True
        error = error.__cause__ or error.__context__
    return False


def limit_error(error: OSError | MemoryError, doing: str) -> SetupBroken:
    """Return the error for a limit that our own process has reached; `doing` says in which step."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno or 0
    return SetupBroken(
        f"A limit of this machine was reached while {doing}: {os.strerror(number)}. Give the run more of it; "
        "'snapproof doctor' lists the limits.",
        code=Code.SETUP_LIMIT,
    )
