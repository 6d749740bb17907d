"""Feature tests of writes by the kernel to protected memory: system calls, O_DIRECT, io_uring."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import tempfile
import termios
from collections.abc import Iterator
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Region, Userfaultfd, libc
from tests_functional.kernel.trackers import stores

from ..calls import CallThread
from ..memory import ANON, ANON_THP, ANON_ZERO, HUGETLB, MEMFD, SHMEM
from ..needs import missing_need
from ..oracle import LATE, blocked, next_fault, page_of, release, write_waits
from ..registry import feature_test
from ..trial import Trial
from ..uring import Uring

_KINDS = (ANON, ANON_ZERO, ANON_THP, SHMEM, MEMFD, HUGETLB)
_NEEDS = ("kernel-faults",)


@contextlib.contextmanager
def filled_pipe(data: bytes) -> Iterator[int]:
    """Yield a descriptor from which `data` can be read."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(sink, data)
        yield source
    finally:
        os.close(source)
        os.close(sink)


def _by_read(address: int) -> int:
    with filled_pipe(LATE) as source:
        return libc.checked(libc.LIBC.read(source, ctypes.c_void_p(address), len(LATE)), "read")


def _by_readv(address: int) -> int:
    array = (ctypes.c_char * len(LATE)).from_address(address)
    with filled_pipe(LATE) as source:
        return os.readv(source, [memoryview(array)])


def _by_recv(address: int) -> int:
    left, right = socket.socketpair()
    array = (ctypes.c_char * len(LATE)).from_address(address)
    with left, right:
        left.send(LATE)
        return right.recv_into(memoryview(array))


def _by_random(address: int) -> int:
    # Not getrandom(2): since 6.11 the vDSO can serve it without entering the kernel.
    with open("/dev/urandom", "rb", buffering=0) as source:  # noqa: PTH123
        done = libc.LIBC.read(source.fileno(), ctypes.c_void_p(address), len(LATE))
        return libc.checked(done, "read of /dev/urandom")


def _by_ioctl(address: int) -> int:
    # FIONREAD writes one integer: the number of bytes in the pipe.
    with filled_pipe(LATE) as source:
        libc.checked(libc.LIBC.ioctl(source, termios.FIONREAD, ctypes.c_void_p(address)), "ioctl")
    return len(LATE)


_CALLS: dict[str, Callable[[int], int]] = {
    "read": _by_read,
    "readv": _by_readv,
    "recv": _by_recv,
    "urandom": _by_random,
    "ioctl": _by_ioctl,
}


@feature_test("R23", memory=_KINDS, variants=_CALLS, needs=_NEEDS)
def a_system_call_waits(trial: Trial, variant: str) -> None:
    """A system call that writes to a protected page waits for the release, and then completes."""
    region, uffd = trial.protected()
    done = write_waits(trial, region, uffd, 2, write=_CALLS[variant])
    trial.equal(done, len(LATE), f"The result of {variant}")
    trial.equal(uffd.read_events(0), [], "Further events")


@feature_test("R23", memory=(ANON, SHMEM), needs=_NEEDS)
def a_long_read_waits_for_each_page(trial: Trial) -> None:
    """One read(2) into four protected pages waits for each of them, and returns the full count."""
    region, uffd = trial.protected()
    length = 4 * PAGE_BYTES
    source = trial.enter(filled_pipe(b"L" * length))
    with CallThread(trial, libc.LIBC.read, source, ctypes.c_void_p(region.at(2)), length) as thread:
        seen = []
        while blocked(trial, uffd, thread):
            page = page_of(region, next_fault(trial, uffd, thread))
            trial.check_content(region, [page])
            seen.append(page)
            release(uffd, region, page)
        trial.equal(thread.finish(), length, "The result of read")
    trial.equal(sorted(set(seen)), [2, 3, 4, 5], "The pages of the events")
    trial.equal(region.load(2 * PAGE_BYTES, length), b"L" * length, "The content of the pages")


@feature_test("R23", memory=(ANON, SHMEM, HUGETLB), variants=_CALLS)
def mprotect_fails_a_system_call(trial: Trial, variant: str) -> None:
    """A system call that writes to memory under mprotect fails with EFAULT, without a signal.

    This is why a background snapshot by mprotect breaks guest I/O.
    """
    region = trial.region()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    trial.expect_errno(errno.EFAULT, f"{variant} into read-only memory", _CALLS[variant], region.at(2))
    trial.check_content(region)


