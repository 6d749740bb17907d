"""Protection of pages that are, or go, or were in swap space."""

from __future__ import annotations

import os
import time

from harness.userfaultfd import Region, libc, read_pagemap

from ..memory import ANON, ANON_MTHP, ANON_THP, MEMFD, SHMEM
from ..needs import OWN_SWAP
from ..registry import KnownIssue, feature_test
from ..traps import all_wait, marked, release, write_passes, write_waits
from ..trial import Trial

_KINDS = (ANON, ANON_THP, ANON_MTHP, SHMEM, MEMFD)
_NEEDS = ("swap", "pageout")


def _page_out(trial: Trial, region: Region) -> list[int]:
    """Push the region out and return the pages that are out; SKIP if the kernel does not do it."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        libc.madvise(region.address, region.length, libc.MADV_PAGEOUT)
        entries = read_pagemap(region.address, region.length)
        # Shared memory shows no entry at all when it is out; nothing else unmaps it here.
        out = [number for number, entry in enumerate(entries) if not entry.present]
        if len(out) >= region.pages // 2:
            trial.note(f"{len(out)} of {region.pages} pages are out")
            return out
        time.sleep(0.05)
    return trial.skip("MADV_PAGEOUT moved too few pages to swap space.")


@feature_test("R15", memory=_KINDS, needs=_NEEDS, bugs=("14a762dd1977", "29f40594a281"))
def a_swapped_page_stays_protected(trial: Trial) -> None:
    """A write to a protected page that is in swap space waits, and the page comes back with its content."""
    region, uffd = trial.protected(16)
    out = _page_out(trial, region)
    marked(trial, region, range(region.pages))
    all_wait(trial, region, uffd, out[:8])


@feature_test("R15", memory=_KINDS, needs=_NEEDS)
def a_page_can_be_protected_while_swapped(trial: Trial) -> None:
    """Protecting, and releasing, works on pages that are in swap space."""
    region, uffd = trial.region(16), trial.uffd()
    uffd.register(region.address, region.length)
    out = _page_out(trial, region)
    uffd.write_protect(region.address, region.length)
    marked(trial, region, range(region.pages))
    release(uffd, region, out[0])
    write_passes(trial, region, uffd, out[0], "was released while it was swapped")
    all_wait(trial, region, uffd, out[1:4])


@feature_test("R15", memory=_KINDS, needs=_NEEDS)
def a_page_read_back_is_still_protected(trial: Trial) -> None:
    """Reading a protected page back from swap space does not open it to writes."""
    region, uffd = trial.protected(16)
    _page_out(trial, region)
    trial.intact(region)
    marked(trial, region, range(region.pages))
    for page in (0, 5, 15):
        write_waits(trial, region, uffd, page)


@feature_test(
    "R15",
    memory=(ANON, SHMEM),
    needs=(*_NEEDS, "own-swap"),
    bugs=("14a762dd1977",),
    seconds=40,
    known_issues=[
        KnownIssue("swapoff drops protection (14a762dd1977)", "told to nobody", (5, 19), ("anon",))
    ],
)
def switching_swap_off_keeps_protection(trial: Trial) -> None:
    """swapoff, which brings all pages back, brings protected ones back protected (14a762dd1977)."""
    region, uffd = trial.protected(16)
    _page_out(trial, region)
    device = os.environ[OWN_SWAP].encode()
    libc.checked(libc.LIBC.swapoff(device), "swapoff")
    try:
        entries = read_pagemap(region.address, region.length)
        if trial.memory is ANON:
            # Of shared memory a marker stays, which pagemap shows as swapped too.
            trial.check(not any(entry.swapped for entry in entries), "Pages are in swap space after swapoff.")
        marked(trial, region, range(region.pages))
        for page in (0, 5, 15):
            write_waits(trial, region, uffd, page)
    finally:
        libc.checked(libc.LIBC.swapon(device, 0), "swapon")


@feature_test("R30", memory=(ANON, SHMEM), needs=_NEEDS, bugs=("c88033efe9a3",))
def closing_releases_swapped_pages(trial: Trial) -> None:
    """Closing the userfaultfd leaves no bit on pages in swap space (CVE-2024-36881).

    They are written freely.
    """
    region, uffd = trial.protected(16)
    out = _page_out(trial, region)
    uffd.close()
    marked(trial, region, [])
    trial.intact(region)
    write_passes(trial, region, None, out[0], "belongs to no userfaultfd any more")
