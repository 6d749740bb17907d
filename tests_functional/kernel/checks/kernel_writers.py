"""The kernel itself writes into protected memory: system calls, other processes, disks and io_uring."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import tempfile
import termios
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Region, Userfaultfd, libc
from validators.trackers import stores

from ..memory import ANON, ANON_THP, ANON_ZERO, HUGETLB, MEMFD, SHMEM
from ..needs import missing_need
from ..registry import feature_test
from ..traps import LATE, Doer, held, next_fault, page_of, release, write_waits
from ..trial import Trial
from ..uring import Uring

_KINDS = (ANON, ANON_ZERO, ANON_THP, SHMEM, MEMFD, HUGETLB)
_NEEDS = ("kernel-faults",)


def _by_read(address: int) -> int:
    source, sink = os.pipe()
    os.write(sink, LATE)
    return libc.checked(libc.LIBC.read(source, ctypes.c_void_p(address), len(LATE)), "read")


def _by_readv(address: int) -> int:
    source, sink = os.pipe()
    os.write(sink, LATE)
    array = (ctypes.c_char * len(LATE)).from_address(address)
    return os.readv(source, [memoryview(array)])


def _by_recv(address: int) -> int:
    left, right = socket.socketpair()
    left.send(LATE)
    array = (ctypes.c_char * len(LATE)).from_address(address)
    return right.recv_into(memoryview(array))


def _by_random(address: int) -> int:
    # Not getrandom(2), which need not enter the kernel since 6.11.
    source = os.open("/dev/urandom", os.O_RDONLY)
    return libc.checked(libc.LIBC.read(source, ctypes.c_void_p(address), len(LATE)), "read of /dev/urandom")


def _by_ioctl(address: int) -> int:
    source, sink = os.pipe()
    os.write(sink, LATE)
    # FIONREAD puts one integer: the number of bytes in the pipe.
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
    """A system call that writes into a protected page waits for the release and then does all of its work."""
    region, uffd = trial.protected()
    done = write_waits(trial, region, uffd, 2, write=_CALLS[variant])
    trial.equal(done, len(LATE), f"What {variant} returned")
    trial.equal(uffd.read_events(0), [], "What was told besides")


@feature_test("R23", memory=(ANON, SHMEM), needs=_NEEDS)
def a_long_read_waits_for_each_page(trial: Trial) -> None:
    """One read(2) over four protected pages waits four times and returns the full count."""
    region, uffd = trial.protected()
    source, sink = os.pipe()
    length = 4 * PAGE_BYTES
    os.write(sink, b"L" * length)
    with Doer(trial, libc.LIBC.read, source, ctypes.c_void_p(region.at(2)), length) as doer:
        seen = []
        while held(trial, uffd, doer):
            page = page_of(region, next_fault(trial, uffd, doer))
            trial.intact(region, [page])
            seen.append(page)
            release(uffd, region, page)
        trial.equal(doer.finish(), length, "What read returned")
    trial.equal(sorted(set(seen)), [2, 3, 4, 5], "The pages told")
    trial.equal(region.load(2 * PAGE_BYTES, length), b"L" * length, "What was read")


@feature_test("R23", memory=(ANON, SHMEM, HUGETLB), variants=_CALLS)
def mprotect_fails_a_system_call(trial: Trial, variant: str) -> None:
    """The same call into memory under mprotect is EFAULT, without a signal.

    Why that design breaks guest I/O.
    """
    region = trial.region()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    trial.refuses(errno.EFAULT, f"{variant} into read-only memory", _CALLS[variant], region.at(2))
    trial.intact(region)


@feature_test("R25", memory=(ANON, SHMEM), variants=("direct-read", "process-vm-writev", "io-uring"))
def mprotect_fails_whoever_writes(trial: Trial, variant: str) -> None:
    """A disk read, another process's write and io_uring into memory under mprotect are EFAULT too."""
    reason = missing_need("io-uring") if variant == "io-uring" else missing_need(f"store:{variant}")
    if reason:
        trial.skip(reason)
    region = trial.region()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    if variant == "io-uring":
        done = Uring().read(_file(), region.at(2), PAGE_BYTES, fixed=False)
        trial.equal(done, -errno.EFAULT, "What io_uring returned")
    else:
        store = stores.STORES[variant]()
        trial.refuses(
            errno.EFAULT, f"{variant} into read-only memory", store, region.at(2), bytes(PAGE_BYTES)
        )
    trial.intact(region)


