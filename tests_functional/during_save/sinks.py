"""Sinks of a save: a command, a socket and a pipe, each slow while a file is there."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.errors import SetupBroken
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.migration import SLOW_PIECE_BYTES, SLOW_PIECE_SECONDS
from tests_functional.lib.sink_ends import listening_socket, passed_pipe

Sink = Callable[[Machine, Path, Path], AbstractContextManager[str]]
"""Takes the QEMU, the file to be written and the file that makes the sink slow; yields a migration URI."""

_DESCRIPTOR = "save"
# From the end of the save to that of the file, which lacks what is in the pipe or socket by then.
_END_SECONDS = 60.0


@contextmanager
def command_sink(_machine: Machine, path: Path, slow: Path) -> Iterator[str]:
    """Yield the URI of a command that writes what it reads to a file."""
    yield migration.slow_sink(path, slow)


@contextmanager
def socket_sink(_machine: Machine, path: Path, slow: Path) -> Iterator[str]:
    """Yield the URI of a UNIX socket, which a thread here reads.

    Raises:
        SetupBroken: the file could not be written.
    """
    with listening_socket() as (listener, uri):

        def read() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                # QEMU never came, and the listener was shut down.
                return
            with connection:
                _pour(lambda: connection.recv(SLOW_PIECE_BYTES), path, slow)

        # QEMU comes after the golden image was copied, which takes long on a busy host.
        with _reading(read, lambda: listener.shutdown(socket.SHUT_RDWR)):
            yield uri


@contextmanager
def descriptor_sink(machine: Machine, path: Path, slow: Path) -> Iterator[str]:
    """Yield the URI of a pipe that QEMU is given by `getfd`, as libvirt does; a thread here reads it.

    Raises:
        SetupBroken: the file could not be written. CommandRefused, SubjectFailed: QEMU did not take the pipe.
    """
    readable = passed_pipe(machine, _DESCRIPTOR)

    def read() -> None:
        try:
            _pour(lambda: os.read(readable, SLOW_PIECE_BYTES), path, slow)
        finally:
            os.close(readable)

    with _reading(read):
        yield f"fd:{_DESCRIPTOR}"


@contextmanager
def _reading(read: Callable[[], None], give_up: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Read in a thread, which ends when QEMU closes its end.

    Args:
        read: writes the file.
        give_up: called when the save has ended, or could not begin: nobody connects any more.

    Raises:
        SetupBroken: the file could not be written, which QEMU is not to blame for.
    """
    errors: list[OSError] = []

    def noting() -> None:
        try:
            read()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=noting, name="sink", daemon=True)
    thread.start()
    try:
        yield
    finally:
        give_up()
        # A QEMU that does not close its end has a descriptor more than before, which oracle 6 sees.
        thread.join(_END_SECONDS)
        if errors:
            raise SetupBroken(f"The file of the save could not be written: {errors[0]}.")


def _pour(receive: Callable[[], bytes], path: Path, slow: Path) -> None:
    """Write all that is received to a file, until the other end is closed."""
    with path.open("wb", buffering=0) as file:
        while piece := receive():
            file.write(piece)
            if slow.exists():
                time.sleep(SLOW_PIECE_SECONDS)
