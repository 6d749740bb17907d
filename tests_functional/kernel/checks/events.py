"""What is told of a fault, and what waits until it has been read."""

from __future__ import annotations

import errno

from harness.userfaultfd import PAGE_BYTES, FaultFlag, Feature, Mode, Region, Remove, libc

from ..memory import ANON, SHMEM, SMALL
from ..needs import offered
from ..registry import feature_test
from ..traps import Doer, next_fault, page_of
from ..trial import Trial


@feature_test("R28", memory=(ANON, SHMEM), variants=("exact", "page"))
def the_address_is_as_agreed(trial: Trial, variant: str) -> None:
    """With EXACT_ADDRESS (5.18) a fault tells the very byte, without it at least the page."""
    if variant == "exact" and not offered() & Feature.EXACT_ADDRESS:
        trial.skip("The kernel does not offer EXACT_ADDRESS (since 5.18).")
    region, uffd = trial.protected(extra=int(Feature.EXACT_ADDRESS) if variant == "exact" else 0)
    place = region.at(3) + 0x123
    with Doer(trial, libc.store, place, b"x") as doer:
        event = next_fault(trial, uffd, doer)
        uffd.write_protect(region.at(3), PAGE_BYTES, protect=False)
    if variant == "exact":
        trial.equal(hex(event.address), hex(place), "The address told")
    elif offered() & Feature.EXACT_ADDRESS:
        trial.equal(hex(event.address), hex(region.at(3)), "The address told")
    else:
        trial.equal(page_of(region, event), 3, "The page told")


@feature_test("R28", memory=(ANON,), features=Feature.THREAD_ID)
def the_thread_is_told(trial: Trial) -> None:
    """With THREAD_ID (4.14) a fault tells which thread waits."""
    region, uffd = trial.protected()
    with Doer(trial, libc.store, region.at(1), b"x") as doer:
        event = next_fault(trial, uffd, doer)
        uffd.write_protect(region.at(1), PAGE_BYTES, protect=False)
        trial.equal(event.thread, doer.thread_id, "The thread told")


@feature_test("R29", memory=SMALL, features=Feature.EVENT_REMOVE)
def a_waiting_event_makes_calls_say_again(trial: Trial) -> None:
    """While MADV_DONTNEED waits for its event to be read, calls are EAGAIN, and so is their output field."""
    region, uffd = trial.region(), trial.uffd()
    uffd.register(region.address, region.length, Mode.MISSING | Mode.WP)
    source = trial.enter(Region.anonymous(PAGE_BYTES))
    source.fill(1)
    with Doer(trial, libc.madvise, region.at(6), PAGE_BYTES, libc.MADV_DONTNEED) as doer:
        trial.check(uffd.readable(trial.patience), "MADV_DONTNEED was told to nobody.")
        trial.check(doer.waits(), "MADV_DONTNEED went on although nobody has read its event.")
        trial.refuses(errno.EAGAIN, "WRITEPROTECT", uffd.write_protect, region.address, PAGE_BYTES)
        for name, call in (
            ("COPY", lambda: uffd.copy(region.at(6), source.address, PAGE_BYTES)),
            ("ZEROPAGE", lambda: uffd.zeropage(region.at(6), PAGE_BYTES)),
        ):
            error = trial.refuses(errno.EAGAIN, name, call)
            output = getattr(error, "output", None)
            # Kernels before the fix of 2025 leave the field as it was, which is 0.
            trial.check(
                output in {-errno.EAGAIN, 0}, f"The output of {name} is {output}, expected {-errno.EAGAIN}."
            )
            trial.note(f"{name}: output {output}")
        trial.equal(uffd.read_events(trial.patience), [Remove(region.at(6), region.at(7))], "The event")


@feature_test("R02", memory=(ANON,), features=Feature.PAGEFAULT_FLAG_WP)
def missing_and_wp_together_tell_which_it_was(trial: Trial) -> None:
    """A write to a missing page is told as WRITE without WP; filled with COPY_MODE_WP it then waits as WP."""
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length, Mode.MISSING | Mode.WP)
    source = trial.enter(Region.anonymous(PAGE_BYTES))
    source.store(0, trial.golden(region, 2))
    with Doer(trial, libc.store, region.at(2), b"x") as doer:
        trial.equal(next_fault(trial, uffd, doer).flags, FaultFlag.WRITE, "The flags of the first fault")
        uffd.copy(region.at(2), source.address, PAGE_BYTES, write_protect=True)
        event = next_fault(trial, uffd, doer)
        trial.equal(event.flags, FaultFlag.WRITE | FaultFlag.WP, "The flags of the second fault")
        trial.intact(region, [2])
        uffd.write_protect(region.at(2), PAGE_BYTES, protect=False)
