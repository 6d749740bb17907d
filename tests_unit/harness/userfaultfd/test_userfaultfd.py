"""userfaultfd on the kernel of this machine: each call once, what it gives and how it fails."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from harness.userfaultfd import (
    PAGE_BYTES,
    FaultFlag,
    Feature,
    FeatureMissing,
    Fork,
    Mode,
    PageFault,
    Region,
    Remap,
    Remove,
    Unmap,
    Userfaultfd,
    UserfaultfdError,
    abi,
    create,
    libc,
    offered_features,
    pagemap,
    probe_userfaultfd,
    protected_pages,
    read_pagemap,
    scan,
    scan_supported,
)

_PAGES = 8


def _open(features: int) -> Userfaultfd:
    support = probe_userfaultfd()
    if not support.opened_by:
        pytest.skip(support.reason)
    missing = features & ~int(offered_features())
    if missing:
        pytest.skip(f"This kernel has no {' '.join(abi.feature_names(missing))}.")
    return Userfaultfd(features)


@contextmanager
def _protected(features: int = Feature.PAGEFAULT_FLAG_WP) -> Iterator[tuple[Region, Userfaultfd]]:
    """Pages 0 to 7, each full of its number, registered and protected."""
    with Region.anonymous(_PAGES * PAGE_BYTES) as region, _open(features) as uffd:
        for page in range(_PAGES):
            region.store(page * PAGE_BYTES, bytes([page]) * PAGE_BYTES)
        assert "WRITEPROTECT" in uffd.register(region.address, region.length)
        uffd.write_protect(region.address, region.length)
        yield region, uffd


@contextmanager
def _missing(features: int = 0, pages: int = _PAGES) -> Iterator[tuple[Region, Userfaultfd]]:
    """Memory without any page, registered so that a touch is told."""
    with Region.anonymous(pages * PAGE_BYTES) as region, _open(features) as uffd:
        assert uffd.register(region.address, region.length, Mode.MISSING) >= {"WAKE", "COPY", "ZEROPAGE"}
        yield region, uffd


@contextmanager
def _thread(work: Callable[..., object], *arguments: object) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    yield thread
    thread.join(5)
    assert not thread.is_alive(), "The thread is still held."


def test_each_way_to_make_one_gives_a_descriptor_or_a_reason() -> None:
    """System call, user mode only and the device; all are close-on-exec and do not block."""
    for make in (create.by_system_call, create.by_device):
        for user_mode_only in (False, True):
            try:
                descriptor = make(user_mode_only=user_mode_only)
            except UserfaultfdError as error:
                assert error.errno in {errno.EPERM, errno.ENOSYS, errno.ENOENT, errno.EACCES, errno.EINVAL}
                continue
            assert not os.get_inheritable(descriptor)
            assert not os.get_blocking(descriptor)
            os.close(descriptor)


def test_handshake_happens_once_and_with_what_the_kernel_knows() -> None:
    """A wrong magic, an unknown feature and a second handshake are EINVAL."""
    _open(0).close()
    for features, api in ((0, 0xAB), (1 << 63, abi.UFFD_API)):
        descriptor, _ = create.by_any()
        with Userfaultfd.adopt(descriptor, 0), pytest.raises(UserfaultfdError, match="UFFDIO_API") as caught:
            create.handshake(descriptor, features, api)
        assert caught.value.errno == errno.EINVAL
    descriptor, _ = create.by_any()
    with Userfaultfd.adopt(descriptor, 0):
        offered, ioctls = create.handshake(descriptor)
        assert offered == offered_features()
        assert {"API", "REGISTER", "UNREGISTER"} <= abi.ioctl_names(ioctls)
        with pytest.raises(UserfaultfdError):
            create.handshake(descriptor)


def test_missing_feature_is_named() -> None:
    """The error names the features that the kernel does not offer."""
    _open(0).close()
    with pytest.raises(FeatureMissing, match="BIT_62") as caught:
        Userfaultfd(1 << 62)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.missing == 1 << 62


def test_write_to_a_protected_page_waits() -> None:
    """The write is told by address and flags, is not there while it waits, and is there after the release."""
    with _protected() as (region, uffd):
        with _thread(region.store, 2 * PAGE_BYTES + 5, b"late"):
            (event,) = uffd.read_events(5)
            assert event == PageFault(FaultFlag.WRITE | FaultFlag.WP, region.at(2), 0)
            assert region.load(2 * PAGE_BYTES, PAGE_BYTES) == bytes([2]) * PAGE_BYTES
            uffd.write_protect(region.at(2), PAGE_BYTES, protect=False)
        assert region.load(2 * PAGE_BYTES + 5, 4) == b"late"


def test_release_without_wake_needs_a_wake() -> None:
    """DONTWAKE leaves the thread where it is until UFFDIO_WAKE."""
    with _protected() as (region, uffd), _thread(region.store, 0, b"x") as thread:
        uffd.read_events(5)
        uffd.write_protect(region.address, PAGE_BYTES, protect=False, wake=False)
        thread.join(0.1)
        assert thread.is_alive()
        uffd.wake(region.address, PAGE_BYTES)


def test_pagemap_shows_protection() -> None:
    """Bit 57 is set for exactly the pages that are protected, and gone after unregistering."""
    with _protected() as (region, uffd):
        uffd.write_protect(region.at(3), PAGE_BYTES, protect=False)
        if not protected_pages(region.address, region.length):
            pytest.skip("This kernel's pagemap has no bit 57 (5.14).")
        assert protected_pages(region.address, region.length) == [0, 1, 2, 4, 5, 6, 7]
        assert all(
            entry.present and not entry.swapped for entry in read_pagemap(region.address, region.length)
        )
        uffd.unregister(region.address, region.length)
        assert protected_pages(region.address, region.length) == []


def test_errors_name_the_call_and_the_range() -> None:
    """A range that is not registered is ENOENT, one that is not aligned EINVAL."""
    with _open(Feature.PAGEFAULT_FLAG_WP) as uffd, Region.anonymous(PAGE_BYTES) as region:
        with pytest.raises(
            UserfaultfdError, match=rf"UFFDIO_WRITEPROTECT of {region.address:#x}\+0x"
        ) as caught:
            uffd.write_protect(region.address, PAGE_BYTES)
        assert (caught.value.errno, caught.value.done) == (errno.ENOENT, 0)
        with pytest.raises(UserfaultfdError) as caught:
            uffd.register(region.address + 1, PAGE_BYTES)
        assert caught.value.errno == errno.EINVAL


def test_missing_pages_are_filled() -> None:
    """COPY and ZEROPAGE resolve a missing fault; a page that is there is EEXIST."""
    with _missing() as (region, uffd), Region.anonymous(PAGE_BYTES) as source:
        source.fill(7)
        with _thread(region.load, 0, 1):
            (event,) = uffd.read_events(5)
            assert event == PageFault(FaultFlag(0), region.address, 0)
            assert uffd.copy(region.address, source.address, PAGE_BYTES) == PAGE_BYTES
        assert region.load(0, PAGE_BYTES) == bytes([7]) * PAGE_BYTES
        assert uffd.zeropage(region.at(1), 2 * PAGE_BYTES) == 2 * PAGE_BYTES
        assert region.load(PAGE_BYTES, PAGE_BYTES) == bytes(PAGE_BYTES)
        with pytest.raises(UserfaultfdError) as caught:
            uffd.copy(region.address, source.address, PAGE_BYTES)
        assert caught.value.errno == errno.EEXIST


def test_progress_before_an_error_is_told() -> None:
    """A copy that meets a page that is there says how much it has done."""
    with _missing() as (region, uffd), Region.anonymous(3 * PAGE_BYTES) as source:
        source.fill(1)
        uffd.zeropage(region.at(2), PAGE_BYTES)
        with pytest.raises(UserfaultfdError) as caught:
            uffd.copy(region.address, source.address, 3 * PAGE_BYTES)
        # fs/userfaultfd.c: what was done is told in the field, and the call says "again".
        assert (caught.value.errno, caught.value.done) == (errno.EAGAIN, 2 * PAGE_BYTES)


def test_copied_page_can_arrive_protected() -> None:
    """COPY_MODE_WP; the next write waits."""
    with _open(Feature.PAGEFAULT_FLAG_WP) as uffd, Region.anonymous(2 * PAGE_BYTES) as region:
        uffd.register(region.address, PAGE_BYTES, Mode.MISSING | Mode.WP)
        uffd.copy(region.address, region.at(1), PAGE_BYTES, write_protect=True)
        with _thread(region.store, 0, b"x"):
            (event,) = uffd.read_events(5)
            assert isinstance(event, PageFault)
            assert event.flags & FaultFlag.WP
            uffd.write_protect(region.address, PAGE_BYTES, protect=False)


def test_page_in_the_cache_is_mapped() -> None:
    """CONTINUE maps what another mapping of the same memfd has put there."""
    with _open(Feature.MINOR_SHMEM) as uffd, Region.memfd(PAGE_BYTES) as region:
        with Region.file(os.dup(region.descriptor), PAGE_BYTES, shared=True) as alias:
            alias.fill(9)
        assert "CONTINUE" in uffd.register(region.address, region.length, Mode.MINOR)
        with _thread(region.load, 0, 1):
            (event,) = uffd.read_events(5)
            assert event == PageFault(FaultFlag.MINOR, region.address, 0)
            assert uffd.continue_(region.address, PAGE_BYTES) == PAGE_BYTES
        assert region.load() == bytes([9]) * PAGE_BYTES


def test_pages_are_moved() -> None:
    """MOVE takes the content along and leaves nothing behind."""
    with _missing(Feature.MOVE) as (region, uffd), Region.anonymous(PAGE_BYTES) as source:
        source.fill(5)
        assert uffd.move(region.address, source.address, PAGE_BYTES) == PAGE_BYTES
        assert region.load(0, PAGE_BYTES) == bytes([5]) * PAGE_BYTES
        assert source.load() == bytes(PAGE_BYTES)


def test_poisoned_page_kills_who_touches_it() -> None:
    """POISON makes a read end in SIGBUS; in a process of its own."""
    _open(Feature.POISON).close()
    program = (
        "from harness.userfaultfd import *\n"
        "with Region.anonymous(PAGE_BYTES) as region, Userfaultfd(Feature.POISON) as uffd:\n"
        "    uffd.register(region.address, region.length, Mode.MISSING)\n"
        "    assert uffd.poison(region.address, region.length) == PAGE_BYTES\n"
        "    region.load()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=20, capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS


def test_thread_is_told() -> None:
    """THREAD_ID puts the faulting thread's id into the event."""
    with _missing(Feature.THREAD_ID) as (region, uffd), _thread(region.load, 0, 1) as thread:
        (event,) = uffd.read_events(5)
        assert isinstance(event, PageFault)
        assert event.thread == thread.native_id
        uffd.zeropage(region.address, PAGE_BYTES)


