"""Lends the run what a host has switched off, as root and when asked to, and takes it back afterwards."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

from harness.userfaultfd import libc

from .needs import OWN_SWAP

_HUGE_PAGES = 32
_SWAP_BYTES = 64 << 20
_THP = Path("/sys/kernel/mm/transparent_hugepage")

KSM = "ksm"
"""The need that is lent only when asked for by itself: KSM merges memory of all programs of the host."""

# For each need what is written, and where; all is put back to what it was. nr_overcommit_hugepages gives huge
# pages only to who asks for some, and takes none from others.
_SETTINGS = {
    "hugetlb": (Path("/proc/sys/vm/nr_overcommit_hugepages"), str(_HUGE_PAGES)),
    "mthp": (_THP / "hugepages-64kB" / "enabled", "madvise"),
    "shmem-thp": (_THP / "shmem_enabled", "advise"),
    KSM: (Path("/sys/kernel/mm/ksm/run"), "1"),
}
_SWAP_NEEDS = {"swap", "own-swap"}


class Preparation:
    """Settings and a swap device for the time of its ``with``.

    What could not be done is told in sentences; the tests that need it are skipped.
    """

    def __init__(self, wanted: Iterable[str], told: Callable[[str], object]) -> None:
        """Lend what these needs (names of `needs.NEEDS`) take; none changes nothing."""
        self._wanted = set(wanted)
        self._told = told
        self._before: dict[Path, str] = {}
        self._zram = ""

    def __enter__(self) -> Preparation:
        for need, (path, value) in _SETTINGS.items():
            if need in self._wanted:
                self._set(path, value)
        if self._wanted & _SWAP_NEEDS:
            try:
                self._swap_on()
            except OSError as error:
                self._told(f"No swap device could be set up: {error}.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._zram:
            self._swap_off()
        for path, value in self._before.items():
            path.write_text(value)

    def _set(self, path: Path, value: str) -> None:
        try:
            text = path.read_text().strip()
            current = text.partition("[")[2].partition("]")[0] or text
            if current == value or (value.isdigit() and current.isdigit() and int(current) >= int(value)):
                return
            path.write_text(value)
        except OSError as error:
            self._told(f"'{path}' could not be set to {value}: {error}.")
        else:
            self._before[path] = current

    def _swap_on(self) -> None:
        """A zram device: swap space in memory, so that nothing of the host's disks is touched."""
        control = Path("/sys/class/zram-control/hot_add")
        number = control.read_text().strip()
        self._zram = number
        Path(f"/sys/block/zram{number}/disksize").write_text(str(_SWAP_BYTES))
        device = f"/dev/zram{number}"
        _until_there(device)
        write_swap_header(device, _SWAP_BYTES)
        libc.checked(libc.LIBC.swapon(device.encode(), 0), f"swapon of {device}")
        os.environ[OWN_SWAP] = device

    def _swap_off(self) -> None:
        device = os.environ.pop(OWN_SWAP, "")
        if device and libc.LIBC.swapoff(device.encode()) != 0 and ctypes.get_errno() != errno.EINVAL:
            self._told(f"swapoff of {device} failed: {os.strerror(ctypes.get_errno())}.")
        try:
            Path(f"/sys/block/zram{self._zram}/reset").write_text("1")
            Path("/sys/class/zram-control/hot_remove").write_text(self._zram)
        except OSError as error:
            self._told(f"zram{self._zram} could not be removed: {error}.")
        self._zram = ""


def write_swap_header(device: str, length: int) -> None:
    """Make a device swap space: ``union swap_header`` of include/linux/swap.h, version 1."""
    page = bytearray(libc.PAGE_BYTES)
    struct.pack_into("<III", page, 1024, 1, length // libc.PAGE_BYTES - 1, 0)
    page[-10:] = b"SWAPSPACE2"
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, bytes(page), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _until_there(path: str) -> None:
    end = time.monotonic() + 5
    while not os.path.exists(path) and time.monotonic() < end:  # noqa: PTH110 (a device node)
        time.sleep(0.02)
