"""Contract: what a silent process waits for is named where it is a write-protected page, and only there."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.deadline import Deadline
from harness.linux import uffd_waiters
from harness.linux.uffd_waiters import Waiters, find_waiters
from harness.userfaultfd import PAGE_BYTES, Feature, Region, Userfaultfd, probe_userfaultfd

_PAGES = 64
_LIBC = ctypes.CDLL(None)


@pytest.fixture(name="guarded")
def _guarded() -> Iterator[tuple[Region, Userfaultfd]]:
    """Write-protected pages."""
    support = probe_userfaultfd()
    if not support.opened_by or not Path("/proc/self/syscall").exists():
        pytest.skip(support.reason or "This kernel does not say what threads do.")
    with (
        Region.anonymous(_PAGES * PAGE_BYTES) as region,
        Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd,
    ):
        for page in range(_PAGES):
            region.store(page * PAGE_BYTES, b"before")
        uffd.register(region.address, region.length)
        uffd.write_protect(region.address, region.length)
        yield region, uffd


def _by_itself(region: Region) -> None:
    region.store(0, b"after")


def _by_the_kernel(region: Region) -> None:
    """Let the kernel write, as KVM does for a vCPU: inside a system call, which says nothing of a fault."""
    readable, writable = os.pipe()
    os.write(writable, b"after")
    _LIBC.read(readable, ctypes.c_void_p(region.address), 5)
    os.close(readable)
    os.close(writable)


@pytest.mark.parametrize("write", [_by_itself, _by_the_kernel])
def test_thread_in_a_write_fault_is_named(
    guarded: tuple[Region, Userfaultfd], write: Callable[[Region], None]
) -> None:
    """It is named while it waits, and no longer once the page is released."""
    region, uffd = guarded
    writer = threading.Thread(target=write, args=(region,), daemon=True)
    writer.start()
    Deadline(10).wait_for(lambda: len(find_waiters(os.getpid()).threads) == 1, "The fault")
    found = find_waiters(os.getpid())
    assert found.faults == 1
    assert "waits in a page fault" in found.clause
    assert found.fields == {"waiting_threads": found.threads[0], "waiting_faults": 1}
    uffd.write_protect(region.address, region.length, protect=False)
    writer.join(10)
    assert find_waiters(os.getpid()) == Waiters()


def test_thread_that_gets_one_page_after_the_other_is_not_named(
    guarded: tuple[Region, Userfaultfd], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in a fault at both looks, and at the same instruction, but not in the same fault."""
    region, uffd = guarded

    def write() -> None:
        ctypes.memset(region.address, 1, 2 * PAGE_BYTES)

    def release_first(_seconds: float) -> None:
        uffd.write_protect(region.address, PAGE_BYTES, protect=False)
        assert uffd.read_events(10)
        Deadline(10).wait_for(lambda: uffd_waiters._in_faults(os.getpid()) != {}, "The second fault")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert uffd.read_events(10)
    Deadline(10).wait_for(lambda: uffd_waiters._in_faults(os.getpid()) != {}, "The first fault")
    with monkeypatch.context() as patch:
        patch.setattr(uffd_waiters, "time", SimpleNamespace(sleep=release_first))
        assert find_waiters(os.getpid()) == Waiters((), 1)
    assert len(find_waiters(os.getpid()).threads) == 1
    uffd.write_protect(region.address, region.length, protect=False)
    writer.join(10)


def test_fault_of_a_thread_that_is_not_named_is_counted(
    guarded: tuple[Region, Userfaultfd], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel names no function, or waits itself for a vCPU, the number of faults is left."""
    region, uffd = guarded
    monkeypatch.setattr(uffd_waiters, "_WAITS_IN", "none")
    writer = threading.Thread(target=_by_the_kernel, args=(region,), daemon=True)
    writer.start()
    Deadline(10).wait_for(lambda: find_waiters(os.getpid()).faults == 1, "The fault")
    found = find_waiters(os.getpid())
    assert found.fields == {"waiting_faults": 1}
    assert found.clause == "; userfaultfd has 1 page fault unresolved"
    uffd.write_protect(region.address, region.length, protect=False)
    writer.join(10)


def test_no_such_process() -> None:
    """A process that has ended, or that is not known, is not held up."""
    for pid in (1 << 30, None):
        found = find_waiters(pid)
        assert (found, found.clause, found.fields) == (Waiters(), "", {})


def test_several_are_named_alike() -> None:
    """Sentence and field have the same names."""
    found = Waiters(("CPU 0", "CPU 1"), 2)
    assert found.fields == {"waiting_threads": "CPU 0, CPU 1", "waiting_faults": 2}
    assert "'CPU 0', 'CPU 1' wait in a page fault" in found.clause
    assert Waiters((), 2).clause == "; userfaultfd has 2 page faults unresolved"
