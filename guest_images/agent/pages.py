"""The agent's data pages and its order of writes, format version 1, as arrays.

The agent's side is guest_images/agent/core/: page.c and schedule.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from guest_images.agent.format import BODY_STRIDE, DATA_MAGIC, PAGE_WORDS, DataWord, PageWord

_MASK = (1 << 64) - 1
_BODY = slice(DataWord.BODY, DataWord.CHECKSUM)
_BODY_STEP = (np.arange(DataWord.BODY, DataWord.CHECKSUM, dtype=np.uint64) * np.uint64(BODY_STRIDE)).astype(
    np.uint64
)
_BODY_STEP_SUM = np.add.reduce(_BODY_STEP)
# Few enough bodies, and what is made of them, to stay in a CPU's cache.
_PAGES_AT_ONCE = 64

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class DataHeader:
    """The words of a data page before its body, in their order."""

    magic: int
    nonce: int
    thread: int
    index: int
    generation: int
    step: int

    @classmethod
    def of(cls, words: Words) -> DataHeader:
        """Return the header of a data page, given its words or the first six of them."""
        return cls(*(int(word) for word in words[: DataWord.BODY]))


def mix(value: Words) -> Words:
    """Return the finaliser of splitmix64 of every element."""
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
    """Return the key of each page's body: uint64[k]."""
    return mix(mix(mix(_words(nonce) ^ _words(thread)) ^ index) ^ step)


def checksum(pages: Words) -> Words:
    """Return the checksum of each page: uint64[k, 512] -> uint64[k]."""
    return mix(np.add.reduce(pages[:, : DataWord.CHECKSUM], axis=1))


def intact(pages: Words) -> npt.NDArray[np.bool_]:
    """Return which data pages have a body and checksum that agree with their own header: bool[k].

    Args:
        pages: uint64[k, 512], of any content.
    """
    nonce, thread, index, step = (
        pages[:, word] for word in (PageWord.NONCE, DataWord.THREAD, DataWord.INDEX, DataWord.STEP)
    )
    keys = page_keys(nonce, thread, index, step)
    # The sum that the checksum is made of, if the body is what the key says.
    total = np.add.reduce(pages[:, : DataWord.BODY], axis=1)
    total = total + keys * np.uint64(len(_BODY_STEP)) + _BODY_STEP_SUM
    good: npt.NDArray[np.bool_] = mix(total) == pages[:, DataWord.CHECKSUM]
    good &= pages[:, PageWord.MAGIC] == np.uint64(DATA_MAGIC)
    space = np.empty((min(len(pages), _PAGES_AT_ONCE), len(_BODY_STEP)), np.uint64)
    for first in range(0, len(pages), _PAGES_AT_ONCE):
        part = slice(first, first + _PAGES_AT_ONCE)
        body = pages[part, _BODY]
        wrong = np.subtract(body, _BODY_STEP, out=space[: len(body)]) != keys[part, None]
        if wrong.any():
            good[part] &= ~wrong.any(axis=1)
    return good


def data_pages(nonce: int, thread: int, index: Words, generation: Words, step: Words) -> Words:
    """Return the content of data pages: uint64[k, 512]."""
    pages = np.empty((len(index), PAGE_WORDS), np.uint64)
    pages[:, PageWord.MAGIC] = DATA_MAGIC
    pages[:, PageWord.NONCE] = nonce & _MASK
    pages[:, DataWord.THREAD] = thread
    pages[:, DataWord.INDEX] = index
    pages[:, DataWord.GENERATION] = generation
    pages[:, DataWord.STEP] = step
    pages[:, _BODY] = page_keys(nonce, thread, index, step)[:, None] + _BODY_STEP
    pages[:, DataWord.CHECKSUM] = checksum(pages)
    return pages


class Pattern(IntEnum):
    """Orders of writes by their number, the value of ControlWord.PATTERN."""

    SEQUENTIAL = 0
    RANDOM = 1
    HOT = 2
    SPARSE = 3
    ZERO = 4


