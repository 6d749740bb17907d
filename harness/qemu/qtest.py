"""Reads and writes device registers in a guest's memory from outside, by QEMU's qtest protocol.

The protocol needs no accelerator of its own: QEMU serves it beside any (QEMU 10.0 system/qtest.c). I/O ports
can be reached by `harness.qemu.io_ports` too; registers in memory only so, or by a debugger, which stops the
guest.
"""

from __future__ import annotations

import socket
from pathlib import Path

from harness.errors import SetupBroken
from harness.qemu.configuration import qemu_quoted

# A device may wait for a page that a background snapshot protects, and QEMU's main loop waits with it.
_ANSWER_SECONDS = 60.0
_MOST_BYTES = 1024
# By the bytes of an access; QEMU 10.0 system/qtest.c.
_SIZES = {1: "b", 2: "w", 4: "l", 8: "q"}


def qtest_arguments(path: Path) -> tuple[str, ...]:
    """Return the arguments of a QEMU that listens for the protocol at a UNIX socket."""
    return ("-qtest", f"unix:{qemu_quoted(path)},server=on,wait=off", "-qtest-log", "none")


class Qtest:
    """The guest-physical addresses of one QEMU, as its first vCPU sees them."""

    def __init__(self, path: Path) -> None:
        """Use the UNIX socket at which a running QEMU listens."""
        self._path = path

    def read(self, address: int, size: int) -> int:
        """Return the value of a register.

        Args:
            address: guest-physical.
            size: bytes of the access: 1, 2, 4 or 8.

        Raises:
            SetupBroken: QEMU does not answer, or refuses.
        """
        answer = self._ask(f"read{_SIZES[size]} {address:#x}").split()
        try:
            return int(answer[1], 16)
        except (IndexError, ValueError):
            raise SetupBroken(f"QEMU does not read {address:#x}; it says: {' '.join(answer)}.") from None

    def write(self, address: int, size: int, value: int) -> None:
        """Write a value to a register; arguments and errors as for `read`."""
        self._ask(f"write{_SIZES[size]} {address:#x} {value:#x}")

    def _ask(self, command: str) -> str:
        """Return QEMU's answer to a command, without the end of its line.

        Raises:
            SetupBroken: there is none, or it is a refusal.
        """
        try:
            # A connection each: QEMU takes one at a time, and nobody has to close it.
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_SECONDS)
                connection.connect(str(self._path))
                connection.sendall(command.encode() + b"\n")
                answer = b""
                while not answer.endswith(b"\n"):
                    more = connection.recv(_MOST_BYTES)
                    if not more:
                        raise ConnectionResetError("the connection was closed")
                    answer += more
        except OSError as error:
            raise SetupBroken(f"QEMU does not answer '{command}' by its qtest protocol: {error}.") from error
        text = answer.decode(errors="replace").strip()
        if not text.startswith("OK"):
            raise SetupBroken(f"QEMU's qtest protocol refuses '{command}'; it says: {text}.")
        return text
