"""The known write order of the trackers' writers, and the oracle that reads it back from a snapshot.

A page is one record of 32 bytes, repeated to its end: magic, thread, index within the thread's pages,
generation,
step. Each thread writes its pages in a shuffled order, again and again, and counts steps from 1; step 0 is
what was there before. So at any instant the pages of a thread are those of exactly one number of steps done.
"""

from __future__ import annotations

import random
import struct

_RECORD = struct.Struct("<QIIQQ")
_MAGIC = 0x656761706B636172
_MOST_VIOLATIONS = 5


class WriteOrder:
    """Which page each step of each thread writes, and with what.

    Attributes:
        threads: how many threads write.
        pages: how many pages each of them has.
        page_bytes: size of one.
    """

    def __init__(self, threads: int, pages: int, page_bytes: int, seed: int) -> None:
        self.threads = threads
        self.pages = pages
        self.page_bytes = page_bytes
        self._orders = []
        for thread in range(threads):
            order = list(range(pages))
            random.Random(seed * 1000 + thread).shuffle(order)
            self._orders.append(order)

    def index(self, thread: int, step: int) -> int:
        """Which of its pages a thread writes in a step (from 1)."""
        return self._orders[thread][(step - 1) % self.pages]

    def place(self, thread: int, index: int) -> int:
        """Offset in bytes; the threads' pages alternate, so that neighbours have different writers."""
        return (index * self.threads + thread) * self.page_bytes

    def content(self, thread: int, index: int, step: int) -> bytes:
        """A whole page as `step` leaves it."""
        generation = (step + self.pages - 1) // self.pages
        record = _RECORD.pack(_MAGIC, thread, index, generation, step)
        return record * (self.page_bytes // _RECORD.size)

    def last_step(self, position: int, steps: int) -> int:
        """Which of the first `steps` was the last to write a position of the order; 0 for none."""
        if steps <= position:
            return 0
        return position + 1 + (steps - position - 1) // self.pages * self.pages

    def violations(self, data: bytes) -> list[str]:
        """What in a snapshot is not the memory of one moment, as sentences; empty if it is right.

        Args:
            data: all threads' memory.
        """
        found = []
        for thread in range(self.threads):
            found += self._thread_violations(data, thread)
        return found

    def _thread_violations(self, data: bytes, thread: int) -> list[str]:
        found: list[str] = []
        steps = []
        for index in self._orders[thread]:
            place = self.place(thread, index)
            page = data[place : place + self.page_bytes]
            step = _RECORD.unpack_from(page)[4]
            if page != self.content(thread, index, step):
                found.append(f"Page {index} of thread {thread} holds no single write of it.")
                step = 0
            steps.append(step)
        done = max(steps)
        for position, step in enumerate(steps):
            expected = self.last_step(position, done)
            if step != expected:
                found.append(
                    f"Page {self._orders[thread][position]} of thread {thread} is of step {step}; it was "
                    f"of step {expected} when the newest page, of step {done}, was written."
                )
        more = len(found) - _MOST_VIOLATIONS
        return found[:_MOST_VIOLATIONS] + ([f"({more} more in thread {thread})"] if more > 0 else [])
