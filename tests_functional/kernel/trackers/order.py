"""The write order of the trackers' writing threads, and the oracle that checks a snapshot against it.

A page is a record of 32 bytes, repeated to its end: magic, thread, index within the thread's pages,
generation, step. Each thread writes its pages in a shuffled order, again and again, and counts its steps from
1; step 0 is the initial content. So at any instant a thread's pages are those after exactly one number of
steps.
"""

from __future__ import annotations

import random
import struct

_RECORD = struct.Struct("<QIIQQ")
_MAGIC = 0x656761706B636172
_MOST_VIOLATIONS = 5


class WriteOrder:
    """The page and the content that each step of each thread writes.

    Attributes:
        threads: number of writing threads.
        pages: number of pages of each thread.
        page_bytes: bytes of a page.
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
        """Return the index of the page that a thread writes in a step (from 1)."""
        return self._orders[thread][(step - 1) % self.pages]

    def place(self, thread: int, index: int) -> int:
        """Return the offset in bytes of a thread's page; the threads' pages alternate in memory."""
        return (index * self.threads + thread) * self.page_bytes

    def content(self, thread: int, index: int, step: int) -> bytes:
        """Return the content of a whole page after `step`."""
        generation = (step + self.pages - 1) // self.pages
        record = _RECORD.pack(_MAGIC, thread, index, generation, step)
        return record * (self.page_bytes // _RECORD.size)

    def last_step(self, position: int, steps: int) -> int:
        """Return the last of the first `steps` steps that wrote a position of the order, 0 for none."""
        if steps <= position:
            return 0
        return position + 1 + (steps - position - 1) // self.pages * self.pages

    def violations(self, data: bytes) -> list[str]:
        """Check that a snapshot is the memory of a single instant.

        Args:
            data: the memory of all threads.

        Returns:
            Sentences that say which pages are wrong; empty if none is.
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
                found.append(f"Page {index} of thread {thread} does not have the content of a single write.")
                step = 0
            steps.append(step)
        done = max(steps)
        for position, step in enumerate(steps):
            expected = self.last_step(position, done)
            if step != expected:
                found.append(
                    f"Page {self._orders[thread][position]} of thread {thread} is of step {step}, but the "
                    f"thread's newest page is of step {done}: at that instant it was of step {expected}."
                )
        more = len(found) - _MOST_VIOLATIONS
        return found[:_MOST_VIOLATIONS] + ([f"({more} more in thread {thread})"] if more > 0 else [])
