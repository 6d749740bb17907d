"""Write trackers: right ones are right by both oracles, and every planted fault is seen with its cause."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from guest_images.cache import Cache, default_cache_folder
from guest_images.provisioning import Provisioning
from harness.errors import MachineryMissing
from harness.userfaultfd import Region
from tests_functional.kernel.trackers import mprotect, stores
from tests_functional.kernel.trackers.order import WriteOrder
from tests_functional.kernel.trackers.planted import PLANTED
from tests_functional.kernel.trackers.tracker import StopTheWriters
from tests_functional.kernel.trackers.uffd_wp import AsyncWp, UffdWp
from validators.faults.preload.library import preload_library

_PAGES = 512
_SOURCE = Path(mprotect.__file__).parent / "segv.c"

# A tracker with a defect holds its writers for ever; in a process of its own that ends with it.
_PROGRAM = """
import json, sys
from harness.userfaultfd import Region, PAGE_BYTES
from tests_functional.kernel.trackers.judge import judge
from tests_functional.kernel.trackers.mprotect import Mprotect
from tests_functional.kernel.trackers.planted import PLANTED
from tests_functional.kernel.trackers.stores import STORES
from tests_functional.kernel.trackers.tracker import StopTheWriters
from tests_functional.kernel.trackers.uffd_wp import AsyncWp, UffdWp

name, store, threads, pages, steps, helper = sys.argv[1:]
known = {"stop": lambda _: StopTheWriters(), "uffd-wp": lambda _: UffdWp(), "async-wp": lambda _: AsyncWp(),
         "mprotect": Mprotect, **{name: make for name, (make, _) in PLANTED.items()}}
with Region.anonymous(int(pages) * PAGE_BYTES) as region:
    found = judge(known[name](helper), region, STORES[store], threads=int(threads), steps=int(steps),
    patience=3)
print(json.dumps({"problems": found.problems, "cost": found.cost(), "written": found.written}), flush=True)
import os
os._exit(0)
"""


@pytest.fixture(scope="module")
def helper() -> str:
    """The library built from segv.c."""
    try:
        return str(preload_library(_SOURCE, Provisioning(Cache(default_cache_folder()), lambda _: None)))
    except MachineryMissing as error:
        pytest.skip(error.sentence)


def _problems(
    name: str, helper: str, *, store: str = "store", threads: int = 1, steps: int = _PAGES
) -> list[str]:
    for tracker in (UffdWp(), AsyncWp()):
        if name.startswith(tracker.name) and tracker.missing():
            pytest.skip(tracker.missing())
    if stores.supported(store):
        pytest.skip(stores.supported(store))
    arguments = (name, store, str(threads), str(_PAGES), str(steps), helper)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    problems: list[str] = json.loads(done.stdout)["problems"]
    return problems


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("steps", [_PAGES, _PAGES // 4])
@pytest.mark.parametrize("name", ["stop", "uffd-wp", "mprotect", "async-wp"])
def test_tracker_is_exact(name: str, steps: int, threads: int, helper: str) -> None:
    """All pages are those of one instant, whether saved at their fault or in turn."""
    assert _problems(name, helper, threads=threads, steps=steps) == []


@pytest.mark.parametrize("store", ["read", "recv", "process-vm-writev", "direct-read"])
@pytest.mark.parametrize("name", ["uffd-wp", "mprotect"])
def test_writes_of_the_kernel(name: str, store: str, helper: str) -> None:
    """A system call into protected memory waits for UFFD-WP, and fails with EFAULT under mprotect."""
    problems = _problems(name, helper, store=store, steps=_PAGES // 4)
    assert problems == [] if name == "uffd-wp" else any("Bad address" in problem for problem in problems)


def test_write_by_force_goes_past_mprotect(helper: str) -> None:
    """/proc/PID/mem writes into a read-only mapping and no signal tells: the snapshot is of no instant."""
    problems = _problems("mprotect", helper, store="proc-mem")
    assert any("differ from memory at T0" in problem for problem in problems)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_seen(name: str, helper: str) -> None:
    """A planted fault (a page less, released too early, skipped or dropped) fails for that reason."""
    # Release before copy shows where pages are swept, the others where all is saved by faults.
    steps = _PAGES // 4 if "releases-first" in name else _PAGES
    problems = _problems(name, helper, steps=steps)
    assert any(PLANTED[name][1] in problem for problem in problems), problems


def _memory(order: WriteOrder, steps: int) -> bytearray:
    data = bytearray(order.threads * order.pages * order.page_bytes)
    for thread in range(order.threads):
        for step in [0] * order.pages + list(range(1, steps + 1)):
            indices = range(order.pages) if step == 0 else (order.index(thread, step),)
            for index in indices:
                place = order.place(thread, index)
                data[place : place + order.page_bytes] = order.content(thread, index, step)
    return data


@pytest.mark.parametrize("steps", [0, 1, 5, 8, 9, 20])
def test_memory_of_one_moment_is_in_order(steps: int) -> None:
    """The first so many steps, whichever number, and nothing else."""
    order = WriteOrder(2, 8, 64, seed=3)
    assert order.violations(bytes(_memory(order, steps))) == []


def test_one_page_newer_or_older_or_torn_is_a_violation() -> None:
    """A single page of another moment is seen, and so is one of two writes."""
    order = WriteOrder(1, 8, 64, seed=3)
    for step in (15, 3):
        data = _memory(order, 12)
        place = order.place(0, order.index(0, step))
        data[place : place + 64] = order.content(0, order.index(0, step), step if step > 12 else 0)
        assert order.violations(bytes(data)), step
    data = _memory(order, 12)
    data[order.place(0, 4)] ^= 1
    assert "a single write" in order.violations(bytes(data))[0]


def test_stop_needs_nothing_and_mprotect_its_library() -> None:
    """A sentence says what a tracker lacks."""
    assert StopTheWriters().missing() == ""
    assert "library" in mprotect.Mprotect("").missing()


def test_region_of_the_judge_is_all_written() -> None:
    """The writers' pages are the whole region: no page is judged that nobody writes."""
    order = WriteOrder(2, 4, 4096, seed=1)
    places = sorted(order.place(thread, index) for thread in range(2) for index in range(4))
    with Region.anonymous(8 * 4096) as region:
        assert places == list(range(0, region.length, region.page_bytes))
