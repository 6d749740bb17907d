"""Opens the ends of a transport that a test reads itself: a UNIX socket, or a pipe given to QEMU."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from harness.linux.socket_folder import socket_folder
from harness.qemu.machine import Machine


@contextmanager
def listening_socket() -> Iterator[tuple[socket.socket, str]]:
    """Yield a UNIX socket that listens, and the migration URI that leads to it."""
    with socket_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = folder / "save"
        listener.bind(os.fspath(place))
        listener.listen(1)
        yield listener, f"unix:{place}"


def passed_pipe(machine: Machine, name: str) -> int:
    """Make a pipe, give QEMU its writable end by `getfd` as libvirt does; return the readable one.

    Args:
        machine: the QEMU.
        name: of the descriptor, in QEMU and in the migration URI.

    Raises:
        CommandRefused, SubjectFailed: QEMU did not take the pipe.
    """
    readable, writable = os.pipe()
    try:
        machine.qmp.pass_descriptor(writable, name)
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    return readable
