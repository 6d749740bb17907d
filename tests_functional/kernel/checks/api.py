"""The interface: how a userfaultfd is made, what can be registered, and what is refused with which errno."""

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
from ..memory import ANON, EVERY, SHMEM, SMALL
from ..needs import may_trap_kernel, offered
from ..registry import feature_test
from ..traps import Doer, all_wait, marked, next_fault, page_of, write_passes, write_waits
from ..trial import Trial

_WP = Feature.PAGEFAULT_FLAG_WP
_TOGETHER = {int(Feature.RWP_ASYNC): int(Feature.RWP)}


@feature_test("R01")
def a_descriptor_is_made_or_refused_with_a_known_errno(trial: Trial) -> None:
    """System call, user mode only and device give a descriptor that is not inherited, or a known errno."""
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
        trial.check(not os.get_inheritable(descriptor), f"The descriptor of the {name} lives through exec.")
        trial.note(f"{name}: works")
        os.close(descriptor)


@feature_test("R01")
def a_wrong_handshake_is_refused(trial: Trial) -> None:
    """A wrong magic and an unknown feature are EINVAL.

    So is a second handshake on the same descriptor (2ff559f31a5d).
    """
    for what, features, magic in (
        ("A wrong magic", 0, 0xAB),
        ("Feature bit 63", 1 << 63, abi.UFFD_API),
        # Without EVENT_FORK, which is refused by EPERM before the others are looked at.
        ("All other features at once, known or not,", (1 << 64) - 1 - Feature.EVENT_FORK, abi.UFFD_API),
    ):
        with Userfaultfd.adopt(_descriptor(), 0) as uffd:
            trial.refuses(errno.EINVAL, what, create.handshake, uffd.fileno(), features, magic)
    with Userfaultfd.adopt(_descriptor(), 0) as uffd:
        create.handshake(uffd.fileno())
        trial.refuses(errno.EINVAL, "A second handshake", create.handshake, uffd.fileno())


@feature_test("R01")
def every_offered_feature_can_be_switched_on(trial: Trial) -> None:
    """What the kernel lists it also accepts, each alone and all but the privileged EVENT_FORK together."""
    all_of_them = offered() & ~int(Feature.EVENT_FORK)
    # Of a feature that we do not know we do not know either what it goes with.
    alone = [int(feature) for feature in FEATURE_SINCE if feature & all_of_them]
    for features in (*(bits | _TOGETHER.get(bits, 0) for bits in alone), all_of_them):
        with Userfaultfd(features, user_mode_only=not may_trap_kernel()):
            trial.check(True, "")
    trial.note(f"offered: {offered():#x}")


@feature_test("R02", memory=EVERY, features=_WP, bugs=("00b151f21f39", "14819305e09f"))
def registration_says_what_works(trial: Trial) -> None:
    """Memory is registered for WP exactly if the kernel then offers WRITEPROTECT on it.

    A file on a disk is EINVAL.
    """
    region = trial.region()
    uffd = trial.uffd(_WP)
    if trial.memory is memory.FILE_PRIVATE:
        trial.refuses(errno.EINVAL, "WP on a file", uffd.register, region.address, region.length, Mode.WP)
        return
    ioctls = uffd.register(region.address, region.length, Mode.WP)
    trial.check(
        {"WAKE", "WRITEPROTECT"} <= ioctls, f"Registered for WP, and only {sorted(ioctls)} are offered."
    )
    uffd.unregister(region.address, region.length)
    ioctls = uffd.register(region.address, region.length, Mode.MISSING)
    trial.check({"WAKE", "COPY"} <= ioctls, f"Registered for MISSING, and only {sorted(ioctls)} are offered.")
    trial.check("WRITEPROTECT" not in ioctls, "Not registered for WP, and WRITEPROTECT is offered.")


