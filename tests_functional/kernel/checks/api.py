"""Feature tests of the userfaultfd API: creation, handshake, registration, protection, and their errnos."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from harness.userfaultfd import (
    FEATURE_SINCE,
    PAGE_BYTES,
    Feature,
    Mode,
    Region,
    Userfaultfd,
    UserfaultfdError,
    abi,
    create,
    libc,
)

from .. import memory
from ..calls import CallThread
from ..memory import ANON, EVERY, SHMEM, SMALL
from ..needs import may_trap_kernel, offered
from ..oracle import all_wait, check_pagemap, next_fault, page_of, write_passes, write_waits
from ..registry import feature_test
from ..trial import Trial

_WP = Feature.PAGEFAULT_FLAG_WP
_DEPENDS_ON = {int(Feature.RWP_ASYNC): int(Feature.RWP)}


@feature_test("R01")
def a_descriptor_is_made_or_refused_with_a_known_errno(trial: Trial) -> None:
    """The system call, UFFD_USER_MODE_ONLY and the device each give a close-on-exec fd or a known errno."""
    ways = {
        "system call": (create.by_system_call, (errno.EPERM, errno.ENOSYS)),
        "user mode only": (_user_mode_only, (errno.EPERM, errno.EINVAL)),
        "device": (create.by_device, (errno.ENOENT, errno.EACCES, errno.EPERM)),
    }
    for name, (make, codes) in ways.items():
        try:
            descriptor = make()
        except UserfaultfdError as error:
            trial.check(error.errno in codes, f"The {name} failed with {error}, expected errno {codes}.")
            trial.note(f"{name}: {error}")
            continue
        trial.check(not os.get_inheritable(descriptor), f"The descriptor by {name} is not close-on-exec.")
        trial.note(f"{name}: works")
        os.close(descriptor)


@feature_test("R01")
def a_wrong_handshake_is_refused(trial: Trial) -> None:
    """UFFDIO_API with a wrong magic, an unknown feature, or for the second time fails with EINVAL.

    The second handshake: 2ff559f31a5d.
    """
    for what, features, magic in (
        ("UFFDIO_API with a wrong magic", 0, 0xAB),
        ("UFFDIO_API with feature bit 63", 1 << 63, abi.UFFD_API),
        # Without EVENT_FORK, which fails with EPERM before the others are checked.
        ("UFFDIO_API with all other feature bits", (1 << 64) - 1 - Feature.EVENT_FORK, abi.UFFD_API),
    ):
        with Userfaultfd.adopt(_descriptor(), 0) as uffd:
            trial.expect_errno(errno.EINVAL, what, create.handshake, uffd.fileno(), features, magic)
    with Userfaultfd.adopt(_descriptor(), 0) as uffd:
        create.handshake(uffd.fileno())
        trial.expect_errno(errno.EINVAL, "A second handshake", create.handshake, uffd.fileno())


@feature_test("R01")
def every_offered_feature_can_be_switched_on(trial: Trial) -> None:
    """Every offered feature can be enabled alone, and all but the privileged EVENT_FORK together."""
    all_of_them = offered() & ~int(Feature.EVENT_FORK)
    # An unknown feature is not tried alone: it may depend on another one.
    alone = [int(feature) for feature in FEATURE_SINCE if feature & all_of_them]
    for features in (*(bits | _DEPENDS_ON.get(bits, 0) for bits in alone), all_of_them):
        with Userfaultfd(features, user_mode_only=not may_trap_kernel()):
            trial.check(True, "")
    trial.note(f"offered: {offered():#x}")


@feature_test("R02", memory=EVERY, features=_WP, bugs=("00b151f21f39", "14819305e09f"))
def registration_says_what_works(trial: Trial) -> None:
    """Registration for WP offers WRITEPROTECT, one for MISSING does not; a file on a disk gives EINVAL."""
    region = trial.region()
    uffd = trial.uffd(_WP)
    if trial.memory is memory.FILE_PRIVATE:
        what = "Registration of a file for WP"
        trial.expect_errno(errno.EINVAL, what, uffd.register, region.address, region.length, Mode.WP)
        return
    ioctls = uffd.register(region.address, region.length, Mode.WP)
    trial.check({"WAKE", "WRITEPROTECT"} <= ioctls, f"Registration for WP offers only {sorted(ioctls)}.")
    uffd.unregister(region.address, region.length)
    ioctls = uffd.register(region.address, region.length, Mode.MISSING)
    trial.check({"WAKE", "COPY"} <= ioctls, f"Registration for MISSING offers only {sorted(ioctls)}.")
    trial.check("WRITEPROTECT" not in ioctls, "Registration for MISSING alone offers WRITEPROTECT.")


@feature_test("R02", bugs=("00b151f21f39",))
def without_the_feature_wp_is_refused(trial: Trial) -> None:
    """A kernel without PAGEFAULT_FLAG_WP refuses registration for WP (EINVAL) and UFFDIO_WRITEPROTECT."""
    if offered() & _WP:
        trial.skip("The kernel offers PAGEFAULT_FLAG_WP.")
    region, uffd = trial.region(), trial.uffd()
    trial.expect_errno(
        errno.EINVAL, "Registration for WP", uffd.register, region.address, region.length, Mode.WP
    )
    ioctls = uffd.register(region.address, region.length, Mode.MISSING)
    trial.check("COPY" in ioctls, f"Registration for MISSING offers only {sorted(ioctls)}.")
    trial.check("WRITEPROTECT" not in ioctls, "WRITEPROTECT is offered without PAGEFAULT_FLAG_WP.")
    codes = (errno.ENOENT, errno.EINVAL)
    trial.expect_errno(codes, "UFFDIO_WRITEPROTECT", uffd.write_protect, region.address, region.length)
    write_passes(trial, region, uffd, 1)


@feature_test("R02", memory=(ANON, SHMEM), features=_WP)
def a_wrong_registration_is_refused(trial: Trial) -> None:
    """Registration with a wrong mode, range or memory fails with EINVAL, with another userfaultfd EBUSY.

    Wrong are: no or an unknown mode, an empty or unaligned range, an unmapped range (EINVAL or ENOMEM), and
    MINOR on anonymous memory.
    """
    region, uffd = trial.region(), trial.uffd()
    address, length = region.address, region.length
    wrong = {
        "no mode": (address, length, 0),
        "an unknown mode": (address, length, 1 << 20),
        "an empty range": (address, 0, Mode.WP),
        "an unaligned address": (address + 1, length, Mode.WP),
        "an unaligned length": (address, length - 1, Mode.WP),
        "a range that wraps": (address, (1 << 64) - PAGE_BYTES, Mode.WP),
    }
    for what, arguments in wrong.items():
        trial.expect_errno(errno.EINVAL, f"Registration with {what}", uffd.register, *arguments)
    if trial.memory is ANON:
        what = "Registration of anonymous memory for MINOR"
        trial.expect_errno(errno.EINVAL, what, uffd.register, address, length, Mode.MINOR)
    with Region.anonymous(PAGE_BYTES) as hole:
        gone = hole.address
    codes = (errno.EINVAL, errno.ENOMEM)
    trial.expect_errno(codes, "Registration of unmapped memory", uffd.register, gone, PAGE_BYTES, Mode.WP)
    other = trial.uffd()
    uffd.register(address, length)
    what = "Registration with a second userfaultfd"
    trial.expect_errno(errno.EBUSY, what, other.register, address, length)


@feature_test("R03", features=_WP, bugs=("20260618095017.2553004-1-rppt@kernel.org",))
def special_mappings_are_refused(trial: Trial) -> None:
    """Registration of the vDSO and its data for WP fails with EINVAL or EPERM."""
    uffd = trial.uffd()
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.split()[-1]
        if name in {"[vdso]", "[vvar]", "[vvar_vclock]"}:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            codes = (errno.EINVAL, errno.EPERM)
            trial.expect_errno(codes, f"Registration of {name}", uffd.register, start, end - start, Mode.WP)
    if not trial.checks:
        trial.skip("This process has no vDSO.")


@feature_test("R04", memory=SMALL, bugs=("RWP series of 2026",))
def registering_anew_without_wp_leaves_nothing_stuck(trial: Trial) -> None:
    """A second registration for MISSING only fails with EBUSY, or writes then pass without an event."""
    region, uffd = trial.protected()
    try:
        uffd.register(region.address, region.length, Mode.MISSING)
    except UserfaultfdError as error:
        trial.equal(error.errno, errno.EBUSY, "The errno of the second registration")
        write_waits(trial, region, uffd, 1)
        return
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    libc.mprotect(region.address, region.length, libc.PROT_READ | libc.PROT_WRITE)
    write_passes(trial, region, uffd, 1, "is registered for MISSING only")


@feature_test("R05", memory=SMALL)
def a_wrong_protection_is_refused(trial: Trial) -> None:
    """UFFDIO_WRITEPROTECT with a wrong range or mode fails with EINVAL, without registration with ENOENT.

    Wrong are: an empty or unaligned range, an unknown mode, and WP together with DONTWAKE.
    """
    region, uffd = trial.protected()
    address, length = region.address, region.length
    for what, arguments, mode in (
        ("an empty range", (address, 0), 1),
        ("an unaligned address", (address + 8, PAGE_BYTES), 1),
        ("an unaligned length", (address, PAGE_BYTES + 8), 1),
        ("WP and DONTWAKE", (address, length), 3),
        ("an unknown mode", (address, length), 4),
    ):
        call = f"UFFDIO_WRITEPROTECT with {what}"
        trial.expect_errno(errno.EINVAL, call, uffd.write_protect, *arguments, mode=mode)
    with Region.anonymous(PAGE_BYTES) as plain:
        what = "Protection of unregistered memory"
        trial.expect_errno(errno.ENOENT, what, uffd.write_protect, plain.address, PAGE_BYTES)
        uffd.register(plain.address, PAGE_BYTES, Mode.MISSING)
        what = "Protection of memory registered for MISSING"
        trial.expect_errno(errno.ENOENT, what, uffd.write_protect, plain.address, PAGE_BYTES)
    what = "Protection of unmapped memory"
    trial.expect_errno(errno.ENOENT, what, uffd.write_protect, plain.address, PAGE_BYTES)
    check_pagemap(trial, region, range(region.pages))
    trial.check_content(region)


@feature_test("R05", memory=memory.HUGE)
def a_part_of_a_huge_page_is_refused(trial: Trial) -> None:
    """Protection of a part of a reserved huge page fails with EINVAL."""
    region, uffd = trial.protected(4)
    for address, length in ((region.address, PAGE_BYTES), (region.address + PAGE_BYTES, region.page_bytes)):
        what = "Protection of a part of a huge page"
        trial.expect_errno(errno.EINVAL, what, uffd.write_protect, address, length)
    trial.check_content(region)


@feature_test("R05", memory=(ANON,), bugs=("a1b92a3f1498",))
def a_range_of_two_mappings_is_protected_whole_or_refused(trial: Trial) -> None:
    """One call over two mappings protects both (6.4) or fails with ENOENT (before); it never protects one."""
    region, uffd = trial.region(), trial.uffd()
    # MADV_DONTDUMP (16) only splits the mapping in two.
    libc.madvise(region.at(4), region.length // 2, 16)
    uffd.register(region.address, region.length)
    try:
        uffd.write_protect(region.address, region.length)
    except UserfaultfdError as error:
        trial.equal(error.errno, errno.ENOENT, "The errno of protection over two mappings")
        trial.note("one UFFDIO_WRITEPROTECT cannot span two mappings (before 6.4)")
        return
    all_wait(trial, region, uffd)


@feature_test("R06", memory=SMALL)
def a_release_without_wake_needs_a_wake(trial: Trial) -> None:
    """After a release with DONTWAKE the writer still waits; UFFDIO_WAKE then lets it go on."""
    region, uffd = trial.protected()
    with CallThread(trial, libc.store, region.at(2), b"x") as thread:
        next_fault(trial, uffd, thread)
        uffd.write_protect(region.at(2), PAGE_BYTES, protect=False, wake=False)
        trial.check(thread.waits(), "A release with DONTWAKE woke the writer.")
        uffd.wake(region.at(2), PAGE_BYTES)
    trial.equal(region.load(2 * PAGE_BYTES, 1), b"x", "The content of page 2")


@feature_test("R06", memory=SMALL)
def a_wake_on_a_protected_page_leaks_nothing(trial: Trial) -> None:
    """UFFDIO_WAKE on a protected page makes the writer fault again; its write does not reach the page."""
    region, uffd = trial.protected()
    with CallThread(trial, libc.store, region.at(2), b"x") as thread:
        for _ in range(3):
            trial.equal(page_of(region, next_fault(trial, uffd, thread)), 2, "The page of the fault")
            trial.check_content(region, [2])
            uffd.wake(region.at(2), PAGE_BYTES)
        next_fault(trial, uffd, thread)
        uffd.write_protect(region.at(2), PAGE_BYTES, protect=False)


def _user_mode_only() -> int:
    return create.by_system_call(user_mode_only=True)


def _descriptor() -> int:
    return create.by_any(user_mode_only=not may_trap_kernel())[0]


@feature_test("R02", features=_WP)
def a_descriptor_without_handshake_does_nothing(trial: Trial) -> None:
    """Before UFFDIO_API, UFFDIO_REGISTER and read(2) of the descriptor fail with EINVAL."""
    region = trial.region()
    with Userfaultfd.adopt(_descriptor(), 0) as uffd:
        trial.expect_errno(errno.EINVAL, "Registration", uffd.register, region.address, region.length)
        buffer = ctypes.create_string_buffer(abi.MESSAGE_BYTES)
        result = libc.LIBC.read(uffd.fileno(), buffer, len(buffer))
        trial.equal((result, ctypes.get_errno()), (-1, errno.EINVAL), "Result and errno of read(2)")