@feature_test("R25", memory=(ANON, SHMEM), variants=("direct-read", "process-vm-writev", "io-uring"))
def mprotect_fails_whoever_writes(trial: Trial, variant: str) -> None:
    """Under mprotect, a read with O_DIRECT, process_vm_writev and io_uring fail with EFAULT too."""
    reason = missing_need("io-uring") if variant == "io-uring" else missing_need(f"store:{variant}")
    if reason:
        trial.skip(reason)
    region = trial.region()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    if variant == "io-uring":
        ring = trial.enter(Uring())
        done = ring.read(_file(trial), region.at(2), PAGE_BYTES, fixed=False)
        trial.equal(done, -errno.EFAULT, "The result of io_uring")
    else:
        store = stores.STORES[variant]()
        trial.expect_errno(
            errno.EFAULT, f"{variant} into read-only memory", store, region.at(2), bytes(PAGE_BYTES)
        )
    trial.check_content(region)


@feature_test("R23", memory=(ANON,))
def user_mode_only_fails_a_system_call(trial: Trial) -> None:
    """With UFFD_USER_MODE_ONLY (5.11) a store waits, and a system call fails with EFAULT."""
    region = trial.region()
    try:
        uffd = trial.enter(Userfaultfd(trial.features, user_mode_only=True))
    except OSError as error:
        trial.skip(f"The kernel has no UFFD_USER_MODE_ONLY: {error}.")
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    trial.expect_errno(errno.EFAULT, "read into a protected page", _by_read, region.at(2))
    trial.equal(uffd.read_events(0), [], "The events of a fault in kernel mode")
    trial.check_content(region)
    write_waits(trial, region, uffd, 2)


@feature_test("R25", memory=(ANON, ANON_THP, SHMEM, HUGETLB), needs=("kernel-faults", "store:direct-read"))
def a_direct_read_waits(trial: Trial) -> None:
    """A read with O_DIRECT, which pins its buffer, waits for a page that was protected before."""
    region, uffd = trial.protected()
    store = stores.by_direct_read()
    data = b"D" * PAGE_BYTES
    write_waits(trial, region, uffd, 2, write=lambda address: store(address, data))
    trial.equal(region.load(2 * region.page_bytes, PAGE_BYTES), data, "The content of page 2")


@feature_test("R25", memory=(ANON, SHMEM), needs=("kernel-faults", "io-uring"))
def a_read_by_io_uring_waits(trial: Trial) -> None:
    """A read by io_uring into a protected page waits for the release, and then completes."""
    region, uffd = trial.protected()
    file = _file(trial)
    ring = trial.enter(Uring())
    done = write_waits(
        trial, region, uffd, 2, write=lambda address: ring.read(file, address, PAGE_BYTES, fixed=False)
    )
    trial.equal(done, PAGE_BYTES, "The result of io_uring")


@feature_test("R25", memory=(ANON, SHMEM), needs=("kernel-faults", "io-uring"))
def a_pinned_buffer_is_not_protected(trial: Trial) -> None:
    """READ_FIXED of io_uring into a buffer that was pinned before protection writes without waiting.

    This is a limitation of UFFD-WP, which the test asserts.
    """
    region, uffd = trial.region(), trial.uffd()
    ring = trial.enter(Uring())
    try:
        ring.register_buffer(region)
    except OSError as error:
        trial.skip(f"This user may not pin 8 pages: {error}.")
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    with CallThread(trial, _fixed, ring, _file(trial), region) as thread:
        trial.check(
            not thread.waits(trial.patience),
            "A read into a pinned buffer waits; no known kernel does that.",
        )
        trial.equal(thread.finish(), PAGE_BYTES, "The result of io_uring")
    trial.equal(uffd.read_events(0), [], "The events")
    trial.equal(region.load(2 * PAGE_BYTES, PAGE_BYTES), b"U" * PAGE_BYTES, "The content of page 2")
    trial.note("writes to pages pinned before protection (VFIO, vhost, registered buffers) reach a snapshot")
    write_waits(trial, region, uffd, 3)


def _fixed(ring: Uring, file: int, region: Region) -> int:
    return ring.read(file, region.at(2), PAGE_BYTES, fixed=True)


def _file(trial: Trial) -> int:
    file = trial.enter(tempfile.TemporaryFile())  # noqa: SIM115
    file.write(b"U" * PAGE_BYTES)
    file.flush()
    return file.fileno()


@feature_test("R23", memory=(ANON,), needs=_NEEDS)
def a_signal_does_not_break_a_waiting_call(trial: Trial) -> None:
    """A read(2) that waits for a page goes on waiting after SIGSTOP and SIGCONT, and completes."""
    region, uffd = trial.protected()
    with CallThread(trial, _by_read, region.at(2)) as thread:
        next_fault(trial, uffd, thread)
        pid = os.fork()
        if pid == 0:
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.waitpid(pid, 0)
        trial.check(thread.waits(), "The read no longer waits after SIGSTOP and SIGCONT.")
        trial.check_content(region, [2])
        release(uffd, region, 2)
        trial.equal(thread.finish(), len(LATE), "The result of read")