PATTERNS = tuple(pattern.name.lower() for pattern in Pattern)
"""The names of the patterns on the agent's command line, by number."""


@dataclass(frozen=True)
class Schedule:
    """The order in which one agent thread writes its pages.

    Attributes:
        pattern: a Pattern.
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
        """Return the size of the hot class, which is all pages for patterns without one."""
        return max(1, self.pages // 10) if self.pattern == Pattern.HOT else self.pages

    @property
    def first_pass_steps(self) -> int:
        """Return after how many steps each page has been written at least once."""
        return 10 * (self.pages - self.hot_pages) if self.pattern == Pattern.HOT else self.pages

    def permute(self, element: Words) -> Words:
        """Permute 0 to pages - 1 as the random pattern does: four Feistel rounds, with cycle walking."""
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
        """Return the index and generation that each step writes: two uint64[k]."""
        step = step.astype(np.uint64)
        if self.pattern == Pattern.HOT:
            hot = np.uint64(self.hot_pages)
            cold = np.uint64(self.pages - self.hot_pages)
            turn, rest = step // np.uint64(10), step % np.uint64(10)
            is_cold = rest == np.uint64(9)
            count = np.where(is_cold, turn, np.uint64(9) * turn + rest)
            size = np.where(is_cold, cold, hot)
            index = count % size + np.where(is_cold, hot, np.uint64(0))
            return index, count // size + np.uint64(1)
        element = step % np.uint64(self.pages)
        index = self.permute(element) if self.pattern == Pattern.RANDOM else element
        return index, step // np.uint64(self.pages) + np.uint64(1)

    def state(self, steps: int) -> tuple[Words, Words]:
        """Return what the last write of each index among the first `steps` steps is.

        Returns:
            Its generation, 0 where there is none, and its step: two uint64[pages], by index.
        """
        generation = np.zeros(self.pages, np.uint64)
        last = np.zeros(self.pages, np.uint64)
        if self.pattern == Pattern.HOT:
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
            place = self.permute(index) if self.pattern == Pattern.RANDOM else index
            generation[place], last[place] = by_element, count
        last[generation == 0] = 0
        return generation, last

    def next_write(self, index: Words, step: Words) -> Words:
        """Return the step at which each page is written again after the given write of it."""
        if self.pattern != Pattern.HOT:
            return step + np.uint64(self.pages)
        hot = np.uint64(self.hot_pages)
        is_cold = index >= hot
        turn, rest = step // np.uint64(10), step % np.uint64(10)
        count = np.uint64(9) * turn + rest + hot
        hot_next = count // np.uint64(9) * np.uint64(10) + count % np.uint64(9)
        cold_next = (turn + np.uint64(self.pages) - hot) * np.uint64(10) + np.uint64(9)
        return np.where(is_cold, cold_next, hot_next)

    def content(self, nonce: int, index: Words, generation: Words, step: Words) -> Words:
        """Return the content of pages in the given states, zero for never written ones: uint64[k, 512]."""
        pages = data_pages(nonce, self.thread, index, generation, step)
        pages[self.is_zero(generation)] = 0
        return pages

    def is_zero(self, generation: Words) -> npt.NDArray[np.bool_]:
        """Return which generations are pages of zeros: never written, or even ones of the zero pattern."""
        blank: npt.NDArray[np.bool_] = generation == 0
        if self.pattern == Pattern.ZERO:
            blank |= generation % np.uint64(2) == 0
        return blank


def _last_counts(done: int, size: int, generation: Words) -> Words:
    """Return the number of each element's last write in the first `done` of a class; fill `generation`."""
    element = np.arange(size, dtype=np.uint64)
    written = element < np.uint64(done)
    passes = np.zeros(size, np.uint64)
    passes[written] = (np.uint64(max(done, 1) - 1) - element[written]) // np.uint64(max(size, 1))
    generation[:] = np.where(written, passes + np.uint64(1), np.uint64(0))
    return passes * np.uint64(size) + element
