"""Reads and writes guest RAM by guest-physical address from outside, through /proc/PID/mem of QEMU."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from harness.codes import Code
from harness.errors import MachineryMissing, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine, known_pid

# QEMU monitor/hmp-cmds-target.c hmp_gpa2hva().
_FOUND = re.compile(r"Host virtual address for 0x[0-9a-f]+ \(.+\) is 0x([0-9a-f]+)")


class QemuMemoryGone(SetupBroken):
    """QEMU has no memory any more: it is about to end, or has ended."""

    code = Code.QEMU_MEMORY_UNREADABLE


class GuestMemory:
    """The guest-physical memory of one QEMU, page by page. Neither a read nor a write stops the guest.

    A write to a page that a background snapshot protects waits until the page is saved, as the guest's do.
    """

    def __init__(self, machine: Machine) -> None:
        """Find the memory of a running QEMU.

        Raises:
            MachineryMissing: its process id cannot be known.
        """
        self._machine = machine
        self._path = Path(f"/proc/{known_pid(machine)}/mem")
        self._pages: dict[int, int] = {}

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a guest-physical address.

        Raises:
            SetupBroken: there is no RAM. QemuMemoryGone: QEMU ends.
            MachineryMissing: this host does not let us read QEMU's memory.
        """
        try:
            with self._path.open("rb", buffering=0) as memory:
                pieces = self._pieces(address, size)
                parts = [os.pread(memory.fileno(), length, host) for host, length in pieces]
        except OSError as error:
            _raise(error)
        data = b"".join(parts)
        if len(data) != size:
            raise QemuMemoryGone("The guest's memory cannot be read: QEMU's memory is gone.")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at a guest-physical address.

        Raises:
            SetupBroken: there is no RAM. QemuMemoryGone: QEMU ends.
            MachineryMissing: this host does not let us write to QEMU's memory.
        """
        try:
            with self._path.open("r+b", buffering=0) as memory:
                for host, length in self._pieces(address, len(data)):
                    if os.pwrite(memory.fileno(), data[:length], host) != length:
                        raise QemuMemoryGone("The guest's memory cannot be written: QEMU's memory is gone.")
                    data = data[length:]
        except OSError as error:
            _raise(error)

    def host_address(self, address: int) -> int:
        """Return where a byte of guest RAM lies in QEMU's own address space.

        Raises:
            SetupBroken: there is no RAM at that guest-physical address.
        """
        page, offset = address // TARGET_PAGE_BYTES, address % TARGET_PAGE_BYTES
        if page not in self._pages:
            answer = self._machine.hmp(f"gpa2hva {page * TARGET_PAGE_BYTES:#x}")
            found = _FOUND.search(answer)
            if not found:
                raise SetupBroken(f"The guest has no RAM at {address:#x}; QEMU says: {answer.strip()}.")
            self._pages[page] = int(found[1], 16)
        return self._pages[page] + offset

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield host address and length of the parts of a range that lie in one page each."""
        while size > 0:
            length = min(size, TARGET_PAGE_BYTES - address % TARGET_PAGE_BYTES)
            yield self.host_address(address), length
            address, size = address + length, size - length


def _raise(error: OSError) -> NoReturn:
    if isinstance(error, PermissionError):
        raise MachineryMissing(
            "This host does not allow reading and writing QEMU's memory (/proc/PID/mem); allow a process to "
            "ptrace its children (sysctl kernel.yama.ptrace_scope=1 or 0)."
        ) from error
    # Linux fs/proc/base.c: a process that is ending has no memory any more before it has ended.
    if error.errno in (errno.ESRCH, errno.ENOENT):
        raise QemuMemoryGone("The guest's memory cannot be used: QEMU's memory is gone.") from error
    raise SetupBroken(
        f"The guest's memory cannot be used: {error.strerror}.", code=Code.QEMU_MEMORY_UNREADABLE
    ) from error
