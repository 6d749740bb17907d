"""Has QEMU's fw_cfg device copy marked pages into guest RAM by DMA.

See docs/specs/fw_cfg.rst of QEMU 10.0: selector, directory of files, and DMA interface.
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import region_addresses
from harness.qemu.qtest import Qtest
from tests_functional.foreign_writers.target import CONTROL_PAGES, PAGES, Target
from tests_functional.lib.patience import patient

FILE = "opt/snapproof/marks"
"""Name of the file with the marked pages of all passes."""

# QEMU 10.0 hw/nvram/fw_cfg.c fw_cfg_common_realize(): the name of the register.
_REGION = "fwcfg.dma"
# Read, the register gives "QEMU CFG"; the port has the other byte order.
_DMA_PORT, _SIGNATURE = 0x514, int.from_bytes(b"QEMU", "little")
_DIRECTORY = 0x19
_READ, _SKIP, _SELECT, _ERROR = 1 << 1, 1 << 2, 1 << 3, 1 << 0
_ENTRY_BYTES, _MOST_FILES = 64, 64
_REQUESTS = 16
_REQUEST_BYTES = PAGES // _REQUESTS * TARGET_PAGE_BYTES
_CONTROL_BYTES = 16
_POLL_SECONDS = 0.002


class _Ports:
    """The register of x86 machines; nobody has to find it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, offset: int) -> int:
        return read_port(self._machine, _DMA_PORT + offset, 4)

    def write(self, offset: int, value: int) -> None:
        write_port(self._machine, _DMA_PORT + offset, 4, value)


class _Memory:
    """The register of other machines, in memory.

    Raises:
        NotApplicable: the machine's device has none.
    """

    def __init__(self, machine: Machine, qtest: Qtest) -> None:
        self._qtest = qtest
        found = region_addresses(machine, _REGION)
        if not found:
            raise NotApplicable("The machine has no fw_cfg device with DMA in memory.")
        self._place = found[0]

    def read(self, offset: int) -> int:
        return self._qtest.read(self._place + offset, 4)

    def write(self, offset: int, value: int) -> None:
        self._qtest.write(self._place + offset, 4, value)


class FwCfgDma:
    """The DMA interface of the device in a running machine."""

    def __init__(self, machine: Machine, target: Target, qtest: Qtest | None = None) -> None:
        """Use the target's control pages, of which a driver may use the second half for its own requests.

        Args:
            machine: QEMU.
            target: has the control pages.
            qtest: reaches the device's register in memory, None where it is an I/O port.

        Raises:
            NotApplicable: the machine's device has no DMA.
        """
        self._register = _Memory(machine, qtest) if qtest else _Ports(machine)
        if self._register.read(0) != _SIGNATURE:
            raise NotApplicable("The machine's fw_cfg device has no DMA, as those before machine type 2.5.")
        self._machine, self._memory = machine, target.memory
        self._request = target.control
        self._directory = target.control + TARGET_PAGE_BYTES

    def carry_out(self, address: int, deadline: Deadline) -> None:
        """Start the request at a guest-physical address, and wait until it has been carried out.

        Raises:
            SetupBroken: it failed. DeadlineExpired: it is not carried out in time.
        """
        for offset, half in ((0, address >> 32), (4, address & 0xFFFFFFFF)):
            # The register has the other byte order than the guest.
            (swapped,) = struct.unpack("<I", struct.pack(">I", half))
            self._register.write(offset, swapped)

        def done() -> bool:
            (control,) = struct.unpack(">I", self._memory.read(address, 4))
            if control & _ERROR:
                raise SetupBroken("fw_cfg reports an error of a DMA request.")
            return bool(control == 0)

        deadline.wait_for(done, "fw_cfg's answer", interval=_POLL_SECONDS)

    def find_file(self, wanted: str) -> int:
        """Return the selector of a file.

        Raises:
            SetupBroken: the device does not have it.
        """
        size = 4 + _MOST_FILES * _ENTRY_BYTES
        self._memory.write(self._directory, bytes(size))
        self._memory.write(self._request, read_request(_DIRECTORY, size, self._directory))
        with patient(self._machine) as deadline:
            self.carry_out(self._request, deadline)
        data = self._memory.read(self._directory, size)
        (count,) = struct.unpack_from(">I", data)
        for number in range(min(count, _MOST_FILES)):
            _, selector, name = struct.unpack_from(">IH2x56s", data, 4 + number * _ENTRY_BYTES)
            if name.rstrip(b"\0") == wanted.encode():
                return int(selector)
        raise SetupBroken(f"The guest's fw_cfg device has no file '{wanted}'.")


def read_request(selector: int, size: int, address: int) -> bytes:
    """Return the request to copy the beginning of a file to guest RAM."""
    return struct.pack(">IIQ", selector << 16 | _SELECT | _READ, size, address)


class FwCfg:
    """The driver of the device as a writer; its requests are in guest RAM."""

    pages = PAGES

    def __init__(self, board: Board, target: Target) -> None:
        """Find the control pages of a running machine.

        Raises:
            NotApplicable: the machine's device has no DMA.
        """
        self._dma = FwCfgDma(board.machine, target, None if board.kind.io_ports else board.qtest)
        self._memory = target.memory
        self._requests = target.control + CONTROL_PAGES // 2 * TARGET_PAGE_BYTES
        self._data = target.data
        self._file = 0

    def start(self) -> None:
        """Find the file.

        Raises:
            SetupBroken: the device does not have it.
        """
        self._file = self._dma.find_file(FILE)

    def offer(self, number: int) -> None:
        """Write the requests of a pass to guest RAM."""
        select = self._file << 16 | _SELECT
        skipped = number * PAGES * TARGET_PAGE_BYTES
        requests = [struct.pack(">IIQ", select | _SKIP, skipped, 0)]
        requests += [
            struct.pack(">IIQ", _READ, _REQUEST_BYTES, self._data + request * _REQUEST_BYTES)
            for request in range(_REQUESTS)
        ]
        self._memory.write(self._requests, b"".join(requests))

    def write(self, _number: int, deadline: Deadline) -> None:
        """Start the requests one after another.

        Raises:
            SetupBroken: one of them failed. DeadlineExpired: one is not carried out in time.
        """
        for request in range(_REQUESTS + 1):
            self._dma.carry_out(self._requests + request * _CONTROL_BYTES, deadline)
