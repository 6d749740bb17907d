"""The agent's page format and write schedule, version 1, as arrays.

The C side is guest_images/agent. A page is 4096 bytes = 512 little-endian 64-bit words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAGE_BYTES = 4096
WORDS = 512
FORMAT_VERSION = 1
DIRECTORY_CAPACITY = 500
DIRECTORY_FIRST_WORD = 8

DATA_MAGIC = int.from_bytes(b"SNAPPAGE", "little")
DIRECTORY_MAGIC = int.from_bytes(b"SNAPDIRY", "little")
CONTROL_MAGIC = int.from_bytes(b"SNAPCTRL", "little")
THREAD_MAGIC = int.from_bytes(b"SNAPTHRD", "little")

PATTERNS = ("sequential", "random", "hot", "sparse", "zero")
SEQUENTIAL, RANDOM, HOT, SPARSE, ZERO = range(5)

_GOLDEN_RATIO = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
BODY_FIRST, CHECKSUM_WORD = 6, 511
_BODY_STEP = (np.arange(BODY_FIRST, CHECKSUM_WORD, dtype=np.uint64) * np.uint64(_GOLDEN_RATIO)).astype(
    np.uint64
)
_BODY_STEP_SUM = np.add.reduce(_BODY_STEP)
# So many bodies and what is made of them stay in a CPU's cache.
_PAGES_AT_ONCE = 64

Words = npt.NDArray[np.uint64]

FINE_FIRST_WORD, FINE_BUCKETS = 128, 280
"""Of a thread page: its writes by duration, in the buckets of `fine_bucket_ns`."""

_FINE_BITS = 3


def fine_bucket_ns(bucket: int) -> tuple[int, int]:
    """From and up to how many nanoseconds the writes in a bucket took; see docs/agent-format.md."""
    shift = max(0, (bucket >> _FINE_BITS) - 1)
    first = bucket - (shift << _FINE_BITS)
    return first << shift, (first + 1) << shift


def mix(value: Words) -> Words:
    """The splitmix64 finaliser on every element."""
    value = value ^ (value >> np.uint64(30))
    value = value * np.uint64(0xBF58476D1CE4E5B9)
    value = value ^ (value >> np.uint64(27))
    value = value * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _words(value: int | Words | npt.NDArray[np.int64]) -> Words:
    if isinstance(value, int):
        return np.array([value & _MASK], np.uint64)
    return value.astype(np.uint64)


def page_keys(nonce: int | Words, thread: int | Words, index: Words, step: Words) -> Words:
    """The key of each page's body: uint64[k]."""
    return mix(mix(mix(_words(nonce) ^ _words(thread)) ^ index) ^ step)


def checksum(pages: Words) -> Words:
    """Checksum word of pages: uint64[k, 512] -> uint64[k]."""
    return mix(np.add.reduce(pages[:, :CHECKSUM_WORD], axis=1))


def intact(pages: Words) -> npt.NDArray[np.bool_]:
    """Which data pages have a body and checksum that agree with their own header: bool[k]."""
    keys = page_keys(pages[:, 1], pages[:, 2], pages[:, 3], pages[:, 5])
    # The sum that the checksum is made of, if the body is what the key says.
    total = np.add.reduce(pages[:, :BODY_FIRST], axis=1) + keys * np.uint64(len(_BODY_STEP)) + _BODY_STEP_SUM
    good: npt.NDArray[np.bool_] = mix(total) == pages[:, CHECKSUM_WORD]
    good &= pages[:, 0] == np.uint64(DATA_MAGIC)
    space = np.empty((min(len(pages), _PAGES_AT_ONCE), len(_BODY_STEP)), np.uint64)
    for first in range(0, len(pages), _PAGES_AT_ONCE):
        part = slice(first, first + _PAGES_AT_ONCE)
        body = pages[part, BODY_FIRST:CHECKSUM_WORD]
        wrong = np.subtract(body, _BODY_STEP, out=space[: len(body)]) != keys[part, None]
        if wrong.any():
            good[part] &= ~wrong.any(axis=1)
    return good


def data_pages(nonce: int, thread: int, index: Words, generation: Words, step: Words) -> Words:
    """Content of data pages: uint64[k, 512]."""
    pages = np.empty((len(index), WORDS), np.uint64)
    pages[:, 0] = DATA_MAGIC
    pages[:, 1] = nonce & _MASK
    pages[:, 2] = thread
    pages[:, 3] = index
    pages[:, 4] = generation
    pages[:, 5] = step
    pages[:, BODY_FIRST:CHECKSUM_WORD] = page_keys(nonce, thread, index, step)[:, None] + _BODY_STEP
    pages[:, CHECKSUM_WORD] = checksum(pages)
    return pages


