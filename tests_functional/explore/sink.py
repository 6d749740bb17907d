"""A sink of a save that can be fast, slow, stalled or closed at any time: a command, a socket or a pipe."""

from __future__ import annotations

import contextlib
import enum
import os
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from harness.qemu.migration import SLOW_PIECE_BYTES
from tests_functional.lib.sink_ends import listening_socket, passed_pipe

TRANSPORTS = ("exec", "unix", "fd")
"""How the state goes to the sink, as migration URIs begin."""

_DESCRIPTOR = "explored"
# 8 MiB/s: the guests here are small, and a list has many saves.
_SLOW_SECONDS = 0.025
_FAST_BYTES = 1 << 20
# From the end of the save to that of the file, which lacks what is in the pipe or socket by then.
_END_SECONDS = 30.0
_POLL_SECONDS = 0.2


class Speed(enum.Enum):
    """What a sink does with the state."""

    FAST = "fast"
    SLOW = "slow"
    STALLED = "stalled"
    CLOSED = "closed"


class _End(Protocol):
    """The readable end of a transport."""

    def receive(self, size: int) -> bytes:
        """Return some bytes, none at the end."""

    def close(self) -> None:
        """Close it."""


class _Descriptor:
    def __init__(self, number: int) -> None:
        self._number = number

    def receive(self, size: int) -> bytes:
        return os.read(self._number, size)

    def close(self) -> None:
        os.close(self._number)


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def receive(self, size: int) -> bytes:
        return self._connection.recv(size)

    def close(self) -> None:
        self._connection.close()


class Sink:
    """Writes what it receives to a file, in a thread, at a speed that may be changed meanwhile.

    Attributes:
        uri: the migration URI that leads to it.
    """

    def __init__(self, uri: str, path: Path, speed: Speed) -> None:
        self.uri = uri
        self._path = path
        self._speed = speed
        self._changed = threading.Condition()
        self._error: OSError | None = None

    @property
    def speed(self) -> Speed:
        """Return how fast it takes the stream at present."""
        return self._speed

    def set_speed(self, speed: Speed) -> None:
        """Change what it does; a sink that was closed stays closed."""
        with self._changed:
            if self._speed is not Speed.CLOSED:
                self._speed = speed
            self._changed.notify_all()

    def pour(self, end: _End) -> None:
        """Write all that is received to the file, until the other end is closed or this sink is."""
        try:
            with self._path.open("wb", buffering=0) as file:
                while self._may_go_on():
                    piece = end.receive(_FAST_BYTES if self._speed is Speed.FAST else SLOW_PIECE_BYTES)
                    if not piece:
                        break
                    file.write(piece)
                    self._wait_turn()
        except OSError as error:
            self._error = error
        finally:
            end.close()

    def require_written(self) -> None:
        """Check that all that came could be written.

        Raises:
            SetupBroken: it could not, which QEMU is not to blame for.
        """
        if self._error is not None:
            raise SetupBroken(f"The file of the save could not be written: {self._error}.")

    def _may_go_on(self) -> bool:
        with self._changed:
            while self._speed is Speed.STALLED:
                self._changed.wait(_POLL_SECONDS)
            return self._speed is not Speed.CLOSED

    def _wait_turn(self) -> None:
        with self._changed:
            if self._speed is Speed.SLOW:
                self._changed.wait(_SLOW_SECONDS)


@contextmanager
def opened_sink(machine: Machine, transport: str, path: Path, speed: Speed) -> Iterator[Sink]:
    """Open a sink; leaving the `with` waits until all that QEMU has sent is in the file.

    Args:
        machine: QEMU, which gets its end of the transport `fd` by `getfd`.
        transport: one of TRANSPORTS.
        path: the file.
        speed: what the sink does at first.

    Raises:
        SetupBroken: the file could not be written. CommandRefused, SubjectFailed: QEMU did not take the pipe.
    """
    with ExitStack() as opened:
        if transport == "unix":
            yield from _socket(opened, path, speed)
        elif transport == "fd":
            yield from _pipe(machine, path, speed)
        else:
            yield from _fifo(opened, path, speed)


def _socket(opened: ExitStack, path: Path, speed: Speed) -> Iterator[Sink]:
    listener, uri = opened.enter_context(listening_socket())
    sink = Sink(uri, path, speed)

    def read() -> None:
        # QEMU may never come; the listener is shut down then.
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            sink.pour(_Connection(connection))

    yield from _reading(sink, read, lambda: listener.shutdown(socket.SHUT_RDWR))


def _pipe(machine: Machine, path: Path, speed: Speed) -> Iterator[Sink]:
    readable = passed_pipe(machine, _DESCRIPTOR)
    sink = Sink(f"fd:{_DESCRIPTOR}", path, speed)
    yield from _reading(sink, lambda: sink.pour(_Descriptor(readable)), lambda: None)


def _fifo(opened: ExitStack, path: Path, speed: Speed) -> Iterator[Sink]:
    fifo = path.with_name(f"{path.name}-fifo")
    os.mkfifo(fifo)
    opened.callback(fifo.unlink)
    sink = Sink(f"exec:cat > {shlex.quote(str(fifo))}", path, speed)

    def give_up() -> None:
        # Opening both ends never waits; it lets a thread go on that waits for a writer.
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))

    def read() -> None:
        sink.pour(_Descriptor(os.open(fifo, os.O_RDONLY)))

    yield from _reading(sink, read, give_up)


def _reading(sink: Sink, read: object, give_up: object) -> Iterator[Sink]:
    assert callable(read)
    assert callable(give_up)
    thread = threading.Thread(target=read, name="sink", daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        # A sink that stands still would never see the end.
        sink.set_speed(Speed.FAST)
        with contextlib.suppress(OSError):
            give_up()
        # A QEMU that does not close its end has a descriptor more than before, which oracle 6 sees.
        thread.join(_END_SECONDS)
        sink.require_written()
