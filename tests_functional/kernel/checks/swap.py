"""Feature tests of protection of pages that are in swap space, go there, or come back."""

from __future__ import annotations

import os
import time

from harness.userfaultfd import Region, libc, read_pagemap

from ..closing import CLOSING_ISSUES
from ..memory import ANON, ANON_MTHP, ANON_THP, MEMFD, SHMEM
from ..needs import OWN_SWAP
from ..oracle import UNREPORTED, all_wait, check_pagemap, release, write_passes, write_waits
from ..registry import KernelIssue, feature_test
from ..trial import Trial

_KINDS = (ANON, ANON_THP, ANON_MTHP, SHMEM, MEMFD)
_NEEDS = ("swap", "pageout")


def _page_out(trial: Trial, region: Region) -> list[int]:
    """Move a region to swap space and return the pages that are there; skip the test if few are."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        libc.madvise(region.address, region.length, libc.MADV_PAGEOUT)
        entries = read_pagemap(region.address, region.length)
        # A shared page in swap space has an empty entry; here nothing else unmaps pages.
        out = [number for number, entry in enumerate(entries) if not entry.present]
        if len(out) >= region.pages // 2:
            trial.note(f"{len(out)} of {region.pages} pages are in swap space")
            return out
        time.sleep(0.05)
    return trial.skip("MADV_PAGEOUT moved too few pages to swap space.")


@feature_test("R15", memory=_KINDS, needs=_NEEDS, bugs=("14a762dd1977", "29f40594a281"))
def a_swapped_page_stays_protected(trial: Trial) -> None:
    """A write to a protected page in swap space waits, and the page comes back with its content."""
    region, uffd = trial.protected(16)
    out = _page_out(trial, region)
    check_pagemap(trial, region, range(region.pages))
    all_wait(trial, region, uffd, out[:8])


@feature_test("R15", memory=_KINDS, needs=_NEEDS)
def a_page_can_be_protected_while_swapped(trial: Trial) -> None:
    """Pages in swap space can be protected and released."""
    region, uffd = trial.region(16), trial.uffd()
    uffd.register(region.address, region.length)
    out = _page_out(trial, region)
    uffd.write_protect(region.address, region.length)
    check_pagemap(trial, region, range(region.pages))
    release(uffd, region, out[0])
    write_passes(trial, region, uffd, out[0], "was released while it was swapped")
    all_wait(trial, region, uffd, out[1:4])


@feature_test("R15", memory=_KINDS, needs=_NEEDS)
def a_page_read_back_is_still_protected(trial: Trial) -> None:
    """A protected page that a read brings back from swap space is still protected."""
    region, uffd = trial.protected(16)
    _page_out(trial, region)
    trial.check_content(region)
    check_pagemap(trial, region, range(region.pages))
    for page in (0, 5, 15):
        write_waits(trial, region, uffd, page)


@feature_test(
    "R15",
    memory=(ANON, SHMEM),
    needs=(*_NEEDS, "own-swap"),
    bugs=("14a762dd1977",),
    seconds=40,
    known_issues=[KernelIssue("swapoff drops protection (14a762dd1977)", UNREPORTED, (5, 19), ("anon",))],
)
def switching_swap_off_keeps_protection(trial: Trial) -> None:
    """Protected pages that swapoff brings back to RAM are still protected (14a762dd1977)."""
    region, uffd = trial.protected(16)
    _page_out(trial, region)
    device = os.environ[OWN_SWAP].encode()
    libc.checked(libc.LIBC.swapoff(device), "swapoff")
    try:
        entries = read_pagemap(region.address, region.length)
        if trial.memory is ANON:
            # Not for shared memory: its PTE markers stay, and pagemap shows those as swapped too.
            trial.check(not any(entry.swapped for entry in entries), "Pages are in swap space after swapoff.")
        check_pagemap(trial, region, range(region.pages))
        for page in (0, 5, 15):
            write_waits(trial, region, uffd, page)
    finally:
        libc.checked(libc.LIBC.swapon(device, 0), "swapon")


@feature_test("R30", memory=(ANON, SHMEM), needs=_NEEDS, bugs=("c88033efe9a3",), known_issues=CLOSING_ISSUES)
def closing_releases_swapped_pages(trial: Trial) -> None:
    """Closing the userfaultfd ends the protection of pages in swap space (CVE-2024-36881)."""
    region, uffd = trial.protected(16)
    out = _page_out(trial, region)
    uffd.close()
    check_pagemap(trial, region, [])
    trial.check_content(region)
    write_passes(trial, region, None, out[0], "belongs to no userfaultfd any more")