@dataclass(frozen=True)
class Schedule:
    """The order in which one agent thread writes its pages.

    Attributes:
        pattern: number of the pattern, 0..4.
        pages: pages of the thread; at least 2 for the hot pattern.
        seed: the agent's seed.
        thread: number of the thread.
    """

    pattern: int
    pages: int
    seed: int
    thread: int

    @property
    def hot_pages(self) -> int:
        """Size of the hot class, the whole thread for patterns without one."""
        return max(1, self.pages // 10) if self.pattern == HOT else self.pages

    @property
    def first_pass_steps(self) -> int:
        """Steps after which each page has been written at least once."""
        return 10 * (self.pages - self.hot_pages) if self.pattern == HOT else self.pages

    def permute(self, element: Words) -> Words:
        """The random pattern's permutation of 0..pages-1: a four-round Feistel with cycle walking."""
        half = 1
        while 1 << (2 * half) < self.pages:
            half += 1
        low = np.uint64((1 << half) - 1)
        bits = np.uint64(half)
        key = mix(np.array([self.seed & _MASK], np.uint64) ^ mix(np.array([self.thread + 1], np.uint64)))
        value = element.astype(np.uint64)
        todo = np.arange(len(value))
        while len(todo):
            left, right = value[todo] >> bits, value[todo] & low
            for turn in range(4):
                left, right = right, left ^ (mix((key ^ np.uint64(turn << 56)) ^ right) & low)
            value[todo] = (left << bits) | right
            todo = todo[value[todo] >= np.uint64(self.pages)]
        return value

    def locate(self, step: Words) -> tuple[Words, Words]:
        """Index and generation that each step writes: two uint64[k]."""
        step = step.astype(np.uint64)
        if self.pattern == HOT:
            hot = np.uint64(self.hot_pages)
            cold = np.uint64(self.pages - self.hot_pages)
            turn, rest = step // np.uint64(10), step % np.uint64(10)
            is_cold = rest == np.uint64(9)
            count = np.where(is_cold, turn, np.uint64(9) * turn + rest)
            size = np.where(is_cold, cold, hot)
            index = count % size + np.where(is_cold, hot, np.uint64(0))
            return index, count // size + np.uint64(1)
        element = step % np.uint64(self.pages)
        index = self.permute(element) if self.pattern == RANDOM else element
        return index, step // np.uint64(self.pages) + np.uint64(1)

    def state(self, steps: int) -> tuple[Words, Words]:
        """Generation (0: never written) and step of the last write of each index after `steps` steps.

        Returns:
            Two uint64[pages], by index.
        """
        generation = np.zeros(self.pages, np.uint64)
        last = np.zeros(self.pages, np.uint64)
        if self.pattern == HOT:
            hot = self.hot_pages
            done = 9 * (steps // 10) + min(steps % 10, 9)
            count = _last_counts(done, hot, generation[:hot])
            last[:hot] = count // np.uint64(9) * np.uint64(10) + count % np.uint64(9)
            count = _last_counts(steps // 10, self.pages - hot, generation[hot:])
            last[hot:] = count * np.uint64(10) + np.uint64(9)
        else:
            by_element = np.zeros(self.pages, np.uint64)
            count = _last_counts(steps, self.pages, by_element)
            index = np.arange(self.pages, dtype=np.uint64)
            place = self.permute(index) if self.pattern == RANDOM else index
            generation[place], last[place] = by_element, count
        last[generation == 0] = 0
        return generation, last

    def next_write(self, index: Words, step: Words) -> Words:
        """The step at which each page is written again after the given write of it."""
        if self.pattern != HOT:
            return step + np.uint64(self.pages)
        hot = np.uint64(self.hot_pages)
        is_cold = index >= hot
        turn, rest = step // np.uint64(10), step % np.uint64(10)
        count = np.uint64(9) * turn + rest + hot
        hot_next = count // np.uint64(9) * np.uint64(10) + count % np.uint64(9)
        cold_next = (turn + np.uint64(self.pages) - hot) * np.uint64(10) + np.uint64(9)
        return np.where(is_cold, cold_next, hot_next)

    def content(self, nonce: int, index: Words, generation: Words, step: Words) -> Words:
        """Content of pages in the given states, zero for never written ones: uint64[k, 512]."""
        pages = data_pages(nonce, self.thread, index, generation, step)
        pages[self.is_zero(generation)] = 0
        return pages

    def is_zero(self, generation: Words) -> npt.NDArray[np.bool_]:
        """Which generations are pages of zeros: never written, or even ones of the zero pattern."""
        blank: npt.NDArray[np.bool_] = generation == 0
        if self.pattern == ZERO:
            blank |= generation % np.uint64(2) == 0
        return blank


def _last_counts(done: int, size: int, generation: Words) -> Words:
    """Number of the last write of each element among the first `done` of a class; fills generations."""
    element = np.arange(size, dtype=np.uint64)
    written = element < np.uint64(done)
    passes = np.zeros(size, np.uint64)
    passes[written] = (np.uint64(max(done, 1) - 1) - element[written]) // np.uint64(max(size, 1))
    generation[:] = np.where(written, passes + np.uint64(1), np.uint64(0))
    return passes * np.uint64(size) + element
