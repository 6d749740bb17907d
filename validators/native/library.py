"""Finds the compiled native core, and calls it by ctypes; without it numpy does the same, slower."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guest_images.cache import default_cache_folder

SOURCES = Path(__file__).parent
AGENT_SOURCES = SOURCES.parents[1] / "guest_images" / "agent"
FLAGS = (
    "-std=c11",
    "-O3",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-shared",
    "-pthread",
    f"-I{AGENT_SOURCES}",
)
FILE = "core.so"
CHOICE = "SNAPPROOF_NATIVE"
"""Environment variable: "0" for numpy alone, or the file to load; by default the one in the cache folder."""

_AGENT_HEADERS = ("format.h", "mix.h", "word.h")
_MOST_THREADS = 4
_EVENT_LIMIT = 16 << 10
_EVENT_WORDS = 4
_NAME_BYTES = 256
EVENT_AGAIN, EVENT_OUTSIDE, EVENT_FILL = 1, 2, 3
STOP_EVENTS = 1

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
    )


class PageNotRead(Exception):
    """A page could not be read by the native core: the disk failed, or the file became shorter.

    Attributes:
        number: its position among those that were to be read.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"page {number}")
        self.number = number


class Walk:
    """The state of a walk over page records, and the arrays that it fills.

    Attributes:
        state: what C works on.
        events: int64[k, 4]: of each the kind, and three numbers.
    """

    def __init__(self, page_size: int) -> None:
        self.events = np.zeros((_EVENT_LIMIT, _EVENT_WORDS), np.int64)
        self.state = WalkState(
            page_size=page_size,
            events=self.events.ctypes.data,
            event_limit=_EVENT_LIMIT,
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
        self._walk, self._digest = library.core_walk, library.core_digest
        self._walk.restype, self._digest.restype = ctypes.c_uint32, ctypes.c_uint64
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

    def digest(self, descriptor: int, places: Numbers, size: int, keys: Words) -> Words:
        """Digest pages at these file offsets: uint64[k, 2].

        Raises:
            PageNotRead: one of them cannot be read.
        """
        digests = np.empty((len(places), 2), np.uint64)
        self._require(self._digest(self._pages(descriptor, places, size), _at(keys), _at(digests)), places)
        return digests

    def _pages(self, descriptor: int, places: Numbers, size: int) -> ctypes._CArgObject:
        assert places.flags.c_contiguous
        assert places.dtype == np.int64
        return ctypes.byref(_Pages(descriptor, places.ctypes.data, len(places), size, self._threads))

    @staticmethod
    def _require(done: int, places: Numbers) -> None:
        if done < len(places):
            raise PageNotRead(int(done))


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    """Return where the numbers of an array are."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def source_files() -> list[Path]:
    """Return all files that the core is compiled from, headers included."""
    own = [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]
    return sorted(own) + [AGENT_SOURCES / "core" / name for name in _AGENT_HEADERS]


def core_path(cache: Path) -> Path:
    """Return where a cache folder has the core that fits these sources and this machine, built or not.

    The compiler is no part of the name: asking it for its version would take longer than a check.
    """
    digest = hashlib.sha256()
    for part in (*(path.read_bytes() for path in source_files()), " ".join(FLAGS[:-1]).encode()):
        digest.update(hashlib.sha256(part).digest())
    return cache / "native" / f"{digest.hexdigest()[:12]}-{os.uname().machine}-{libc_name()}" / FILE


def libc_name() -> str:
    """Return the last part of a compiler's target: "gnu", or "musl" where the C library is not glibc."""
    try:
        return "gnu" if os.confstr("CS_GNU_LIBC_VERSION") else "musl"
    except (OSError, ValueError):
        return "musl"


@functools.cache
def native_core() -> Core | None:
    """Return the native core, None if it was not built for this machine, or cannot be loaded."""
    choice = os.environ.get(CHOICE, "")
    if choice == "0":
        return None
    path = Path(choice) if choice else core_path(default_cache_folder())
    if not path.exists():
        return None
    try:
        return Core(path)
    except OSError:
        return None