@feature_test("R02", bugs=("00b151f21f39",))
def without_the_feature_wp_is_refused(trial: Trial) -> None:
    """A kernel that does not offer PAGEFAULT_FLAG_WP refuses to register for it (EINVAL) and to protect."""
    if offered() & _WP:
        trial.skip("The kernel offers PAGEFAULT_FLAG_WP.")
    region, uffd = trial.region(), trial.uffd()
    trial.refuses(errno.EINVAL, "WP", uffd.register, region.address, region.length, Mode.WP)
    ioctls = uffd.register(region.address, region.length, Mode.MISSING)
    trial.check("COPY" in ioctls, f"Registered for MISSING, and only {sorted(ioctls)} are offered.")
    trial.check("WRITEPROTECT" not in ioctls, "WRITEPROTECT is offered without PAGEFAULT_FLAG_WP.")
    codes = (errno.ENOENT, errno.EINVAL)
    trial.refuses(codes, "Protecting", uffd.write_protect, region.address, region.length)
    write_passes(trial, region, uffd, 1)


@feature_test("R02", memory=(ANON, SHMEM), features=_WP)
def a_wrong_registration_is_refused(trial: Trial) -> None:
    """No or an unknown mode, an empty or unaligned range, a hole and MINOR on anonymous memory are EINVAL."""
    region, uffd = trial.region(), trial.uffd()
    address, length = region.address, region.length
    wrong = {
        "No mode": (address, length, 0),
        "An unknown mode": (address, length, 1 << 20),
        "An empty range": (address, 0, Mode.WP),
        "An unaligned address": (address + 1, length, Mode.WP),
        "An unaligned length": (address, length - 1, Mode.WP),
        "A range that wraps": (address, (1 << 64) - PAGE_BYTES, Mode.WP),
    }
    for what, arguments in wrong.items():
        trial.refuses(errno.EINVAL, what, uffd.register, *arguments)
    if trial.memory is ANON:
        trial.refuses(errno.EINVAL, "MINOR on anonymous memory", uffd.register, address, length, Mode.MINOR)
    with Region.anonymous(PAGE_BYTES) as hole:
        gone = hole.address
    trial.refuses((errno.EINVAL, errno.ENOMEM), "A hole", uffd.register, gone, PAGE_BYTES, Mode.WP)
    other = trial.uffd()
    uffd.register(address, length)
    trial.refuses(errno.EBUSY, "Memory of another userfaultfd", other.register, address, length)


@feature_test("R03", features=_WP, bugs=("20260618095017.2553004-1-rppt@kernel.org",))
def special_mappings_are_refused(trial: Trial) -> None:
    """The vDSO and its data are no memory that could be protected: EINVAL or EPERM."""
    uffd = trial.uffd()
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.split()[-1]
        if name in {"[vdso]", "[vvar]", "[vvar_vclock]"}:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            codes = (errno.EINVAL, errno.EPERM)
            trial.refuses(codes, f"WP on {name}", uffd.register, start, end - start, Mode.WP)
    if not trial.checks:
        trial.skip("This process has no vDSO.")


@feature_test("R04", memory=SMALL, bugs=("RWP series of 2026",))
def registering_anew_without_wp_leaves_nothing_stuck(trial: Trial) -> None:
    """Registering protected memory anew for MISSING only is EBUSY, or a write is neither held nor told."""
    region, uffd = trial.protected()
    try:
        uffd.register(region.address, region.length, Mode.MISSING)
    except UserfaultfdError as error:
        trial.equal(error.errno, errno.EBUSY, "The errno of registering anew")
        write_waits(trial, region, uffd, 1)
        return
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    libc.mprotect(region.address, region.length, libc.PROT_READ | libc.PROT_WRITE)
    write_passes(trial, region, uffd, 1, "is registered for MISSING only")


@feature_test("R05", memory=SMALL)
def a_wrong_protection_is_refused(trial: Trial) -> None:
    """Empty, unaligned, unknown mode and WP with DONTWAKE are EINVAL.

    Memory that is not registered for WP is ENOENT.
    """
    region, uffd = trial.protected()
    address, length = region.address, region.length
    for what, arguments, mode in (
        ("An empty range", (address, 0), 1),
        ("An unaligned address", (address + 8, PAGE_BYTES), 1),
        ("An unaligned length", (address, PAGE_BYTES + 8), 1),
        ("WP with DONTWAKE", (address, length), 3),
        ("An unknown mode", (address, length), 4),
    ):
        trial.refuses(errno.EINVAL, what, uffd.write_protect, *arguments, mode=mode)
    with Region.anonymous(PAGE_BYTES) as plain:
        trial.refuses(errno.ENOENT, "Unregistered memory", uffd.write_protect, plain.address, PAGE_BYTES)
        uffd.register(plain.address, PAGE_BYTES, Mode.MISSING)
        trial.refuses(errno.ENOENT, "Memory without WP", uffd.write_protect, plain.address, PAGE_BYTES)
    trial.refuses(errno.ENOENT, "A hole", uffd.write_protect, plain.address, PAGE_BYTES)
    marked(trial, region, range(region.pages))
    trial.intact(region)


