"""Has another process write to memory that it shares with QEMU, by a descriptor of the same file.

Nobody tells that process of T0, in any save: it may be a peer of the guest's (ivshmem), or a program of the
host's that knows guest RAM by its memory backend.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board, has_id
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine, known_pid
from tests_functional.foreign_writers.target import PAGES, Target

IVSHMEM_MIB = 4
"""Size of the memory of the ivshmem device; more than the target pages."""

# QEMU 10.0 hw/misc/ivshmem-pci.c: the memory is behind the third base address register.
_IVSHMEM_ID, _IVSHMEM_BAR = (0x1AF4, 0x1110), 2


class SharedMemory:
    """A process that writes marked pages from the disk into a file that is QEMU's memory."""

    pages = PAGES

    def __init__(self, machine: Machine, disk: Path, size: int, offset: int) -> None:
        """Find the file among QEMU's descriptors.

        Args:
            machine: QEMU.
            disk: image with the marked pages of all passes.
            size: the file's, in bytes, by which it is known.
            offset: of the target pages in it, in bytes.

        Raises:
            SetupBroken: QEMU has no such file. MachineryMissing: its process id is not known.
        """
        self._file = _memory_file(known_pid(machine), size)
        self._disk, self._offset = disk, offset

    def start(self) -> None:
        """Do nothing: the file is there."""

    def offer(self, _number: int) -> None:
        """Do nothing: the process is told what to write when it is started."""

    def write(self, number: int, deadline: Deadline) -> None:
        """Have a process write the pages of a pass.

        Raises:
            SetupBroken: it cannot, or does not end in time.
        """
        command = [
            *("dd", f"if={self._disk}", f"of={self._file}", f"bs={TARGET_PAGE_BYTES}", f"count={PAGES}"),
            *(f"skip={number * PAGES}", f"seek={self._offset // TARGET_PAGE_BYTES}", "conv=notrunc"),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=deadline.remaining()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SetupBroken(f"No process writes to QEMU's memory: {error}.") from error
        if done.returncode:
            raise SetupBroken(f"The process that writes to QEMU's memory fails: {done.stderr.strip()}.")


class IvshmemPeer(SharedMemory):
    """A peer of the guest's, which shares the memory of an ivshmem device with it."""

    def __init__(self, board: Board, disk: Path) -> None:
        """Find the memory of a running machine's device.

        Raises:
            SetupBroken: the machine has no such device, or QEMU no such file.
        """
        super().__init__(board.machine, disk, IVSHMEM_MIB * MIB, 0)
        self._function = board.find("ivshmem device", has_id(*_IVSHMEM_ID))
        self._first = board.free_addresses()

    def start(self) -> None:
        """Give the memory its place among the guest's, where it is looked at."""
        self._function.give_memory(_IVSHMEM_BAR, self._first)
        self._function.enable()


def ram_file(board: Board, target: Target, disk: Path) -> SharedMemory:
    """Return the process that writes to the target pages, where RAM is one file, in one piece."""
    machine = board.machine
    return SharedMemory(machine, disk, machine.config.ram_mib * MIB, target.data - board.kind.ram_start)


def _memory_file(pid: int, size: int) -> Path:
    """Return the one file in memory of that size which a process has open.

    Raises:
        SetupBroken: it has none, or several.
    """
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(descriptor.readlink()).startswith("/memfd:") and descriptor.stat().st_size == size:
                found.append(descriptor)
        except FileNotFoundError:
            continue
    if len(found) != 1:
        raise SetupBroken(f"QEMU has {len(found)} memory files of {size // MIB} MiB open, not one.")
    return found[0]
