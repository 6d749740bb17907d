"""Feature tests of userfaultfd events: their content, and the calls that wait until they are read."""

from __future__ import annotations

import errno

from harness.userfaultfd import PAGE_BYTES, FaultFlag, Feature, Mode, Region, Remove, libc

from ..calls import CallThread
from ..memory import ANON, SHMEM, SMALL
from ..needs import offered
from ..oracle import next_fault, page_of
from ..registry import feature_test
from ..trial import Trial


@feature_test("R28", memory=(ANON, SHMEM), variants=("exact", "page"))
def the_address_is_as_agreed(trial: Trial, variant: str) -> None:
    """A fault's event has the exact address with EXACT_ADDRESS (5.18), without it the page's address."""
    if variant == "exact" and not offered() & Feature.EXACT_ADDRESS:
        trial.skip("The kernel does not offer EXACT_ADDRESS (since 5.18).")
    region, uffd = trial.protected(extra=int(Feature.EXACT_ADDRESS) if variant == "exact" else 0)
    place = region.at(3) + 0x123
    with CallThread(trial, libc.store, place, b"x") as thread:
        event = next_fault(trial, uffd, thread)
        uffd.write_protect(region.at(3), PAGE_BYTES, protect=False)
    if variant == "exact":
        trial.equal(hex(event.address), hex(place), "The address of the event")
    elif offered() & Feature.EXACT_ADDRESS:
        trial.equal(hex(event.address), hex(region.at(3)), "The address of the event")
    else:
        trial.equal(page_of(region, event), 3, "The page of the event")


@feature_test("R28", memory=(ANON,), features=Feature.THREAD_ID)
def the_thread_is_told(trial: Trial) -> None:
    """With THREAD_ID (4.14) a fault's event has the id of the thread that waits."""
    region, uffd = trial.protected()
    with CallThread(trial, libc.store, region.at(1), b"x") as thread:
        event = next_fault(trial, uffd, thread)
        uffd.write_protect(region.at(1), PAGE_BYTES, protect=False)
        trial.equal(event.thread, thread.thread_id, "The thread id of the event")


@feature_test("R29", memory=SMALL, features=Feature.EVENT_REMOVE)
def a_waiting_event_makes_calls_say_again(trial: Trial) -> None:
    """While MADV_DONTNEED waits for its event to be read, ioctls and their output field say EAGAIN."""
    region, uffd = trial.region(), trial.uffd()
    uffd.register(region.address, region.length, Mode.MISSING | Mode.WP)
    source = trial.enter(Region.anonymous(PAGE_BYTES))
    source.fill(1)
    with CallThread(trial, libc.madvise, region.at(6), PAGE_BYTES, libc.MADV_DONTNEED) as thread:
        trial.check(uffd.readable(trial.patience), "MADV_DONTNEED caused no event.")
        trial.check(thread.waits(), "MADV_DONTNEED returned before its event was read.")
        trial.expect_errno(
            errno.EAGAIN, "UFFDIO_WRITEPROTECT", uffd.write_protect, region.address, PAGE_BYTES
        )
        for name, call in (
            ("UFFDIO_COPY", lambda: uffd.copy(region.at(6), source.address, PAGE_BYTES)),
            ("UFFDIO_ZEROPAGE", lambda: uffd.zeropage(region.at(6), PAGE_BYTES)),
        ):
            error = trial.expect_errno(errno.EAGAIN, name, call)
            output = getattr(error, "output", None)
            # Kernels before the fix of 2025 leave the field as it was, which is 0.
            trial.check(
                output in {-errno.EAGAIN, 0},
                f"The output field of {name} is {output}, expected {-errno.EAGAIN}.",
            )
            trial.note(f"{name}: output field {output}")
        trial.equal(uffd.read_events(trial.patience), [Remove(region.at(6), region.at(7))], "The events")


@feature_test("R02", memory=(ANON,), features=Feature.PAGEFAULT_FLAG_WP)
def missing_and_wp_together_tell_which_it_was(trial: Trial) -> None:
    """A write to a missing page has the flag WRITE; filled with COPY_MODE_WP, it faults again with WP."""
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length, Mode.MISSING | Mode.WP)
    source = trial.enter(Region.anonymous(PAGE_BYTES))
    source.store(0, trial.golden(region, 2))
    with CallThread(trial, libc.store, region.at(2), b"x") as thread:
        trial.equal(next_fault(trial, uffd, thread).flags, FaultFlag.WRITE, "The flags of the first fault")
        uffd.copy(region.at(2), source.address, PAGE_BYTES, write_protect=True)
        event = next_fault(trial, uffd, thread)
        trial.equal(event.flags, FaultFlag.WRITE | FaultFlag.WP, "The flags of the second fault")
        trial.check_content(region, [2])
        uffd.write_protect(region.at(2), PAGE_BYTES, protect=False)
