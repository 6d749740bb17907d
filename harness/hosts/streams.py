"""Pass bytes to and from a program on a host: its input in frames, its outputs, files behind a list."""

from __future__ import annotations

import contextlib
import json
import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.hosts.link import Stream

_FRAME = 1 << 16


def first_line(stream: Stream, deadline: Deadline) -> bytes:
    """Wait for the first line of a program's output and return it, empty if there is none.

    Raises:
        SetupBroken: it does not come before the deadline.
    """
    found: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        data = b""
        while not data.endswith(b"\n"):
            more = stream.read_output()
            if not more:
                break
            data += more
        found.put(data)

    threading.Thread(target=read, daemon=True).start()
    try:
        return found.get(timeout=deadline.remaining())
    except queue.Empty:
        raise SetupBroken(
            f"The host did not start our supervisor program within {deadline.seconds:.0f} s."
        ) from None


def feed(stream: Stream, chunks: Iterable[bytes]) -> None:
    """Send a program's input in the frames that the supervisor expects (harness/hosts/supervisor.py)."""
    # Errors here only mean that the command has ended; the reader of its output reports why.
    with contextlib.suppress(OSError, EOFError):
        for chunk in chunks:
            for start in range(0, len(chunk), _FRAME):
                part = chunk[start : start + _FRAME]
                stream.write(struct.pack(">I", len(part)) + part)
        stream.write(struct.pack(">I", 0))


def collect(
    stream: Stream, output: Callable[[bytes], Any], errors: Callable[[bytes], Any], deadline: Deadline
) -> bool:
    """Pass both outputs to callbacks until both have ended; return whether they ended in time."""
    arrived: queue.Queue[tuple[Callable[[bytes], Any], bytes]] = queue.Queue()

    def pump(read: Callable[[], bytes], take: Callable[[bytes], Any]) -> None:
        data = b"more"
        while data:
            try:
                data = read()
            except (OSError, EOFError, ValueError):
                data = b""
            arrived.put((take, data))

    for read, take in ((stream.read_output, output), (stream.read_errors, errors)):
        threading.Thread(target=pump, args=(read, take), daemon=True).start()
    running = 2
    while running:
        try:
            take, data = arrived.get(timeout=deadline.remaining())
        except queue.Empty:
            return False
        if data:
            take(data)
        else:
            running -= 1
    return True


def packed(files: Mapping[str, bytes | Path]) -> Iterator[bytes]:
    """Yield the list of the files as a line of JSON (path, length, mode), and then their contents, in pieces.

    The reader of a tar archive is a large module, slow in an emulated host. A large file is never in memory
    as a whole.
    """
    entries = [
        (name, len(content), 0o600)
        if isinstance(content, bytes)
        else (name, content.stat().st_size, content.stat().st_mode & 0o700)
        for name, content in files.items()
    ]
    held = bytearray(json.dumps(entries).encode() + b"\n")
    for content in files.values():
        for data in [content] if isinstance(content, bytes) else _pieces(content):
            held += data
            if len(held) >= _FRAME:
                yield bytes(held)
                held.clear()
    yield bytes(held)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            yield data
