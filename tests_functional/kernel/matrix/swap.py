"""Ways through swap space: out, back by a write, a read or swapoff, and protected while there."""

from __future__ import annotations

import os
import time

from harness.userfaultfd import Region, libc, read_pagemap

from ..needs import OWN_SWAP
from ..oracle import UNREPORTED
from ..registry import KernelIssue
from ..trial import Trial
from .subject import Expected, Subject
from .way import Way, not_swapped

_NEEDS = ("swap", "pageout")
_KINDS = ("anon", "anon-thp", "anon-mthp", "shmem", "memfd")
_SECONDS = 3


def page_out(trial: Trial, region: Region) -> None:
    """Move pages to swap space; skip the test if fewer than half go there."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        libc.madvise(region.address, region.length, libc.MADV_PAGEOUT)
        out = sum(not entry.present for entry in read_pagemap(region.address, region.length))
        if out >= region.pages // 2:
            trial.note(f"{out} of {region.pages} pages are not mapped")
            return
        time.sleep(0.02)
    trial.skip("MADV_PAGEOUT moved too few pages to swap space.")


def _out(subject: Subject) -> Expected:
    page_out(subject.trial, subject.region)
    return subject.expect()


def _read_back(subject: Subject) -> Expected:
    page_out(subject.trial, subject.region)
    subject.region.load()
    return subject.expect()


def _off(subject: Subject) -> Expected:
    page_out(subject.trial, subject.region)
    device = os.environ[OWN_SWAP].encode()
    libc.checked(libc.LIBC.swapoff(device), "swapoff")
    libc.checked(libc.LIBC.swapon(device, 0), "swapon")
    return subject.expect()


def _nothing(subject: Subject) -> Expected:
    return subject.expect()


def _named(test: str, *memories: str) -> dict[tuple[str, str], str]:
    return {("own", name): f"swap.{name}.{test}" for name in memories}


WAYS = (
    Way(
        "swap-out",
        "swap",
        "Protected pages in swap space are still protected; a write brings them back and waits.",
        "try_to_unmap_one(), do_swap_page()",
        _out,
        reason=not_swapped,
        named=_named("a-swapped-page-stays-protected", *_KINDS),
        needs=_NEEDS,
        bugs=("14a762dd1977", "29f40594a281"),
    ),
    Way(
        "swap-in",
        "swap",
        "Protected pages that a read brings back from swap space are still protected.",
        "do_swap_page()",
        _read_back,
        reason=not_swapped,
        named=_named("a-page-read-back-is-still-protected", *_KINDS),
        needs=_NEEDS,
    ),
    Way(
        "swap-protect",
        "swap",
        "Pages in swap space can be protected, and released.",
        "change_pte_range()",
        _nothing,
        before=page_out,
        reason=not_swapped,
        named=_named("a-page-can-be-protected-while-swapped", *_KINDS),
        needs=_NEEDS,
    ),
    Way(
        "swap-off",
        "swap",
        "Protected pages that swapoff brings back are still protected.",
        "unuse_pte()",
        _off,
        reason=not_swapped,
        named=_named("switching-swap-off-keeps-protection", "anon", "shmem"),
        needs=(*_NEEDS, "own-swap"),
        bugs=("14a762dd1977",),
        known_issues=(KernelIssue("swapoff drops protection (14a762dd1977)", UNREPORTED, (5, 19)),),
        seconds=40,
    ),
)
