"""Feature tests of close, unregister, the end of monitor or writer, and many writers that wait."""

from __future__ import annotations

import _thread
import errno
import os
import signal
import socket
import threading
import time

from harness.userfaultfd import Feature, Mode, Region, Userfaultfd, UserfaultfdError, libc

from ..calls import CallThread
from ..closing import CLOSING_ISSUES, STALE_BIT, check_goes_on
from ..memory import ANON, ANON_THP, HUGETLB, HUGETLB_PRIVATE, PROTECTABLE, SHMEM
from ..oracle import (
    LATE,
    check_pagemap,
    next_fault,
    page_of,
    release,
    write_passes,
    write_waits,
)
from ..registry import feature_test
from ..trial import Trial
from .preserved import wait_child

_WP = Feature.PAGEFAULT_FLAG_WP
_WRITERS = 300
_LOOKS_ASLEEP, _LOOK_SECONDS = 100, 0.05
"""Looks, so far apart or more, at threads that all sleep and of which none goes on. A look at 300 threads
takes an emulated host longer than they need to go on, and keeps them from it."""


@feature_test(
    "R30",
    memory=PROTECTABLE,
    bugs=("c88033efe9a3",),
    known_issues=CLOSING_ISSUES,
)
def closing_releases_all(trial: Trial) -> None:
    """Closing the userfaultfd wakes a waiting writer and leaves no protection bit behind (CVE-2024-36881)."""
    region, uffd = trial.protected()
    with CallThread(trial, libc.store, region.at(2), LATE) as thread:
        next_fault(trial, uffd, thread)
        uffd.close()
        check_goes_on(trial, thread)
    trial.equal(region.load(2 * region.page_bytes, len(LATE)), LATE, "The content of page 2")
    check_pagemap(trial, region, [])
    write_passes(trial, region, None, 3, "belongs to no userfaultfd any more")
    again = trial.uffd()
    again.register(region.address, region.length)
    write_passes(trial, region, again, 4, "was not protected by the new userfaultfd", STALE_BIT)
    again.write_protect(region.address, region.length)
    write_waits(trial, region, again, 5)


@feature_test("R30", memory=PROTECTABLE)
def unregistering_ends_protection(trial: Trial) -> None:
    """After UFFDIO_UNREGISTER no protection bit is left, and writes pass without an event."""
    region, uffd = trial.protected()
    uffd.unregister(region.address, region.length)
    check_pagemap(trial, region, [])
    trial.check_content(region)
    write_passes(trial, region, uffd, 3, "is not registered any more")


@feature_test("R30", memory=(ANON, SHMEM, HUGETLB), variants=("wp", "missing-and-wp"))
def unregistering_lets_a_writer_go_on(trial: Trial, variant: str) -> None:
    """UFFDIO_UNREGISTER wakes a waiting writer if MISSING is registered too; otherwise UFFDIO_WAKE does."""
    region, uffd = trial.region(), trial.uffd()
    mode = Mode.WP if variant == "wp" else Mode.MISSING | Mode.WP
    uffd.register(region.address, region.length, mode)
    uffd.write_protect(region.address, region.length)
    with CallThread(trial, libc.store, region.at(2), LATE) as thread:
        next_fault(trial, uffd, thread)
        uffd.unregister(region.address, region.length)
        if variant == "wp" and thread.waits(0.3):
            # userfaultfd_unregister() of fs/userfaultfd.c wakes only if userfaultfd_missing(vma).
            trial.note("UFFDIO_UNREGISTER did not wake the writer")
            uffd.wake(region.address, region.length)
    trial.equal(region.load(2 * region.page_bytes, len(LATE)), LATE, "The content of page 2")


@feature_test("R30", memory=(SHMEM, HUGETLB), bugs=("c88033efe9a3",), known_issues=CLOSING_ISSUES)
def closing_releases_markers(trial: Trial) -> None:
    """Closing the userfaultfd also removes the PTE markers of unpopulated pages."""
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    uffd.close()
    check_pagemap(trial, region, [])
    write_passes(trial, region, None, 2, "belongs to no userfaultfd any more")


