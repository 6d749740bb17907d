"""Tell a limit of this machine (disk, memory, descriptors, processes) from a fault of the subject."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal

from harness.codes import Code
from harness.errors import Evidence, SetupBroken

_MIB = 1 << 20

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
    words = os.strerror(errno.ENOMEM) if isinstance(error, MemoryError) else error.strerror
    return SetupBroken(
        f"A limit of this machine was reached while {doing}: {words}. Give the run more of it; "
        "'snapproof doctor' lists the limits.",
        code=Code.SETUP_LIMIT,
    )


# The import of numpy 2.4.6 takes 83 MiB of address space with one thread of OpenBLAS, and 123 MiB with two.
_IMPORT_BYTES = 128 * _MIB
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def require_import_memory() -> None:
    """Check that this process may have the memory that the import of numpy takes.

    OpenBLAS, which numpy loads, ends the process with exit code 1 where it gets none, and by SIGINT where it
    cannot start its threads; nothing here uses these.

    Raises:
        SetupBroken: it may not.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        # Reserved and given back, never touched.
        mmap.mmap(-1, _IMPORT_BYTES, flags=_PRIVATE).close()
    except OSError as error:
        raise limit_error(error, "starting") from error


_BY_SIGNAL = {
    signal.SIGKILL: "SIGKILL, which we did not send: the kernel does that when memory, or a control group's "
    "limit of it, is used up",
    signal.SIGXFSZ: "SIGXFSZ: a file became larger than the limit of 'ulimit -f' allows",
    signal.SIGXCPU: "SIGXCPU: it used more CPU time than the limit of 'ulimit -t' allows",
}


def limit_behind(exit_code: int | None) -> str:
    """Return which limit of the machine ended a process, "" if none did.

    Args:
        exit_code: negative for a signal, or as a shell around the process says it: 128 + signal.
    """
    if exit_code is None:
        return ""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return next((words for sent, words in _BY_SIGNAL.items() if sent == number), "")


_SAYS_LIMIT = tuple(
    os.strerror(code) for code in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.ENOSPC)
)


def limit_in(text: str) -> str:
    """Return the words by which a program's last line blames a limit of the machine, "" if it does not."""
    last = "".join(text.strip().splitlines()[-1:])
    return next((words for words in _SAYS_LIMIT if words in last), "")


_RLIMITS = {
    resource.RLIMIT_FSIZE: ("ulimit -f", "the size of a file"),
    resource.RLIMIT_AS: ("ulimit -v", "the address space of a process"),
    resource.RLIMIT_DATA: ("ulimit -d", "the data of a process"),
}
_MOST_FILES = 256


def short_limits(file_mib: int, memory_mib: int) -> list[str]:
    """Return a sentence on each resource limit of this process (getrlimit(2)) that is too low.

    Args:
        file_mib: the largest file to be written.
        memory_mib: the memory of the largest process.
    """
    found = []
    for which, (command, what) in _RLIMITS.items():
        needed = file_mib if which == resource.RLIMIT_FSIZE else memory_mib
        soft = resource.getrlimit(which)[0]
        if soft != resource.RLIM_INFINITY and soft < needed * _MIB:
            found.append(
                f"'{command}' limits {what} to {soft // _MIB} MiB and {needed} MiB are needed; raise it."
            )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _MOST_FILES:
        found.append(f"'ulimit -n' limits open files to {files} and {_MOST_FILES} are needed; raise it.")
    return found


def ended_by_limit(what: str, words: str, evidence: Evidence) -> SetupBroken:
    """Return the error for a process that a limit ended; `what` is its sentence without the full stop."""
    return SetupBroken(
        f"{what}; it was ended by {words}. That is a limit of this machine and shows nothing about QEMU.",
        evidence,
        code=Code.SETUP_LIMIT,
    )