@feature_test("R23", memory=(ANON,))
def user_mode_only_fails_a_system_call(trial: Trial) -> None:
    """With UFFD_USER_MODE_ONLY (5.11) a store waits and a system call into a protected page is EFAULT."""
    region = trial.region()
    try:
        uffd = trial.enter(Userfaultfd(trial.features, user_mode_only=True))
    except OSError as error:
        trial.skip(f"The kernel has no UFFD_USER_MODE_ONLY: {error}.")
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    trial.refuses(errno.EFAULT, "read into a protected page", _by_read, region.at(2))
    trial.equal(uffd.read_events(0), [], "What was told of a fault of the kernel")
    trial.intact(region)
    write_waits(trial, region, uffd, 2)


@feature_test("R25", memory=(ANON, ANON_THP, SHMEM, HUGETLB), needs=("kernel-faults", "store:direct-read"))
def a_direct_read_waits(trial: Trial) -> None:
    """A read with O_DIRECT, which pins its buffer, waits if the page was protected before."""
    region, uffd = trial.protected()
    store = stores.by_direct_read()
    data = b"D" * PAGE_BYTES
    write_waits(trial, region, uffd, 2, write=lambda address: store(address, data))
    trial.equal(region.load(2 * region.page_bytes, PAGE_BYTES), data, "What was read")


@feature_test("R25", memory=(ANON, SHMEM), needs=("kernel-faults", "io-uring"))
def a_read_by_io_uring_waits(trial: Trial) -> None:
    """io_uring READ into a protected page waits and then reads all."""
    region, uffd = trial.protected()
    file = _file()
    ring = Uring()
    done = write_waits(
        trial, region, uffd, 2, write=lambda address: ring.read(file, address, PAGE_BYTES, fixed=False)
    )
    trial.equal(done, PAGE_BYTES, "What io_uring returned")
    ring.close()


@feature_test("R25", memory=(ANON, SHMEM), needs=("kernel-faults", "io-uring"))
def a_pinned_buffer_is_not_protected(trial: Trial) -> None:
    """io_uring READ_FIXED into a buffer registered before writes past protection.

    A limitation of UFFD-WP, asserted.
    """
    region, uffd = trial.region(), trial.uffd()
    ring = Uring()
    try:
        ring.register_buffer(region)
    except OSError as error:
        trial.skip(f"This user may not pin 8 pages: {error}.")
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    with Doer(trial, _fixed, ring, _file(), region) as doer:
        trial.check(
            not doer.waits(trial.patience), "A read into a pinned buffer waits; it is documented not to."
        )
        trial.equal(doer.finish(), PAGE_BYTES, "What io_uring returned")
    trial.equal(uffd.read_events(0), [], "What was told")
    trial.equal(region.load(2 * PAGE_BYTES, PAGE_BYTES), b"U" * PAGE_BYTES, "The protected page")
    trial.note(
        "pages pinned before they are protected (VFIO, vhost, registered buffers) are not in a snapshot of T0"
    )
    write_waits(trial, region, uffd, 3)
    ring.close()


def _fixed(ring: Uring, file: int, region: Region) -> int:
    return ring.read(file, region.at(2), PAGE_BYTES, fixed=True)


def _file() -> int:
    with tempfile.TemporaryFile() as file:
        file.write(b"U" * PAGE_BYTES)
        file.flush()
        return os.dup(file.fileno())


@feature_test("R23", memory=(ANON,), needs=_NEEDS)
def a_signal_does_not_break_a_waiting_call(trial: Trial) -> None:
    """A stop and a continue of the whole process leave a waiting read(2) waiting, and it completes."""
    region, uffd = trial.protected()
    with Doer(trial, _by_read, region.at(2)) as doer:
        next_fault(trial, uffd, doer)
        pid = os.fork()
        if pid == 0:
            os.kill(os.getppid(), signal.SIGSTOP)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.waitpid(pid, 0)
        trial.check(doer.waits(), "The call did not wait on after SIGSTOP and SIGCONT.")
        trial.intact(region, [2])
        release(uffd, region, 2)
        trial.equal(doer.finish(), len(LATE), "What read returned")