def _process_with_memory(
    trial: Trial, *, endless: bool = False
) -> tuple[int, Userfaultfd, int, socket.socket]:
    """Fork a child that registers its memory, sends us the userfaultfd, and writes page 2 on our signal.

    The signal is one byte on the returned socket. The child writes once and exits, or goes on if `endless`.

    Returns:
        The child's process id, its userfaultfd, the address of its memory, and the socket.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with Userfaultfd(_WP, user_mode_only=trial.user_mode_only) as uffd:
            region = trial.region()
            uffd.register(region.address, region.length)
            socket.send_fds(theirs, [region.address.to_bytes(8, "little")], [uffd.fileno()])
            theirs.recv(1)
            region.store(2 * region.page_bytes, LATE)
            while endless:
                region.store(0, LATE)
        os._exit(0)
    theirs.close()
    data, descriptors, _, _ = socket.recv_fds(ours, 8, 1)
    trial.check(len(descriptors) == 1, "The child did not send its userfaultfd.")
    return pid, Userfaultfd.adopt(descriptors[0], _WP), int.from_bytes(data, "little"), ours


@feature_test(
    "R31", memory=(ANON, ANON_THP, SHMEM), features=_WP, bugs=("cb185d5f1ebf", "fe4cdc2c4e24"), alone=True
)
def a_killed_process_ends_its_monitors_calls(trial: Trial) -> None:
    """While a process is killed, its monitor's ioctls succeed or give ESRCH, and it dies (CVE-2021-47461)."""
    for _ in range(5):
        pid, uffd, address, control = _process_with_memory(trial, endless=True)
        control.send(b"x")
        code, end, calls = 0, time.monotonic() + trial.patience, 0
        killer = threading.Timer(0.02, os.kill, (pid, signal.SIGKILL))
        killer.start()
        while not code and time.monotonic() < end:
            calls += 1
            try:
                uffd.write_protect(address, trial.memory.step * libc.PAGE_BYTES, protect=bool(calls % 2))
            except UserfaultfdError as error:
                code = error.errno or 0
        killer.join()
        trial.check(
            code in {errno.ESRCH, errno.ENOENT},
            f"UFFDIO_WRITEPROTECT ended with errno {code}, expected ESRCH or ENOENT.",
        )
        trial.equal(wait_child(trial, pid, "A killed process"), -signal.SIGKILL, "The process's exit code")
        uffd.close()
        control.close()
        trial.note(f"{calls} calls, then {errno.errorcode.get(code, code)}")


@feature_test("R31", memory=(ANON, SHMEM), features=_WP)
def a_writer_that_waits_can_be_killed(trial: Trial) -> None:
    """SIGKILL ends a process that waits for a page that no monitor releases."""
    pid, uffd, address, control = _process_with_memory(trial)
    uffd.write_protect(address, 4 * libc.PAGE_BYTES)
    control.send(b"x")
    trial.check(uffd.read_events(trial.patience), "The userfaultfd has no event.")
    os.kill(pid, signal.SIGKILL)
    trial.equal(wait_child(trial, pid, "A killed process"), -signal.SIGKILL, "The process's exit code")
    uffd.close()


@feature_test("R32", memory=(ANON, SHMEM), features=_WP)
def a_writer_waits_until_the_last_descriptor_closes(trial: Trial) -> None:
    """Writers wait until the last descriptor of a userfaultfd is closed, even if its monitor has died.

    The kernel documents this.
    """
    region, uffd = trial.protected()
    monitor = os.fork()
    if monitor == 0:
        time.sleep(0.05)
        os._exit(0)
    with CallThread(trial, libc.store, region.at(2), LATE) as thread:
        next_fault(trial, uffd, thread)
        os.waitpid(monitor, 0)
        other = os.dup(uffd.fileno())
        uffd.close()
        trial.check(thread.waits(0.2), "The writer went on although the userfaultfd is still open.")
        trial.check_content(region, [2])
        os.close(other)
    trial.equal(region.load(2 * region.page_bytes, len(LATE)), LATE, "The content of page 2")


