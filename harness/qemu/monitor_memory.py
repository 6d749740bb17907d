"""Reads and writes guest RAM through QMP alone, for a QEMU whose memory we may not open.

No command of QMP or of the human monitor writes guest RAM. QEMU's gdbstub does, and the monitor starts it.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.errors import SetupBroken
from harness.qemu.guest_memory import GuestMemory, PhysicalMemory
from harness.qemu.machine import Machine

_GDB_SECONDS = 20.0
_ANSWER_BYTES = 1 << 12
# QEMU gdbstub/internals.h MAX_PACKET_LENGTH is 4096 with 2 digits for a byte, and a head.
_MOST_BYTES = 1024
# QEMU monitor/hmp-cmds-target.c memory_dump(): "0000000000100080: 0x53 0x4e ...".
_LINE = re.compile(r"^[0-9a-f]+:((?: 0x[0-9a-f]{2})+)\s*$", re.MULTILINE)


class MonitorMemory:
    """The guest-physical memory of one QEMU; a `PhysicalMemory`.

    A write stops the guest for some milliseconds, with events STOP and RESUME: QEMU does so for a debugger.
    It needs a QEMU that sees our folder of temporary files, in which the debugger's socket is.
    """

    def __init__(self, machine: Machine) -> None:
        """Use the monitor of a running QEMU."""
        self._machine = machine

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a guest-physical address.

        Raises:
            SetupBroken: there is no RAM. SubjectFailed: QEMU has ended.
        """
        text = self._machine.hmp(f"xp /{size}xb {address:#x}")
        data = bytes(int(byte, 16) for line in _LINE.findall(text) for byte in line.split())
        if len(data) != size:
            raise SetupBroken(f"QEMU does not print {size} bytes at {address:#x}, but: {text.strip()[:200]}.")
        return data

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at a guest-physical address. A page that a background snapshot protects is saved first.

        Raises:
            SetupBroken: the gdbstub cannot be reached, or refuses. SubjectFailed: QEMU has ended.
        """
        self.write_all([(address, data)])

    def write_all(self, pieces: Sequence[tuple[int, bytes]], *, read_only: bool = False) -> None:
        """Store pieces of bytes, each at its address, while the guest is stopped once.

        Args:
            pieces: guest-physical addresses with the bytes for each. One of 4 bytes at a multiple of 4 is one
                access, as a device's registers and commands need it.
            read_only: write as a debugger sets breakpoints: by the addresses of the CPU, and into memory that
                is read-only for the guest too (QEMU system/physmem.c, cpu_memory_rw_debug(), 10.0).

        Raises:
            SetupBroken: the gdbstub cannot be reached, or refuses. SubjectFailed: QEMU has ended.
        """
        running = self._machine.qmp.execute("query-status")["running"]
        try:
            with tempfile.TemporaryDirectory(prefix="gdb-") as folder:
                self._write_by_debugger(Path(folder) / "socket", pieces, read_only)
        except OSError as error:
            raise SetupBroken(
                f"QEMU's gdbstub cannot be used to write guest RAM: {error.strerror or error}; QEMU must see "
                f"this host's '{tempfile.gettempdir()}'."
            ) from error
        finally:
            if running:
                self._machine.qmp.execute("cont")

    def _write_by_debugger(self, path: Path, pieces: Sequence[tuple[int, bytes]], read_only: bool) -> None:
        self._machine.hmp(f"gdbserver unix:{path},server=on,wait=off")
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_GDB_SECONDS)
                connection.connect(str(path))
                # QEMU docs/system/gdb.rst: addresses are guest-physical ones in mode 1.
                _ask(connection, f"Qqemu.PhyMemMode:{0 if read_only else 1}")
                for address, data in pieces:
                    for start in range(0, len(data), _MOST_BYTES):
                        piece = data[start : start + _MOST_BYTES]
                        _ask(connection, f"M{address + start:x},{len(piece):x}:{piece.hex()}")
        finally:
            # Before a debugger that goes away lets a guest run on that was paused.
            self._machine.hmp("gdbserver none")


def _ask(connection: socket.socket, command: str) -> None:
    """Send a command of gdb's remote serial protocol.

    Raises:
        SetupBroken: the answer is not OK. OSError: there is no answer.
    """
    body = command.encode()
    connection.sendall(b"$%s#%02x" % (body, sum(body) % 256))
    answer = b""
    # QEMU 7.2 may say first that it has stopped the guest for the debugger: a packet that begins with T.
    while not (found := re.search(rb"\$((?!T)[^#]*)#..", answer)):
        more = connection.recv(_ANSWER_BYTES)
        if not more:
            raise ConnectionResetError("the connection was closed")
        answer += more
    connection.sendall(b"+")
    if found[1] != b"OK":
        raise SetupBroken(f"QEMU's gdbstub refused '{command[:40]}': {found[1].decode(errors='replace')!r}.")


def physical_memory(machine: Machine) -> PhysicalMemory:
    """Return the way to a guest's RAM: QEMU's own memory where we may open it, else the monitor."""
    if machine.pid is not None:
        try:
            Path(f"/proc/{machine.pid}/mem").open("r+b").close()
            return GuestMemory(machine)
        except PermissionError:
            pass
        except OSError:
            # It has ended, and says so itself.
            return GuestMemory(machine)
    return MonitorMemory(machine)
