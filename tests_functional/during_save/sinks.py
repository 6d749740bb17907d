"""Sinks of a save: a command, a socket and a pipe, each slow while a file is there."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.linux.socket_folder import socket_folder
from harness.qemu import migration
from harness.qemu.machine import Machine

Sink = Callable[[Machine, Path, Path], AbstractContextManager[str]]
"""Takes the QEMU, the file to be written and the file that makes the sink slow; yields a migration URI."""

_PIECE_BYTES = 256 << 10
# With pieces of 256 KiB that is 4 MiB/s, as migration.slow_sink().
_PIECE_SECONDS = 1 / 16
_DESCRIPTOR = "save"
_END_SECONDS = 10.0


@contextmanager
def command_sink(_machine: Machine, path: Path, slow: Path) -> Iterator[str]:
    """Yield the URI of a command that writes what it reads to a file."""
    yield migration.slow_sink(path, slow)


@contextmanager
def socket_sink(_machine: Machine, path: Path, slow: Path) -> Iterator[str]:
    """Yield the URI of a UNIX socket, which a thread here reads."""
    with socket_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder / "save"))
        listener.listen(1)
        listener.settimeout(_END_SECONDS)

        def read() -> None:
            connection, _ = listener.accept()
            with connection:
                _pour(lambda: connection.recv(_PIECE_BYTES), path, slow)

        with _reading(read):
            yield f"unix:{folder / 'save'}"


@contextmanager
def descriptor_sink(machine: Machine, path: Path, slow: Path) -> Iterator[str]:
    """Yield the URI of a pipe that QEMU is given by `getfd`, as libvirt does; a thread here reads it."""
    readable, writable = os.pipe()
    try:
        machine.qmp.pass_descriptor(writable, _DESCRIPTOR)
    finally:
        os.close(writable)

    def read() -> None:
        try:
            _pour(lambda: os.read(readable, _PIECE_BYTES), path, slow)
        finally:
            os.close(readable)

    with _reading(read):
        yield f"fd:{_DESCRIPTOR}"


@contextmanager
def _reading(read: Callable[[], None]) -> Iterator[None]:
    """Read in a thread, which ends when QEMU closes its end."""
    thread = threading.Thread(target=read, name="sink", daemon=True)
    thread.start()
    yield
    thread.join(_END_SECONDS)


def _pour(receive: Callable[[], bytes], path: Path, slow: Path) -> None:
    """Write all that is received to a file, until the other end is closed."""
    with path.open("wb", buffering=0) as file:
        while piece := receive():
            file.write(piece)
            if slow.exists():
                time.sleep(_PIECE_SECONDS)
