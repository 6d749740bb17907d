"""Set up huge pages, swap and KSM for a run with --prepare or --ksm, and restore the host afterwards."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Callable

from harness.userfaultfd import libc

from .interruption import held
from .needs import HUGETLB_POOL, OWN_SWAP

_HUGE_PAGES = 32
_SWAP_BYTES = 64 << 20
_THP = Path("/sys/kernel/mm/transparent_hugepage")

KSM = "ksm"
"""The need that only --ksm sets up, not --prepare: KSM merges memory of all programs on the host."""

# For each need the file and the value to write; the old value is restored afterwards. nr_overcommit_hugepages
# reserves nothing: it only allows programs that ask for huge pages to get some.
_SETTINGS = {
    "hugetlb": (HUGETLB_POOL / "nr_overcommit_hugepages", str(_HUGE_PAGES)),
    "mthp": (_THP / "hugepages-64kB" / "enabled", "madvise"),
    "shmem-thp": (_THP / "shmem_enabled", "advise"),
    KSM: (Path("/sys/kernel/mm/ksm/run"), "1"),
}
_SWAP_NEEDS = {"swap", "own-swap"}


class Preparation:
    """Kernel settings and a swap device that exist during its ``with``.

    If a setting cannot be changed, a warning says so, and the tests that need it are skipped.
    """

    def __init__(
        self,
        wanted: Iterable[str],
        warn: Callable[[str], object],
        exactly: Mapping[Path, str] | None = None,
    ) -> None:
        """Describe what to set up.

        Args:
            wanted: needs to meet, names of `needs.NEEDS`; empty changes nothing.
            warn: called with a sentence about each thing that cannot be set up or restored.
            exactly: more files and their values, which may be lower than before.
        """
        self._wanted = set(wanted)
        self._warn = warn
        self._exactly = dict(exactly or {})
        self._before: dict[Path, str] = {}
        self._zram = ""

    def __enter__(self) -> Preparation:
        try:
            # What is changed and not yet noted would stay: a signal waits.
            with held():
                self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with held():
            if self._zram:
                self._swap_off()
            for path, value in self._before.items():
                self._restore(path, value)
            self._before.clear()

    def _restore(self, path: Path, value: str) -> None:
        try:
            path.write_text(value)
        except OSError as error:
            self._warn(f"'{path}' cannot be set back to '{value}': {error}; do it by hand.")

    def _set_up(self) -> None:
        for need, (path, value) in _SETTINGS.items():
            if need in self._wanted:
                self._set(path, value)
        for path, value in self._exactly.items():
            self._set(path, value, lower=True)
        if self._wanted & _SWAP_NEEDS:
            try:
                self._swap_on()
            except OSError as error:
                self._warn(f"The swap device in memory (zram) cannot be set up: {error}.")

    def _set(self, path: Path, value: str, lower: bool = False) -> None:
        try:
            text = path.read_text().strip()
            current = text.partition("[")[2].partition("]")[0] or text
            number = value.isdigit() and current.isdigit() and not lower
            if current == value or (number and int(current) >= int(value)):
                return
            path.write_text(value)
        except OSError as error:
            self._warn(f"'{path}' cannot be set to '{value}': {error}.")
        else:
            self._before[path] = current

    def _swap_on(self) -> None:
        """Create a zram device and use it as swap space, which leaves the host's disks alone."""
        control = Path("/sys/class/zram-control/hot_add")
        number = control.read_text().strip()
        self._zram = number
        Path(f"/sys/block/zram{number}/disksize").write_text(str(_SWAP_BYTES))
        device = f"/dev/zram{number}"
        _wait_for_device(device)
        write_swap_header(device, _SWAP_BYTES)
        libc.checked(libc.LIBC.swapon(device.encode(), 0), f"swapon of {device}")
        os.environ[OWN_SWAP] = device

    def _swap_off(self) -> None:
        device = os.environ.pop(OWN_SWAP, "")
        if device and libc.LIBC.swapoff(device.encode()) != 0 and ctypes.get_errno() != errno.EINVAL:
            self._warn(f"swapoff of '{device}' failed: {os.strerror(ctypes.get_errno())}; run it by hand.")
        try:
            Path(f"/sys/block/zram{self._zram}/reset").write_text("1")
            Path("/sys/class/zram-control/hot_remove").write_text(self._zram)
        except OSError as error:
            self._warn(f"The device zram{self._zram} cannot be removed: {error}; remove it by hand.")
        self._zram = ""


def write_swap_header(device: str, length: int) -> None:
    """Format a device as swap space: ``union swap_header`` of include/linux/swap.h, version 1."""
    page = bytearray(libc.PAGE_BYTES)
    struct.pack_into("<III", page, 1024, 1, length // libc.PAGE_BYTES - 1, 0)
    page[-10:] = b"SWAPSPACE2"
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, bytes(page), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _wait_for_device(path: str) -> None:
    end = time.monotonic() + 5
    while not os.path.exists(path) and time.monotonic() < end:  # noqa: PTH110 (a device node)
        time.sleep(0.02)
