"""Opens the vmstate stream of a file, in any container, as a file that can be read at any offset.

A stream that is compressed, or in clusters of a qcow2 image, is first copied to a temporary file without a
name: the oracles need any page at any time, and a stream is too large for memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from harness.codes import Code
from harness.errors import MachineryMissing, SetupBroken, UsageError
from validators.vmstate.containers.compressed import COMPRESSIONS, LZOP_MAGIC, Compression, Expansion
from validators.vmstate.containers.container import Container, Problem
from validators.vmstate.containers.libvirt import is_save_image, read_save_image
from validators.vmstate.containers.qcow2 import MAGIC as QCOW2_MAGIC
from validators.vmstate.containers.qcow2 import Qcow2Image, snapshot_names
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.foreign import HEAD_BYTES, foreign_words
from validators.vmstate.stream.format import MAGIC
from validators.vmstate.stream.source import FileSource, open_source, open_standard_input

_STREAM_MAGIC = MAGIC.to_bytes(4, "big")
_HEAD = 16
# A save image that somebody has compressed has its own compression inside.
_DEEPEST = 3


@dataclass(frozen=True)
class OpenedStream:
    """A vmstate stream that can be read.

    Attributes:
        source: the file that has it, or a copy of the stream.
        start: its offset in `source`.
        containers: what it lies in, outermost first.
        ends_file: whether nothing may follow it in `source`; a file may go on behind a stream whose offset
            the user gave.
        is_copy: whether `source` is not the user's file.
    """

    source: FileSource
    start: int
    containers: tuple[Container, ...] = ()
    ends_file: bool = True
    is_copy: bool = False


@contextmanager
def open_stream(path: Path, offset: int = 0, snapshot: str = "") -> Iterator[OpenedStream]:
    """Open the vmstate stream of a file; "-" is standard input, which is copied to a temporary file.

    Args:
        path: the file.
        offset: where the stream, or a container that has it, begins.
        snapshot: name of the internal snapshot of a qcow2 image, "" for the only one.

    Raises:
        UsageError: the file cannot be opened, has no stream, or has one that cannot be read as it is.
        MachineryMissing: a library is missing that decompresses it.
        SetupBroken: the disk fails, or there is no room for a copy.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_standard_input() if str(path) == "-" else open_source(path))
        opened = OpenedStream(source, offset, ends_file=offset == 0)
        if snapshot and source.read(offset, 4) != QCOW2_MAGIC:
            raise UsageError(
                f"--snapshot {snapshot} names an internal snapshot of a qcow2 image, and '{path}' is none."
            )
        for _ in range(_DEEPEST):
            entered = _enter(stack, opened, snapshot)
            if entered is None:
                break
            opened = entered
        yield opened


