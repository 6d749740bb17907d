"""Answers the events of a userfaultfd on a thread of its own, and keeps a record of them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from dataclasses import dataclass
from typing import Callable

from harness.userfaultfd import (
    PAGE_BYTES,
    FaultFlag,
    Feature,
    PageFault,
    Userfaultfd,
    UserfaultfdError,
    libc,
    read_pagemap,
)

from .memory import ADDRESS_OF
from .model import FILLER
from .steps import Monitor


@dataclass(frozen=True)
class Fault:
    """An event that was answered.

    Attributes:
        address: of the page.
        what: `missing`, `minor` or `wp`.
        peeked: the first word of the page while its writer waited, None if that was not looked at.
    """

    address: int
    what: str
    peeked: int | None


class Watch:
    """A userfaultfd whose events are answered as a list's monitor says; `close` ends it.

    Attributes:
        uffd: the userfaultfd.
        peek: whether a page is looked at while its writer waits; not if the kernel may empty it meanwhile.
    """

    def __init__(self, monitor: Monitor, uffd: Userfaultfd) -> None:
        self.uffd = uffd
        self.peek = True
        self._protect = monitor.protect
        self._faults: list[Fault] = []
        self._errors: list[str] = []
        self._end, self._told = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def take(self) -> list[Fault]:
        """Return the events since the last call."""
        found, self._faults = self._faults, []
        return found

    def problems(self) -> list[str]:
        """Return what went wrong with answers since the last call."""
        found, self._errors = self._errors, []
        return found

    def stop(self) -> None:
        """End the thread; events are not answered any more."""
        if self._told >= 0:
            os.close(self._told)
            self._told = -1
            self._thread.join()
            os.close(self._end)

    def close(self) -> None:
        """End the thread and close the userfaultfd."""
        self.stop()
        self.uffd.close()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.uffd.fileno(), select.POLLIN)
        poll.register(self._end, select.POLLIN | select.POLLHUP)
        while True:
            ready = poll.poll()
            if any(descriptor == self._end for descriptor, _ in ready):
                return
            try:
                for event in self.uffd.read_events(0):
                    if isinstance(event, PageFault):
                        self.answer(event.address & -PAGE_BYTES, event.flags)
            except OSError as error:
                self._errors.append(str(error))

    def answer(self, address: int, flags: FaultFlag) -> None:
        """Record an event and answer it."""
        if flags & FaultFlag.WP:
            word = int.from_bytes(libc.load(address, 8), "little") if self.peek else None
            self.record(Fault(address, "wp", word))
            self._try(lambda: self.uffd.write_protect(address, PAGE_BYTES, protect=False))
        elif flags & FaultFlag.MINOR:
            self.record(Fault(address, "minor", None))
            bit = read_pagemap(address, PAGE_BYTES)[0].write_protected
            self._try(lambda: self.uffd.continue_(address, PAGE_BYTES, write_protect=bit), address)
        else:
            self.record(Fault(address, "missing", None))
            self._try(lambda: self._fill(address), address)

    def record(self, fault: Fault) -> None:
        """Note an event."""
        self._faults.append(fault)

    def _fill(self, address: int) -> None:
        try:
            self.uffd.copy(address, ADDRESS_OF[FILLER], PAGE_BYTES, write_protect=self._protect)
        except UserfaultfdError as error:
            if error.errno != errno.EINVAL or not self._protect:
                raise
            # This page is not registered for protection.
            self.uffd.copy(address, ADDRESS_OF[FILLER], PAGE_BYTES)

    def _try(self, answer: Callable[[], object], address: int = 0) -> None:
        try:
            answer()
        except UserfaultfdError as error:
            if error.errno not in (errno.EEXIST, errno.EFAULT, errno.ENOENT):
                self._errors.append(str(error))
            # It was answered already, or is not registered any more: let the access be tried again.
            if address:
                with contextlib.suppress(UserfaultfdError):
                    self.uffd.wake(address, PAGE_BYTES)


def features_of(monitor: Monitor) -> Feature:
    """Return the features that a monitor takes."""
    features = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.MISSING_SHMEM
    features |= Feature.MINOR_SHMEM
    if monitor.unpopulated or monitor.asynchronous:
        features |= Feature.WP_UNPOPULATED
    if monitor.asynchronous:
        features |= Feature.WP_ASYNC
    return features
