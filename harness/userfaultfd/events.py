"""The events read from a userfaultfd: ``struct uffd_msg`` (linux/userfaultfd.h, 32 bytes, packed)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Union

from . import abi
from .abi import FaultFlag

_PAGE_FAULT = struct.Struct("=B7xQQI4x")
_FORK = struct.Struct("=B7xI20x")
_REMAP = struct.Struct("=B7xQQQ")
_RANGE = struct.Struct("=B7xQQ8x")


@dataclass(frozen=True)
class PageFault:
    """A page fault (UFFD_EVENT_PAGEFAULT); its thread waits until the page is resolved or the thread woken.

    Attributes:
        flags: WRITE for a write access, WP for a write-protected page, MINOR for a page that is in the page
            cache but not mapped; 0 for a read of a missing page.
        address: the page's first byte; with EXACT_ADDRESS (5.18) the exact address of the access. Kernels
            without that feature may leave low bits set: mask them.
        thread: the thread's id with THREAD_ID (4.14), else 0.
    """

    flags: FaultFlag
    address: int
    thread: int


@dataclass(frozen=True)
class Fork:
    """The process forked (EVENT_FORK); the child's memory is registered with a new userfaultfd.

    Attributes:
        descriptor: of the new userfaultfd; the reader of the event must close it.
    """

    descriptor: int


@dataclass(frozen=True)
class Remap:
    """mremap(2) moved memory (EVENT_REMAP): two addresses, and a length in bytes."""

    source: int
    destination: int
    length: int


@dataclass(frozen=True)
class Remove:
    """MADV_DONTNEED, MADV_REMOVE or MADV_FREE removed the pages in [start, end) (EVENT_REMOVE)."""

    start: int
    end: int


@dataclass(frozen=True)
class Unmap:
    """The addresses [start, end) were unmapped (EVENT_UNMAP)."""

    start: int
    end: int


Event = Union[PageFault, Fork, Remap, Remove, Unmap]


def parse(data: bytes) -> list[Event]:
    """Parse the bytes read from a userfaultfd into events.

    Raises:
        ValueError: an event number is not in linux/userfaultfd.h (6.8).
    """
    return [
        _event(data[offset : offset + abi.MESSAGE_BYTES]) for offset in range(0, len(data), abi.MESSAGE_BYTES)
    ]


def _event(message: bytes) -> Event:
    kind = message[0]
    if kind == abi.EVENT_PAGEFAULT:
        _, flags, address, thread = _PAGE_FAULT.unpack(message)
        return PageFault(FaultFlag(flags), address, thread)
    if kind == abi.EVENT_FORK:
        return Fork(_FORK.unpack(message)[1])
    if kind == abi.EVENT_REMAP:
        return Remap(*_REMAP.unpack(message)[1:])
    if kind == abi.EVENT_REMOVE:
        return Remove(*_RANGE.unpack(message)[1:])
    if kind == abi.EVENT_UNMAP:
        return Unmap(*_RANGE.unpack(message)[1:])
    raise ValueError(f"The kernel sent a userfaultfd event of unknown kind {kind:#x}.")
