"""Works on pages while the records behind them are still being read, so that a file is passed over once."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from validators.native.library import CoreFile, Numbers, native_core
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.source import FileSource

_MOST_WORKERS = 3
# Windows of 16 MiB that are mapped at the same time, besides the one that is read.
_MOST_WAITING = 3


class PageWork(Protocol):
    """Work of the native core on pages of one RAMBlock; it must not depend on other pages."""

    def __call__(self, block: Block, file: CoreFile, pages: Numbers, places: Numbers) -> Any:
        """Return what is found in the pages with these numbers, at these offsets of the file."""


class Follower:
    """Hands pages that have been read to threads, which do all `works` on them.

    The reader of records populates a window of the mapped file, and needs of each page only the header. While
    it reads the next window, threads work on the pages of this one, which need not be populated again.

    What it finds is only early. The same work is done later on all pages that were not followed. All results
    are thrown away if a page is in the stream twice, if the stream is damaged, or if a page cannot be read.
    """

    def __init__(self, works: Mapping[str, PageWork]) -> None:
        self._works = works
        self._tasks: queue.SimpleQueue[tuple[int, int, Block, CoreFile, Numbers, Numbers] | None]
        self._tasks = queue.SimpleQueue()
        self._room = threading.Semaphore(_MOST_WAITING)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: dict[int, int] = {}
        self._given = 0
        self._results: dict[tuple[str, int], list[tuple[int, Any]]] = {}
        self._followed: dict[int, npt.NDArray[np.bool_]] = {}
        self._failed = False

    def take(
        self, source: FileSource, number: int, block: Block, pages: Numbers, places: Numbers, start: int
    ) -> None:
        """Take pages of RAMBlock `number` whose records are in the mapped window that begins at `start`."""
        if not self._threads:
            self._start()
        self._room.acquire()
        if number not in self._followed:
            self._followed[number] = np.zeros(block.pages, np.bool_)
        self._followed[number][pages] = True
        file = source.core_file(present=source.populates, threads=1)
        with self._lock:
            self._given += 1
            self._open[self._given] = start
        self._tasks.put((self._given, number, block, file, pages, places))

    def needed_from(self, position: int) -> int:
        """Return the file offset before which no page is needed, at most `position`."""
        with self._lock:
            return min([position, *self._open.values()])

    def finish(self, usable: bool) -> None:
        """Wait for all work to end.

        Args:
            usable: whether each page was taken once, and the stream is whole.
        """
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._failed or not usable:
            self._results.clear()
            self._followed.clear()

    def results(self, name: str, number: int) -> Iterator[Any]:
        """Yield what a work has found in pages of a RAMBlock, in the order of the file, and forget it."""
        for _, result in sorted(self._results.pop((name, number), []), key=lambda one: one[0]):
            yield result

    def left(self, name: str, number: int, pages: Numbers) -> npt.NDArray[np.bool_] | None:
        """Return which pages still need a work: bool[k], None for all of them."""
        followed = self._followed.get(number)
        if followed is None or name not in self._works:
            return None
        left: npt.NDArray[np.bool_] = ~followed[pages]
        return left

    def _start(self) -> None:
        workers = max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0)) - 1))
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            sequence, number, block, file, pages, places = task
            try:
                found = {name: work(block, file, pages, places) for name, work in self._works.items()}
            except Exception:
                # The same work is done once more for the result, and its error has an owner there.
                self._failed = True
                found = {}
            with self._lock:
                del self._open[sequence]
                for name, result in found.items():
                    self._results.setdefault((name, number), []).append((sequence, result))
            self._room.release()


def follower_of(works: Mapping[str, PageWork]) -> Follower | None:
    """Return a follower, None if there is no native core to do the works."""
    return None if native_core() is None else Follower(works)
