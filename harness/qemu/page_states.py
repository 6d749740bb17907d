"""Read the state of each page of guest RAM in QEMU's page table: protected, mapped, moved, large."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import MachineryMissing
from harness.qemu.machine import Machine
from harness.qemu.ram import RamBlock, pagemap_entries

Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

# Linux Documentation/admin-guide/mm/pagemap.rst: bits of /proc/PID/pagemap, and of /proc/kpageflags.
_PRESENT, _PROTECTED = np.uint64(1 << 63), np.uint64(1 << 57)
_FRAME = np.uint64((1 << 55) - 1)
_COMPOUND = np.uint64(3 << 15)
_ZERO_PAGE = np.uint64(1 << 24)
_KPAGEFLAGS = Path("/proc/kpageflags")


@dataclass(frozen=True)
class PageStates:
    """The pages of a RAMBlock at one moment.

    Attributes:
        entries: of QEMU's pagemap, uint64[host pages].
        flags: of the page frames, uint64[host pages]; 0 for a page that is not mapped.
    """

    entries: Words
    flags: Words

    @property
    def protected(self) -> Flags:
        """Which pages userfaultfd write-protects, in RAM or in swap space (Linux 5.14)."""
        found: Flags = self.entries & _PROTECTED != 0
        return found

    @property
    def present(self) -> Flags:
        """Which pages are mapped."""
        found: Flags = self.entries & _PRESENT != 0
        return found

    @property
    def large(self) -> Flags:
        """Which pages are parts of a large page, whether one entry maps all of it or not."""
        found: Flags = self.flags & _COMPOUND != 0
        return found

    def moved(self, later: PageStates) -> Flags:
        """Return which pages have other frames later; a write replaces the zero page, so it is left out."""
        own = self.present & later.present & (self.flags & _ZERO_PAGE == 0)
        found: Flags = own & (self.entries & _FRAME != later.entries & _FRAME)
        return found


def page_states(machine: Machine, block: RamBlock) -> PageStates:
    """Return the state of each page of a block.

    Raises:
        MachineryMissing: this user may not read the flags of page frames, as root may.
        SetupBroken: QEMU's pagemap cannot be read.
    """
    entries = pagemap_entries(machine, block)
    mapped = entries & _PRESENT != 0
    return PageStates(entries, _frame_flags(np.where(mapped, entries & _FRAME, np.uint64(0))))


def protected_pages(machine: Machine, block: RamBlock) -> Flags:
    """Return which pages of a block userfaultfd write-protects: bool[host pages].

    Raises:
        SetupBroken: QEMU's pagemap cannot be read.
    """
    found: Flags = pagemap_entries(machine, block) & _PROTECTED != 0
    return found


def _frame_flags(frames: Words) -> Words:
    """Return the flags of page frames; neighbours are read at once."""
    flags = np.zeros(len(frames), dtype="<u8")
    edges = np.flatnonzero(np.diff(frames.astype(np.int64)) != 1) + 1
    try:
        descriptor = os.open(_KPAGEFLAGS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MachineryMissing(f"{_KPAGEFLAGS} cannot be read, as root can: {error.strerror}.") from error
    try:
        for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(frames)], strict=True):
            first = int(frames[start])
            if first:
                data = os.pread(descriptor, 8 * (end - start), 8 * first)
                flags[start : start + len(data) // 8] = np.frombuffer(data, "<u8")
    finally:
        os.close(descriptor)
    return flags
