"""Provides sinks that break a save (sockets that reset, killed processes) and a descriptor limit for QEMU."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.process import session_members

_PEER_TAKES_BYTES = 1 << 20
_NEAR_END_BYTES = 4 << 20


@dataclass(frozen=True)
class SinkPlace:
    """The folder for the sinks of one guest, and the length of a whole stream.

    Attributes:
        folder: for the files of one case.
        stream_bytes: length of a completed save of this guest.
    """

    folder: Path
    stream_bytes: int

    @property
    def file(self) -> Path:
        """Return the file that a case's sink writes."""
        return self.folder / "vmstate"

    @property
    def middle(self) -> int:
        """Return the middle of the stream, in bytes."""
        return self.stream_bytes // 2

    @property
    def near_end(self) -> int:
        """Return an offset near the end of the stream, in bytes; the rest is more than a pipe holds."""
        return max(0, self.stream_bytes - _NEAR_END_BYTES)


@contextmanager
def sink(template: str, place: SinkPlace) -> Iterator[str]:
    """Yield the migration URI for a case's template; a socket's peer listens during the `with` block."""
    if "{socket}" not in template and "{port}" not in template:
        yield _filled(template, place)
        return
    over_unix = "{socket}" in template
    family = socket.AF_UNIX if over_unix else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if over_unix:
            # The address of a UNIX socket has at most 108 bytes; the path of a results folder may be longer.
            address = f"/tmp/snapproof-{os.getpid()}.sock"
            Path(address).unlink(missing_ok=True)
            stack.callback(Path(address).unlink, missing_ok=True)
            listener.bind(address)
            uri = _filled(template, place, path=address)
        else:
            listener.bind(("127.0.0.1", 0))
            uri = _filled(template, place, port=listener.getsockname()[1])
        listener.listen(1)
        # A save that never connects must not keep the peer waiting.
        listener.settimeout(10)
        peer = threading.Thread(target=_take_and_reset, args=(listener,), daemon=True)
        peer.start()
        yield uri
        peer.join(10)


@contextmanager
def descriptor_limit(pid: int, free: int | None) -> Iterator[None]:
    """Let a process open only so many more descriptors; None sets no limit."""
    if free is None:
        yield
        return
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit_for(open_numbers(pid), free), before[1]))
    try:
        yield
    finally:
        # A QEMU that has died has no limit to restore.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def open_numbers(pid: int) -> set[int]:
    """Return the numbers of a process's open file descriptors."""
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def limit_for(taken: set[int], free: int) -> int:
    """Return the RLIMIT_NOFILE that leaves exactly `free` numbers; the kernel gives the lowest one first."""
    limit = 0
    while free or limit in taken:
        free -= limit not in taken
        limit += 1
    return limit


def end_sinks(qemu: int) -> int:
    """Kill the processes that a QEMU has started; return their number."""
    members = [member for member in session_members(qemu) if member != qemu]
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return len(members)


def _filled(template: str, place: SinkPlace, path: str = "", port: int = 0) -> str:
    return template.format(
        file=shlex.quote(str(place.file)),
        raw_file=place.file,
        middle=place.middle,
        near_end=place.near_end,
        blocks=place.middle // 512,
        socket=path,
        port=port,
    )


def _take_and_reset(listener: socket.socket) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    with connection:
        taken = 0
        while taken < _PEER_TAKES_BYTES and (data := connection.recv(1 << 16)):
            taken += len(data)
        # With a linger time of 0 the close resets the connection (socket(7), SO_LINGER).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