def holds_stream(path: Path) -> bool:
    """Tell by the beginning of a regular file whether it has a vmstate stream, perhaps in a container.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(_HEAD)
            if head.startswith(_STREAM_MAGIC) or is_save_image(head):
                return True
            if head.startswith(QCOW2_MAGIC):
                with open_source(path) as source:
                    return _has_snapshots(source)
            return any(one.begins(head) and _holds(file.fileno(), one) for one in COMPRESSIONS)
    except OSError as error:
        raise UsageError(f"The file '{path}' cannot be read: {error.strerror}.") from error


def _has_snapshots(source: FileSource) -> bool:
    """Tell whether a qcow2 image has a stream; one that cannot be read may have, and is judged by itself."""
    try:
        return bool(Qcow2Image(source).snapshots)
    except UsageError:
        return True


def _holds(descriptor: int, compression: Compression) -> bool:
    """Tell whether compressed data begins with a stream."""

    def read(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset)

    try:
        first = next(Expansion(compression, read, 0).pieces(), b"")
    except (UsageError, MachineryMissing):
        return False
    return first.startswith(_STREAM_MAGIC) or is_save_image(first[:_HEAD])


def _enter(stack: ExitStack, opened: OpenedStream, snapshot: str) -> OpenedStream | None:
    """Return the stream inside the container at the start of an opened file, None if there is none."""
    source, start = opened.source, opened.start
    head = source.read(start, _HEAD)
    if is_save_image(head):
        image = read_save_image(source.read, start)
        inside = replace(opened, start=image.start, containers=(*opened.containers, image.container))
        if image.compression is None:
            return inside
        if not image.compression.begins(source.read(image.start, _HEAD)):
            raise UsageError(
                f"By its header the libvirt save image is compressed by {image.compression.name}, and other "
                f"data is at offset {image.start}; the header is damaged."
            )
        return _expanded(stack, inside, image.compression)
    if head.startswith(LZOP_MAGIC):
        raise UsageError(
            "The file is compressed by lzop, which cannot be read here; decompress it with 'lzop -d', and "
            "name the result."
        )
    for compression in COMPRESSIONS:
        if compression.begins(head):
            return _expanded(stack, opened, compression)
    if head.startswith(QCOW2_MAGIC):
        if start:
            raise UsageError(
                f"A qcow2 image must begin with the file, and this one is at offset {start}; copy it to "
                "a file of its own."
            )
        return _of_snapshot(stack, opened, snapshot)
    return None


def _expanded(stack: ExitStack, opened: OpenedStream, compression: Compression) -> OpenedStream:
    """Decompress to a temporary file.

    Raises:
        UsageError: it is no vmstate stream, or is more than one can be.
    """
    expansion = Expansion(compression, opened.source.read, opened.start)
    what = f"{compression.name} data"

    def fill(copy: IO[bytes]) -> None:
        """Write the expanded stream, once its beginning shows that it is one."""
        pieces = expansion.pieces()
        head = b""
        while len(head) < _HEAD and (piece := next(pieces, b"")):
            head += piece
        if head:
            _require_stream(head, what, compression)
            _write(copy, head)
            for piece in pieces:
                _write(copy, piece)
        else:
            why = f": {expansion.problem}" if expansion.problem else ""
            raise UsageError(f"The {what} cannot be decompressed, or is empty{why}.")
        copy.truncate()

    copy = stack.enter_context(_copy(opened.source, fill))
    problem = None
    if expansion.problem:
        sentence = f"The {what} is damaged: {expansion.problem}."
        problem = Problem(Code.CONTAINER_DAMAGED, sentence)
    elif expansion.trailing and opened.ends_file:
        problem = Problem(Code.CONTAINER_TRAILING, f"Other bytes than zeros follow the end of the {what}.")
    container = Container(what, {f"{compression.name} bytes": opened.source.size - opened.start}, problem)
    return replace(
        opened, source=copy, start=0, containers=(*opened.containers, container), ends_file=True, is_copy=True
    )  # fmt: skip


def _require_stream(head: bytes, what: str, compression: Compression) -> None:
    """Check by its beginning that what is decompressed can be a stream, before a disk is filled with it."""
    known = head.startswith(_STREAM_MAGIC) or is_save_image(head)
    if not known and not any(one.begins(head) for one in COMPRESSIONS if one is not compression):
        raise UsageError(
            f"The {what} holds no vmstate stream: a stream begins with 'QEVM', these bytes are "
            f"'{readable(head[:4])}'.{foreign_words(head[:HEAD_BYTES])}"
        )


def _of_snapshot(stack: ExitStack, opened: OpenedStream, name: str) -> OpenedStream:
    image = Qcow2Image(opened.source)
    chosen = image.choose(name)

    def fill(copy: IO[bytes]) -> None:
        for place, at in image.clusters(chosen):
            length = min(image.cluster_bytes, chosen.bytes - place)
            copy.seek(place)
            # The last cluster of an image may end with the file; what is behind reads as zeros.
            copy.write(opened.source.read(at, length))
        copy.truncate(chosen.bytes)

    copy = stack.enter_context(_copy(opened.source, fill))
    facts: dict[str, str | int] = {"snapshot": chosen.name}
    if len(image.snapshots) > 1:
        facts["snapshots"] = snapshot_names(image.snapshots)
    container = Container("qcow2 image, internal snapshot", facts)
    return replace(
        opened, source=copy, start=0, containers=(*opened.containers, container), ends_file=True, is_copy=True
    )  # fmt: skip


def _write(copy: IO[bytes], piece: bytes) -> None:
    """Write a piece; one of zeros becomes a hole."""
    if piece.count(0) == len(piece):
        copy.seek(len(piece), os.SEEK_CUR)
    else:
        copy.write(piece)


def _close(copy: IO[bytes]) -> None:
    """Close a temporary file; on a full disk that writes what is buffered, and fails a second time."""
    with suppress(OSError):
        copy.close()


@contextmanager
def _copy(original: FileSource, fill: Callable[[IO[bytes]], None]) -> Iterator[FileSource]:
    """Let a function fill a temporary file without a name, and yield that.

    Raises:
        SetupBroken: there is no room for it.
    """
    with ExitStack() as stack:
        try:
            copy = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the stack)
            stack.callback(_close, copy)
            fill(copy)
            copy.flush()
            empty = os.fstat(copy.fileno()).st_size == 0
            source = None if empty else FileSource(copy.fileno(), original.path)
        except OSError as error:
            raise SetupBroken(
                f"The vmstate stream cannot be copied out of its container to the folder "
                f"'{tempfile.gettempdir()}': {error.strerror}. Set TMPDIR to a folder with more room."
            ) from error
        if source is None:
            raise UsageError("The container holds an empty stream.")
        yield source