def test_changes_of_mappings_are_told() -> None:
    """MADV_DONTNEED, mremap and munmap wait until their events are read."""
    features = Feature.EVENT_REMOVE | Feature.EVENT_REMAP | Feature.EVENT_UNMAP
    with Region.anonymous(2 * PAGE_BYTES) as target, _missing(features) as (region, uffd):
        with _thread(libc.madvise, region.at(1), PAGE_BYTES, libc.MADV_DONTNEED):
            assert uffd.read_events(5) == [Remove(region.at(1), region.at(2))]
        flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
        moved = (region.at(2), PAGE_BYTES, PAGE_BYTES, flags, target.address)
        seen: list[object] = []
        with _thread(libc.mremap, *moved) as thread:
            # The old place is unmapped afterwards, which is an event too.
            while thread.is_alive():
                seen += uffd.read_events(0.05)
        assert Remap(region.at(2), target.address, PAGE_BYTES) in seen
        with _thread(libc.munmap, region.at(7), PAGE_BYTES):
            assert uffd.read_events(5) == [Unmap(region.at(7), region.at(8))]


def test_fork_brings_a_descriptor_for_the_child() -> None:
    """The event of EVENT_FORK brings a descriptor that resolves the child's faults.

    The monitor is another process: fork(2) waits until its event has been read, and os.fork() holds the GIL.
    """
    with _open(Feature.EVENT_FORK) as uffd, Region.anonymous(PAGE_BYTES) as region:
        monitor = os.fork()
        if monitor == 0:
            os._exit(_resolve_for_child(uffd))
        uffd.register(region.address, region.length, Mode.MISSING)
        child = os.fork()
        if child == 0:
            os._exit(region.load(0, 1)[0])
        assert os.waitpid(child, 0)[1] == 0
        assert os.waitpid(monitor, 0)[1] == 0


