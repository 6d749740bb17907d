"""Feature tests of whole snapshots by each write tracker, and of the limits in which the trackers differ."""

from __future__ import annotations

import errno
import statistics
from pathlib import Path

from harness.userfaultfd import PAGE_BYTES, Feature, Region, libc
from tests_functional.kernel.trackers.judge import Judgement, judge
from tests_functional.kernel.trackers.mprotect import Mprotect
from tests_functional.kernel.trackers.stores import STORES
from tests_functional.kernel.trackers.tracker import StopTheWriters, Tracker
from tests_functional.kernel.trackers.uffd_wp import AsyncWp, UffdWp

from ..memory import ANON, ANON_THP, MEMFD, SHMEM
from ..oracle import release
from ..registry import feature_test
from ..trial import Trial

_PAGES = 512
_KINDS = (ANON, ANON_THP, SHMEM, MEMFD)
_TRACKERS = ("stop", "uffd-wp", "mprotect", "async-wp")
_HOLES = 4000


def _made(trial: Trial, name: str) -> Tracker:
    made: dict[str, Tracker] = {
        "stop": StopTheWriters(),
        "uffd-wp": UffdWp(),
        "mprotect": Mprotect(trial.helper),
        "async-wp": AsyncWp(),
    }
    return made[name]


def _tracker(trial: Trial, name: str) -> Tracker:
    made = _made(trial, name)
    if made.missing():
        trial.skip(made.missing())
    return made


def _judged(trial: Trial, name: str, store: str, threads: int, steps: int) -> Judgement:
    tracker = _tracker(trial, name)
    found = judge(tracker, trial.region(_PAGES), STORES[store], threads=threads, steps=steps)
    trial.note(f"{name}, {store}, {threads} thread(s): {found.cost()}")
    return found


@feature_test("R07", memory=_KINDS, variants=_TRACKERS, seconds=60)
def a_snapshot_is_exact(trial: Trial, variant: str) -> None:
    """A snapshot taken while threads write is the memory of one instant, by golden copy and write order."""
    for threads in (1, 2):
        for steps in (_PAGES, _PAGES // 4):
            trial.equal(_judged(trial, variant, "store", threads, steps).problems, [], "The problems found")


@feature_test(
    "R23",
    memory=(ANON, SHMEM),
    variants=("read", "recv", "process-vm-writev", "direct-read"),
    needs=("kernel-faults",),
    seconds=60,
)
def writes_by_the_kernel_are_exact_under_wp_and_fail_under_mprotect(trial: Trial, variant: str) -> None:
    """If threads write by system calls, a snapshot by UFFD-WP is exact; under mprotect they get EFAULT."""
    found = _judged(trial, "uffd-wp", variant, 1, _PAGES // 4)
    trial.equal(found.problems, [], "The problems found with UFFD-WP")
    if Mprotect(trial.helper).missing():
        trial.note(Mprotect(trial.helper).missing())
        return
    problems = _judged(trial, "mprotect", variant, 1, _PAGES // 4).problems
    trial.check(
        any("Bad address" in problem for problem in problems),
        f"Under mprotect no write failed with EFAULT; the problems found are {problems}.",
    )


@feature_test("R07", memory=(ANON,), seconds=60)
def what_a_held_write_costs(trial: Trial) -> None:
    """With each tracker a write that waits takes longer than a plain one; the times are noted."""
    for name in _TRACKERS:
        if not _made(trial, name).missing():
            found = _judged(trial, name, "store", 1, _PAGES)
            if found.held_ns:
                held, plain = statistics.median(found.held_ns), statistics.median(found.plain_ns)
                trial.check(
                    held > plain, f"{name}: a write that waits took {held} ns, a plain one {plain} ns."
                )


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


@feature_test("R07", memory=(ANON,), features=Feature.PAGEFAULT_FLAG_WP, seconds=60)
def a_hole_costs_mprotect_a_mapping_and_wp_none(trial: Trial) -> None:
    """A release of every second page costs two mappings per page under mprotect, and none under UFFD-WP."""
    region = trial.region(2 * _HOLES)
    before = _mappings()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    for page in range(0, 2 * _HOLES, 2):
        libc.mprotect(region.at(page), PAGE_BYTES, libc.PROT_READ | libc.PROT_WRITE)
    trial.check(
        _mappings() - before >= 2 * _HOLES - 2,
        f"{_HOLES} released pages cost {_mappings() - before} mappings under mprotect, expected two each.",
    )
    libc.mprotect(region.address, region.length, libc.PROT_READ | libc.PROT_WRITE)
    uffd = trial.uffd()
    uffd.register(region.address, region.length)
    before = _mappings()
    uffd.write_protect(region.address, region.length)
    for page in range(0, 2 * _HOLES, 2):
        release(uffd, region, page)
    trial.equal(_mappings(), before, f"The number of mappings after {_HOLES} releases under UFFD-WP")


@feature_test("R07", memory=(ANON,), features=Feature.PAGEFAULT_FLAG_WP, seconds=60)
def mprotect_runs_out_of_mappings_and_wp_does_not(trial: Trial) -> None:
    """At vm.max_map_count mappings, mprotect of a further page fails with ENOMEM; a release by UFFD-WP works.

    A background snapshot by mprotect could then not let the guest's write go on.
    """
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if limit > 1 << 17:
        trial.skip(f"vm.max_map_count is {limit}; the test would need too much memory to reach it.")
    pages = 2 * limit + 8
    region = trial.enter(Region.anonymous(pages * PAGE_BYTES))
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    holes = 0
    code = 0
    for page in range(0, pages, 2):
        try:
            libc.mprotect(region.at(page), PAGE_BYTES, libc.PROT_READ | libc.PROT_WRITE)
        except OSError as error:
            code = error.errno or 0
            break
        holes += 1
    libc.mprotect(region.address, region.length, libc.PROT_READ | libc.PROT_WRITE)
    trial.equal(code, errno.ENOMEM, f"The errno of mprotect after {holes} released pages")
    trial.note(f"mprotect: ENOMEM after {holes} released pages, vm.max_map_count {limit}")
    uffd = trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    for page in range(0, 2 * holes + 2, 2):
        release(uffd, region, page)
    trial.check(True, "")
