"""Contract: what a silent process waits for is named where it is a write-protected page, and only there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.linux.uffd_waiters import describe_waiting, waiting_threads
from harness.userfaultfd import PAGE_BYTES, Feature, Region, Userfaultfd, probe_userfaultfd


def test_thread_in_a_write_fault_is_named() -> None:
    """It is named while it waits, and no longer once the page is released."""
    support = probe_userfaultfd()
    if not support.opened_by or not Path("/proc/self/syscall").exists():
        pytest.skip(support.reason or "This kernel does not say what threads do.")
    with Region.anonymous(PAGE_BYTES) as region, Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd:
        region.store(0, b"before")
        uffd.register(region.address, region.length)
        uffd.write_protect(region.address, region.length)
        writer = threading.Thread(target=region.store, args=(0, b"after"), daemon=True)
        writer.start()
        Deadline(10).wait_for(lambda: len(waiting_threads(os.getpid())) == 1, "The fault")
        assert "waits in a page fault" in describe_waiting(waiting_threads(os.getpid()))
        uffd.write_protect(region.address, region.length, protect=False)
        writer.join(10)
        assert describe_waiting(waiting_threads(os.getpid())) == ""


def test_no_such_process() -> None:
    """A process that has ended is not held up."""
    assert describe_waiting(waiting_threads(1 << 30)) == ""