def _resolve_for_child(uffd: Userfaultfd) -> int:
    """Exit code 0 if there was a fork and then a fault of the child."""
    (event,) = uffd.read_events(5)
    if not isinstance(event, Fork):
        return 1
    with Userfaultfd.adopt(event.descriptor, uffd.features) as child:
        (fault,) = child.read_events(5)
        if not isinstance(fault, PageFault):
            return 2
        child.zeropage(fault.address, PAGE_BYTES)
    return 0


def test_waiting_for_events_ends() -> None:
    """A time-out gives no event and takes about as long as was said."""
    with _missing() as (_, uffd):
        began = time.monotonic()
        assert uffd.read_events(0.05) == []
        assert uffd.read_events(0) == []
        assert 0.04 < time.monotonic() - began < 5


def test_written_pages_are_found() -> None:
    """Asynchronous write protection: PAGEMAP_SCAN finds what was written, and protects it again."""
    if not scan_supported():
        pytest.skip("This kernel has no PAGEMAP_SCAN (6.7).")
    flags = pagemap.PM_SCAN_WP_MATCHING | pagemap.PM_SCAN_CHECK_WPASYNC
    with _protected(Feature.WP_ASYNC | Feature.WP_UNPOPULATED) as (region, _):
        region.store(PAGE_BYTES, b"x")
        region.store(6 * PAGE_BYTES, b"x")
        found = scan(region.address, region.length, flags=flags)
        assert found.pages(region.address) == [1, 6]
        assert found.walk_end == region.address + region.length
        assert scan(region.address, region.length).regions == ()
        with (
            Region.anonymous(PAGE_BYTES) as other,
            pytest.raises(UserfaultfdError, match="PAGEMAP_SCAN") as caught,
        ):
            scan(other.address, PAGE_BYTES, flags=flags)
        assert caught.value.errno == errno.EPERM
