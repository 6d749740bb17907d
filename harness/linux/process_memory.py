"""Have the kernel age, page out, collapse or move memory of another process, from outside it."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.errors import NotApplicable
from harness.userfaultfd import libc

# Linux include/uapi/asm-generic/unistd.h, the same on x86_64: process_madvise (5.10), pidfd_getfd (5.6).
_PROCESS_MADVISE, _PIDFD_GETFD = 440, 438
# arch/x86/entry/syscalls/syscall_64.tbl, and asm-generic/unistd.h for the others.
_MOVE_PAGES = {"x86_64": 279, "aarch64": 239, "riscv64": 239}
# linux/mempolicy.h: move pages that other processes map too.
_MOVE_ALL = 4
# At least one huge page of x86_64, and of arm64 with pages of 4 KiB.
_HUGE_BYTES = 2 << 20


class _Piece(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def advise(pid: int, address: int, length: int, advice: int) -> None:
    """Give advice about a range of a process's memory by process_madvise(2).

    Args:
        pid: the process.
        address: of the first byte in it, a multiple of the page size.
        length: in bytes.
        advice: MADV_COLD or MADV_PAGEOUT (5.10), or MADV_COLLAPSE (6.1), of `libc`.

    Raises:
        OSError: EPERM without CAP_SYS_NICE; EINVAL for another advice, and for memory that cannot be
            collapsed now, for which it may be EAGAIN, EBUSY or ENOMEM as well.
    """
    piece = _Piece(address, length)
    with _pidfd(pid) as process:
        done = libc.LIBC.syscall(_PROCESS_MADVISE, process, ctypes.byref(piece), ctypes.c_ulong(1), advice, 0)
        libc.checked(int(done), "process_madvise")


def require_advice(advice: int, name: str) -> None:
    """Check that this user may give a piece of advice about memory of other processes.

    Raises:
        NotApplicable: the kernel does not know it, or forbids it to this user.
    """
    if os.geteuid():
        raise NotApplicable(f"Only root may have the memory of another process paged anew ({name}).")
    mapped = libc.mmap(
        2 * _HUGE_BYTES, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
    )
    try:
        # MADV_COLLAPSE also returns EINVAL for memory that cannot have a huge page.
        address = -(-mapped // _HUGE_BYTES) * _HUGE_BYTES
        ctypes.memset(address, 1, 1)
        advise(os.getpid(), address, _HUGE_BYTES, advice)
    except OSError as error:
        raise NotApplicable(f"This kernel does not take {name}: {error.strerror}.") from error
    finally:
        libc.LIBC.munmap(ctypes.c_void_p(mapped), 2 * _HUGE_BYTES)


def move_pages(pid: int, addresses: Sequence[int], node: int) -> None:
    """Move pages of a process to a NUMA node, those that can be moved, by the system call move_pages.

    Raises:
        OSError: EPERM without CAP_SYS_NICE; ENODEV, there is no such node; ENOSYS where the number of the
            call is not known.
    """
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    nodes, status = (ctypes.c_int * count)(*[node] * count), (ctypes.c_int * count)()
    number = _MOVE_PAGES.get(platform.machine(), -1)
    done = libc.LIBC.syscall(number, pid, ctypes.c_ulong(count), pages, nodes, status, _MOVE_ALL)
    # A positive result is the number of pages that were not moved (Linux 4.17).
    libc.checked(int(done), "move_pages")


def descriptor_of(pid: int, number: int) -> int:
    """Return a descriptor of our own for what a descriptor of a process stands for (pidfd_getfd(2)).

    Raises:
        OSError: EPERM, this user may not ptrace the process.
    """
    with _pidfd(pid) as process:
        return libc.checked(int(libc.LIBC.syscall(_PIDFD_GETFD, process, number, 0)), "pidfd_getfd")


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