@feature_test("R32", memory=(ANON, SHMEM), features=_WP)
def another_process_can_be_the_monitor(trial: Trial) -> None:
    """A userfaultfd passed over a socket protects and releases the memory of the process that made it."""
    pid, uffd, address, control = _process_with_memory(trial)
    uffd.write_protect(address, 4 * libc.PAGE_BYTES)
    control.send(b"x")
    remote = Region(address, 8 * libc.PAGE_BYTES)
    trial.equal(page_of(remote, next_fault(trial, uffd)), 2, "The page of the fault")
    release(uffd, remote, 2)
    trial.equal(wait_child(trial, pid, "The process whose page was released"), 0, "Its exit code")
    # The memory is another process's: leaving the `with` must not unmap the addresses here.
    remote.length = 0
    uffd.close()


@feature_test("R33", memory=PROTECTABLE, features=Feature.SIGBUS)
def with_sigbus_a_writer_is_signalled(trial: Trial) -> None:
    """With the feature SIGBUS (4.14) a write to a protected page raises SIGBUS and causes no event."""
    region, uffd = trial.protected()
    pid = os.fork()
    if pid == 0:
        # Registration does not outlive a fork, so the child protects its own copy.
        with Userfaultfd(trial.features, user_mode_only=trial.user_mode_only) as own:
            # fork does not copy pages that were only read, and unpopulated pages are not protected.
            region.load()
            own.register(region.address, region.length, Mode.WP)
            own.write_protect(region.address, region.length)
            region.store(2 * region.page_bytes, LATE)
        os._exit(0)
    trial.equal(wait_child(trial, pid, "A writer under SIGBUS"), -signal.SIGBUS, "The writer's exit code")
    trial.equal(uffd.read_events(0), [], "The events")
    trial.check_content(region)


def _others_sleep() -> bool:
    """Return whether no thread of this process but the caller is running or ready to run."""
    own = threading.get_native_id()
    for number in os.listdir("/proc/self/task"):  # noqa: PTH208 (hundreds of threads on an emulated host)
        try:
            with open(f"/proc/self/task/{number}/stat", "rb") as stat:  # noqa: PTH123
                # proc(5): the state follows the name, which is in parentheses.
                state = stat.read().rpartition(b")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) != own and state == b"R":
            return False
    return True


@feature_test("R35", memory=(ANON, ANON_THP, SHMEM, HUGETLB, HUGETLB_PRIVATE), seconds=40)
def many_who_wait_for_one_page_all_go_on(trial: Trial) -> None:
    """300 threads that write to one protected page all wait; one release lets all of them go on."""
    region, uffd = trial.protected()
    slot = 8
    done: list[int] = []

    def write(number: int) -> None:
        libc.store(region.at(2) + slot * number, LATE[:slot])
        done.append(number)

    for number in range(_WRITERS):
        # A Thread would wait for the start of each, for which an emulated host needs as long as for the rest.
        _thread.start_new_thread(write, (number,))
    events = 0
    end = time.monotonic() + trial.patience
    while events < _WRITERS and time.monotonic() < end:
        events += len(uffd.read_events(0.2))
    trial.check(events >= 1, "The userfaultfd has no event.")
    trial.check_content(region, [2])
    trial.check(not done, "A writer went on before its page was released.")
    release(uffd, region, 2)
    looks = 0
    while len(done) < _WRITERS and looks < _LOOKS_ASLEEP:
        # Only threads that all sleep are the kernel's fault; ready ones that starve run the test out of time.
        before = len(done)
        time.sleep(_LOOK_SECONDS)
        looks = looks + 1 if len(done) == before and _others_sleep() else 0
    waiting = _WRITERS - len(done)
    trial.equal(waiting, 0, "Writers that still wait after the release")
    content = region.load(2 * region.page_bytes, slot * _WRITERS)
    trial.equal(content, LATE[:slot] * _WRITERS, "The content of page 2")
    trial.note(f"{events} events for {_WRITERS} threads")
