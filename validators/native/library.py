"""Finds the compiled native core, and calls it by ctypes; without it numpy does the same, slower."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from validators.native.place import CHOICE, NUMPY

_MOST_THREADS = 4
_EVENT_LIMIT = 16 << 10
_EVENT_WORDS = 4
# One for each page of the smallest size in a window of records.
_NOTE_LIMIT = 16 << 10
_NOTE_WORDS = 2
_NAME_BYTES = 256
EVENT_AGAIN, EVENT_OUTSIDE, EVENT_FILL = 1, 2, 3
STOP_EVENTS, STOP_UNREADABLE = 1, 2

AGENT_NONE, AGENT_DATA, AGENT_OTHER = range(3)
_HEAD_WORDS = 6

Kinds = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


class WalkState(ctypes.Structure):
    """`struct walk` of core.h."""

    _fields_ = (
        ("page_size", ctypes.c_uint64),
        ("sources", ctypes.c_void_p),
        ("pages", ctypes.c_uint64),
        ("named", ctypes.c_uint64),
        ("data_records", ctypes.c_uint64),
        ("zero_records", ctypes.c_uint64),
        ("small_left", ctypes.c_uint64),
        ("events", ctypes.c_void_p),
        ("event_limit", ctypes.c_uint64),
        ("event_count", ctypes.c_uint64),
        ("noted", ctypes.c_void_p),
        ("note_limit", ctypes.c_uint64),
        ("note_count", ctypes.c_uint64),
        ("name_length", ctypes.c_uint64),
        ("name", ctypes.c_uint8 * _NAME_BYTES),
    )


class _Pages(ctypes.Structure):
    """`struct pages` of core.h."""

    _fields_ = (
        ("file", ctypes.c_int64),
        ("places", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("threads", ctypes.c_uint64),
        ("map", ctypes.c_void_p),
        ("map_bytes", ctypes.c_uint64),
        ("present", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class CoreFile:
    """A file whose pages the native core works on.

    Attributes:
        descriptor: of the file.
        address: where it is mapped, 0 if it is not: then its pages are read into buffers.
        mapped_bytes: so many of its bytes are.
        present: whether the kernel has put the pages there already, and the caller takes them away.
        threads: how many threads share the work; None for one for each processor.
    """

    descriptor: int
    address: int = 0
    mapped_bytes: int = 0
    present: bool = False
    threads: int | None = None


class PageNotRead(Exception):
    """A page could not be read by the native core: the disk failed, or the file became shorter.

    Attributes:
        number: its position among those that were to be read.
        other: whether it was the other file, of two that are compared.
    """

    def __init__(self, number: int, other: bool = False) -> None:
        super().__init__(f"page {number}")
        self.number = number
        self.other = other


class Walk:
    """The state of a walk over page records, and the arrays that it fills.

    Attributes:
        state: what C works on.
        events: int64[k, 4]: of each the kind, and three numbers.
        notes: int64[k, 2]: of each page with data its number and its place; None if none are wanted.
    """

    def __init__(self, page_size: int, notes: bool = False) -> None:
        self.events = np.zeros((_EVENT_LIMIT, _EVENT_WORDS), np.int64)
        self.notes = np.zeros((_NOTE_LIMIT, _NOTE_WORDS), np.int64) if notes else None
        self.state = WalkState(
            page_size=page_size,
            events=self.events.ctypes.data,
            event_limit=_EVENT_LIMIT,
            noted=None if self.notes is None else self.notes.ctypes.data,
            note_limit=_NOTE_LIMIT,
        )
        self._sources: Numbers | None = None

    def enter_block(self, name: bytes, sources: Numbers | None) -> None:
        """Note the RAMBlock that records continue with; without `sources` it is not in the list."""
        state = self.state
        # Kept, so that the address stays good.
        self._sources = sources
        state.sources = None if sources is None else sources.ctypes.data
        state.pages = 0 if sources is None else len(sources)
        state.named = 1
        state.name_length = len(name)
        ctypes.memmove(state.name, name, len(name))

    def take_events(self) -> Numbers:
        """Return the events so far, which are then forgotten."""
        taken = self.events[: self.state.event_count].copy()
        self.state.event_count = 0
        return taken

    def take_notes(self) -> tuple[Numbers, Numbers]:
        """Return number and place of each page with data so far, which are then forgotten."""
        assert self.notes is not None
        taken = self.notes[: self.state.note_count]
        self.state.note_count = 0
        return taken[:, 0].copy(), taken[:, 1].copy()

    def take_records(self) -> tuple[int, int]:
        """Return how many records of data and zero pages there were since the last call."""
        state = self.state
        counts = int(state.data_records), int(state.zero_records)
        state.data_records = state.zero_records = 0
        return counts


class Core:
    """The functions of the native core."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._walk, self._digest, self._agent = library.core_walk, library.core_digest, library.core_agent
        self._differing, self._nonzero = library.core_differing, library.core_nonzero
        self._copy = library.core_copy
        self._walk.restype = ctypes.c_uint32
        for function in (self._digest, self._agent, self._differing, self._nonzero, self._copy):
            function.restype = ctypes.c_uint64
        library.core_guard()
        self._threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))

    def walk(self, walk: Walk, view: memoryview, base: int, at: int) -> tuple[int, int]:
        """Read records from view[at] on; `base` is the file offset of the view.

        Returns:
            Why it stopped, and where: at the start of a record.
        """
        position = ctypes.c_uint64(at)
        address = np.frombuffer(view, np.uint8).ctypes.data
        stop = self._walk(
            ctypes.byref(walk.state),
            ctypes.c_void_p(address),
            ctypes.c_uint64(len(view)),
            ctypes.c_uint64(base),
            ctypes.byref(position),
        )
        return int(stop), position.value

    def digest(self, file: CoreFile, places: Numbers, size: int, keys: Words) -> Words:
        """Digest pages at these file offsets: uint64[k, 2].

        Raises:
            PageNotRead: one of them cannot be read.
        """
        digests = np.empty((len(places), 2), np.uint64)
        self._require(self._digest(self._pages(file, places, size), _at(keys), _at(digests)), places)
        return digests

    def _pages(self, file: CoreFile, places: Numbers, size: int) -> ctypes._CArgObject:
        assert places.flags.c_contiguous
        assert places.dtype == np.int64
        threads = self._threads if file.threads is None else file.threads
        return ctypes.byref(
            _Pages(
                file.descriptor, places.ctypes.data, len(places), size, threads, file.address or None,
                file.mapped_bytes, file.present,
            )
        )  # fmt: skip

    def agent(self, file: CoreFile, places: Numbers, size: int) -> tuple[Kinds, Words, Flags]:
        """Find agent pages among those at these file offsets.

        Returns:
            The kind of each (AGENT_NONE, AGENT_DATA, AGENT_OTHER); of data pages the six words before the
            body; whether a data page's body and checksum agree with them.

        Raises:
            PageNotRead: one of them cannot be read.
        """
        count = len(places)
        kinds, intact = np.empty(count, np.uint8), np.empty(count, np.bool_)
        heads = np.empty((count, _HEAD_WORDS), np.uint64)
        given = self._pages(file, places, size)
        self._require(self._agent(given, _at(kinds), _at(heads), _at(intact)), places)
        return kinds, heads, intact

    def differing(self, file: CoreFile, places: Numbers, numbers: Numbers, size: int, image: int) -> Flags:
        """Tell which pages differ from those of another file, which has page n at n * size.

        Raises:
            PageNotRead: one of them cannot be read, here or there.
        """
        differs, other = np.empty(len(places), np.bool_), ctypes.c_uint8()
        given = self._pages(file, places, size)
        done = self._differing(given, _at(numbers), ctypes.c_int64(image), _at(differs), ctypes.byref(other))
        self._require(done, places, bool(other.value))
        return differs

    def nonzero(self, file: CoreFile, places: Numbers, size: int) -> Flags:
        """Tell which pages at these file offsets are not all zero.

        Raises:
            PageNotRead: one of them cannot be read.
        """
        nonzero = np.empty(len(places), np.bool_)
        self._require(self._nonzero(self._pages(file, places, size), _at(nonzero)), places)
        return nonzero

    def copy(self, file: CoreFile, places: Numbers, numbers: Numbers, size: int, target: int) -> None:
        """Write each page to n * size of another file, where n is its number.

        Raises:
            PageNotRead: one of them cannot be read. OSError: one of them cannot be written.
        """
        error = ctypes.c_int64()
        given = self._pages(file, places, size)
        done = self._copy(given, _at(numbers), ctypes.c_int64(target), ctypes.byref(error))
        if error.value:
            raise OSError(error.value, os.strerror(error.value))
        self._require(done, places)

    @staticmethod
    def _require(done: int, places: Numbers, other: bool = False) -> None:
        if done < len(places):
            raise PageNotRead(int(done), other)


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    """Return where the numbers of an array are."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def native_core() -> Core | None:
    """Return the native core that the command has chosen, None if there is none, or it cannot be loaded."""
    choice = os.environ.get(CHOICE, NUMPY)
    if choice == NUMPY or not Path(choice).exists():
        return None
    try:
        return Core(Path(choice))
    except (OSError, AttributeError):
        # A file that is no library, or one without our functions.
        return None
