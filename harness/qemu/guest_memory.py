"""Reads and writes guest RAM by guest-physical address from outside, through /proc/PID/mem of QEMU."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import NoReturn, Protocol

from harness.codes import Code
from harness.errors import MachineryMissing, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine, known_pid

# QEMU monitor/hmp-cmds-target.c hmp_gpa2hva().
_FOUND = re.compile(r"Host virtual address for 0x[0-9a-f]+ \((.+)\) is 0x([0-9a-f]+)")


class QemuMemoryGone(SetupBroken):
    """QEMU has no memory any more: it is about to end, or has ended."""

    code = Code.QEMU_MEMORY_UNREADABLE


class PageProtected(SetupBroken):
    """A page cannot be written to from outside as long as userfaultfd protects it."""

    code = Code.QEMU_MEMORY_UNREADABLE


class PhysicalMemory(Protocol):
    """A way to guest RAM from outside, by guest-physical address."""

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at an address."""

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at an address; raises PageProtected where it does not wait for a protected page."""


class GuestMemory:
    """The guest-physical memory of one QEMU. Neither a read nor a write stops the guest."""

    def __init__(self, machine: Machine) -> None:
        """Find the memory of a running QEMU.

        Raises:
            MachineryMissing: its process id cannot be known.
        """
        self._machine = machine
        self._path = Path(f"/proc/{known_pid(machine)}/mem")
        self._pages: dict[int, tuple[str, int]] = {}

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a guest-physical address.

        Raises:
            SetupBroken: there is no RAM. QemuMemoryGone: QEMU ends.
            MachineryMissing: this host does not let us read QEMU's memory.
        """
        host = self.host_address(address, size)
        try:
            with self._path.open("rb", buffering=0) as memory:
                data = os.pread(memory.fileno(), size, host)
        except OSError as error:
            _raise(error)
        if len(data) != size:
            raise QemuMemoryGone("The guest's memory cannot be read: QEMU's memory is gone.")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at a guest-physical address.

        Raises:
            PageProtected: a background snapshot protects a page. SetupBroken: there is no RAM.
            QemuMemoryGone: QEMU ends. MachineryMissing: this host does not let us write to QEMU's memory.
        """
        host = self.host_address(address, len(data))
        try:
            with self._path.open("r+b", buffering=0) as memory:
                written = os.pwrite(memory.fileno(), data, host)
        except OSError as error:
            _raise(error)
        if written != len(data):
            raise QemuMemoryGone("The guest's memory cannot be written: QEMU's memory is gone.")

    def host_address(self, address: int, size: int = 1) -> int:
        """Return where a range of guest RAM lies in QEMU's own address space.

        Raises:
            SetupBroken: there is no RAM at that guest-physical address, or not in one piece.
        """
        last = address + size - 1
        (region, host), (last_region, last_host) = self._located(address), self._located(last)
        if region != last_region or last_host - host != last - address:
            raise SetupBroken(f"Guest RAM from {address:#x} to {last:#x} does not lie in one piece in QEMU.")
        return host

    def _located(self, address: int) -> tuple[str, int]:
        """Return the memory region of a byte, and its address in QEMU."""
        page, offset = address // TARGET_PAGE_BYTES, address % TARGET_PAGE_BYTES
        if page not in self._pages:
            answer = self._machine.hmp(f"gpa2hva {page * TARGET_PAGE_BYTES:#x}")
            found = _FOUND.search(answer)
            if not found:
                raise SetupBroken(f"The guest has no RAM at {address:#x}; QEMU says: {answer.strip()}.")
            self._pages[page] = found[1], int(found[2], 16)
        region, host = self._pages[page]
        return region, host + offset


def _raise(error: OSError) -> NoReturn:
    if isinstance(error, PermissionError):
        raise MachineryMissing(
            "This host does not allow reading and writing QEMU's memory (/proc/PID/mem); allow a process to "
            "ptrace its children (sysctl kernel.yama.ptrace_scope=1 or 0)."
        ) from error
    # Linux fs/proc/base.c: a process that is ending has no memory any more before it has ended.
    if error.errno in (errno.ESRCH, errno.ENOENT):
        raise QemuMemoryGone("The guest's memory cannot be used: QEMU's memory is gone.") from error
    if error.errno == errno.EIO:
        # Linux mm/memory.c __access_remote_vm() does not wait for a fault that userfaultfd is to handle.
        raise PageProtected("The guest's memory cannot be written: userfaultfd protects the page.") from error
    raise SetupBroken(
        f"The guest's memory cannot be used: {error.strerror}.", code=Code.QEMU_MEMORY_UNREADABLE
    ) from error
