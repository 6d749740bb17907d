"""Write trackers by userfaultfd: write protection, and asynchronous write protection with PAGEMAP_SCAN."""

from __future__ import annotations

import time

from harness.userfaultfd import (
    Feature,
    PageFault,
    Region,
    Userfaultfd,
    UserfaultfdError,
    offered_features,
    pagemap,
    probe_userfaultfd,
    scan,
    scan_supported,
)

from .tracker import MemoryCopy, Session, Tracker

_IDLE_SECONDS = 0.005


class UffdWp(Tracker):
    """Protect all memory with the writers stopped, then save page by page, a page that faults first.

    This is the method of QEMU's background snapshot: one thread, which looks for faults between two pages,
    saves the page of a fault before all others, and releases a page only after it has been saved.
    """

    name = "uffd-wp"

    def missing(self) -> str:
        """Return why it cannot work: no PAGEFAULT_FLAG_WP (5.7), or faults in kernel mode are not trapped."""
        support = probe_userfaultfd()
        if support.write_protect:
            return ""
        return support.reason or "This kernel has no PAGEFAULT_FLAG_WP."

    def snapshot(self, session: Session) -> MemoryCopy:
        """Take a snapshot whose T0 is its start."""
        region, result = session.region, MemoryCopy.of_size(session.region.length)
        saved = bytearray(region.pages)
        began = time.perf_counter_ns()
        with Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd:
            uffd.register(region.address, region.length)
            stopped = time.perf_counter_ns()
            session.writers.pause()
            self._protect(uffd, region)
            session.at_t0()
            session.writers.resume()
            result.stats.stun_ns = time.perf_counter_ns() - stopped
            position = 0
            while position < region.pages:
                sweeping = session.may_sweep()
                for event in uffd.read_events(0 if sweeping else _IDLE_SECONDS):
                    if isinstance(event, PageFault):
                        result.stats.faults += 1
                        page = (event.address - region.address) // region.page_bytes
                        self._answer(uffd, region, page, result, saved)
                if sweeping:
                    if not saved[position]:
                        result.stats.swept += 1
                        self._save(uffd, region, position, result, saved)
                    position += 1
        result.stats.total_ns = time.perf_counter_ns() - began
        return result

    # Each step below is a method, so that a planted fault can replace it.

    def _protect(self, uffd: Userfaultfd, region: Region) -> None:
        uffd.write_protect(region.address, region.length)

    def _answer(
        self, uffd: Userfaultfd, region: Region, page: int, result: MemoryCopy, saved: bytearray
    ) -> None:
        # Two threads can fault on one page; the second event comes after the page was released.
        if saved[page]:
            self._release(uffd, region, page)
        else:
            self._save(uffd, region, page, result, saved)

    def _save(
        self, uffd: Userfaultfd, region: Region, page: int, result: MemoryCopy, saved: bytearray
    ) -> None:
        self._copy(region, page, result)
        saved[page] = 1
        self._release(uffd, region, page)

    def _copy(self, region: Region, page: int, result: MemoryCopy) -> None:
        offset = page * region.page_bytes
        result.data[offset : offset + region.page_bytes] = region.load(offset, region.page_bytes)

    def _release(self, uffd: Userfaultfd, region: Region, page: int) -> None:
        uffd.write_protect(region.at(page), region.page_bytes, protect=False)


class AsyncWp(Tracker):
    """Copy all memory, then in rounds the pages written meanwhile, the last round with the writers stopped.

    Under asynchronous write protection (6.7) a write neither waits nor causes an event: the kernel lifts the
    protection itself and remembers that the page was written. So this is a dirty tracker. It cannot keep the
    content that a page had before a write, and its T0 is the end of the snapshot. If the writers are faster
    than the tracker, the last stop is long.
    """

    name = "async-wp"
    exact_start = False
    most_rounds = 20
    few_pages = 16

    def missing(self) -> str:
        """Return why it cannot work: the kernel has no WP_ASYNC or no PAGEMAP_SCAN (both 6.7)."""
        try:
            offered = offered_features()
        except UserfaultfdError:
            return probe_userfaultfd().reason
        if not offered & Feature.WP_ASYNC:
            return "This kernel has no WP_ASYNC."
        return "" if scan_supported() else "This kernel has no PAGEMAP_SCAN."

    def snapshot(self, session: Session) -> MemoryCopy:
        """Take a snapshot whose T0 is its end."""
        region, result = session.region, MemoryCopy.of_size(session.region.length)
        began = time.perf_counter_ns()
        with Userfaultfd(Feature.WP_ASYNC | Feature.PAGEFAULT_FLAG_WP) as uffd:
            uffd.register(region.address, region.length)
            uffd.write_protect(region.address, region.length)
            result.data[:] = region.load()
            written = region.pages
            while not session.may_sweep() or (
                written > self.few_pages and result.stats.rounds < self.most_rounds
            ):
                written = self._copy_written(region, result)
            stopped = time.perf_counter_ns()
            session.writers.pause()
            self._copy_written(region, result)
            session.at_t0()
            session.writers.resume()
            result.stats.stun_ns = time.perf_counter_ns() - stopped
        result.stats.total_ns = time.perf_counter_ns() - began
        return result

    def _copy_written(self, region: Region, result: MemoryCopy) -> int:
        """Copy the pages written since the last call and return their number.

        The scan protects each page again as it finds it, before it is copied, so the next round finds any
        later write.
        """
        flags = pagemap.PM_SCAN_WP_MATCHING | pagemap.PM_SCAN_CHECK_WPASYNC
        found = scan(region.address, region.length, flags=flags, most_regions=region.pages + 1)
        count = 0
        for start, end, _ in found.regions:
            offset = start - region.address
            result.data[offset : offset + end - start] = region.load(offset, end - start)
            count += (end - start) // region.page_bytes
        result.stats.swept += count
        result.stats.rounds += 1
        return count
