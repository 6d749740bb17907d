"""Run feature tests one by one and report host, plan and results as a stream of events (JSON objects)."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.linux.kernel_log import taint
from harness.userfaultfd import PAGE_BYTES, feature_names, probe_userfaultfd

from . import needs
from .batches import MOST, Batches
from .golden import Blank, make_images
from .memory import ANON, HUGE, HUGETLB_BYTES
from .registry import FeatureTest
from .splats import KernelLog
from .trial import blank_pages

Event = dict[str, Any]


def host_facts() -> Event:
    """Return the ``host`` event: the facts about this host that the results depend on."""
    support = probe_userfaultfd()
    setting = Path("/proc/sys/vm/unprivileged_userfaultfd")
    return {
        "event": "host",
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "user": os.geteuid(),
        "cpus": len(os.sched_getaffinity(0)),
        "opened_by": support.opened_by,
        "reason": support.reason,
        "features": list(feature_names(needs.offered())),
        "unprivileged_userfaultfd": setting.read_text().strip() if setting.exists() else None,
        "tainted": taint(),
        "kernel_log": KernelLog().readable,
    }


def run(
    tests: list[FeatureTest],
    repeat: int = 1,
    helper: str = "",
    slow: float = 1.0,
    *,
    share: int = MOST,
    one_cpu: bool = False,
) -> Iterator[Event]:
    """Run tests in order and yield a ``host`` event, a ``plan``, a ``result`` for each test, and ``end``.

    Args:
        tests: what to run.
        repeat: how often to run each test; its result is the worst one, with a note if they differ.
        helper: path of the library of tests_functional/kernel/trackers/segv.c for this host, empty for none.
        slow: factor for the tests' time limits.
        share: how many tests share a process at most.
        one_cpu: see `Batches`.
    """
    yield host_facts()
    yield {"event": "plan", "tests": [identity(test) for test in tests]}
    log = KernelLog()
    make_images(map(_image_kind, tests))
    # What is imported by now stays, and a collection in a test's process would copy its pages.
    gc.collect()
    gc.freeze()
    for test, result in Batches(tests, helper, slow, log, most=share, one_cpu=one_cpu).results(tests, repeat):
        yield {"event": "result", **identity(test), **vars(result)}
    yield {"event": "end", "tests": len(tests)}


def _image_kind(test: FeatureTest) -> tuple[int, Blank]:
    """Return the page size and the blank pages of the golden content that a test's memory has."""
    memory = test.memory or ANON
    return HUGETLB_BYTES if memory in HUGE else PAGE_BYTES, blank_pages(memory, test.content)


def identity(test: FeatureTest) -> Event:
    """Return the fields that identify a test in events."""
    return {
        "suite": test.suite,
        "memory": test.memory_name,
        "test": test.name,
        "recipe": test.recipe,
        "contract": test.contract,
    }


def exit_code(statuses: list[str]) -> int:
    """Return the exit code: 0 pass, 1 fail, 2 error or time-out, 3 nothing ran, 4 all skipped."""
    if not statuses:
        return 3
    if "FAIL" in statuses:
        return 1
    if "ERROR" in statuses or "TIMEOUT" in statuses:
        return 2
    return 0 if "PASS" in statuses or "XFAIL" in statuses else 4