@feature_test("R05", memory=memory.HUGE)
def a_part_of_a_huge_page_is_refused(trial: Trial) -> None:
    """A reserved huge page is protected as a whole or not at all: EINVAL."""
    region, uffd = trial.protected(4)
    for address, length in ((region.address, PAGE_BYTES), (region.address + PAGE_BYTES, region.page_bytes)):
        trial.refuses(errno.EINVAL, "A part of a huge page", uffd.write_protect, address, length)
    trial.intact(region)


@feature_test("R05", memory=(ANON,), bugs=("a1b92a3f1498",))
def a_range_of_two_mappings_is_protected_whole_or_refused(trial: Trial) -> None:
    """One call over two mappings protects both (6.4) or is ENOENT (before), never a part in silence."""
    region, uffd = trial.region(), trial.uffd()
    # MADV_DONTDUMP makes the second half a mapping of its own and does nothing else.
    libc.madvise(region.at(4), region.length // 2, 16)
    uffd.register(region.address, region.length)
    try:
        uffd.write_protect(region.address, region.length)
    except UserfaultfdError as error:
        trial.equal(error.errno, errno.ENOENT, "The errno of protecting two mappings at once")
        trial.note("one call cannot span two mappings (before 6.4)")
        return
    all_wait(trial, region, uffd)


@feature_test("R06", memory=SMALL)
def a_release_without_wake_needs_a_wake(trial: Trial) -> None:
    """After a release with DONTWAKE the writer still waits; UFFDIO_WAKE lets it go."""
    region, uffd = trial.protected()
    with Doer(trial, libc.store, region.at(2), b"x") as doer:
        next_fault(trial, uffd, doer)
        uffd.write_protect(region.at(2), PAGE_BYTES, protect=False, wake=False)
        trial.check(doer.waits(), "A release with DONTWAKE woke the writer.")
        uffd.wake(region.at(2), PAGE_BYTES)
    trial.equal(region.load(2 * PAGE_BYTES, 1), b"x", "What was written")


@feature_test("R06", memory=SMALL)
def a_wake_on_a_protected_page_leaks_nothing(trial: Trial) -> None:
    """UFFDIO_WAKE without a release makes the writer fault again; its write does not get through."""
    region, uffd = trial.protected()
    with Doer(trial, libc.store, region.at(2), b"x") as doer:
        for _ in range(3):
            trial.equal(page_of(region, next_fault(trial, uffd, doer)), 2, "The page of the fault")
            trial.intact(region, [2])
            uffd.wake(region.at(2), PAGE_BYTES)
        next_fault(trial, uffd, doer)
        uffd.write_protect(region.at(2), PAGE_BYTES, protect=False)


def _user_mode_only() -> int:
    return create.by_system_call(user_mode_only=True)


def _descriptor() -> int:
    return create.by_any(user_mode_only=not may_trap_kernel())[0]


@feature_test("R02", features=_WP)
def a_descriptor_without_handshake_does_nothing(trial: Trial) -> None:
    """Before UFFDIO_API, register and read are EINVAL."""
    region = trial.region()
    with Userfaultfd.adopt(_descriptor(), 0) as uffd:
        trial.refuses(errno.EINVAL, "Registering", uffd.register, region.address, region.length)
        buffer = ctypes.create_string_buffer(abi.MESSAGE_BYTES)
        result = libc.LIBC.read(uffd.fileno(), buffer, len(buffer))
        trial.equal((result, ctypes.get_errno()), (-1, errno.EINVAL), "Reading")
