"""The agent's counters, read from QEMU's memory without disturbing the guest.

An exchange over SSH takes a tenth of a second and needs the guest's help. A reading here takes microseconds:
it can tell how far the writers were at the very instant a save completed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from guest_images.agent.format import (
    CONTROL_MAGIC,
    FINE_BUCKETS,
    LONG_GAPS_KEPT,
    PAGE_BYTES,
    PAGE_WORDS,
    THREAD_MAGIC,
    WORD_BYTES,
    ControlWord,
    PageWord,
    ThreadWord,
)
from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu.guest_memory import QemuMemoryGone
from harness.qemu.machine import Machine, known_pid
from harness.qemu.ram import RamBlock, ramblocks, read_populated

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class CounterPage:
    """Where a page lies in guest RAM. It lies there in a restored guest too.

    Attributes:
        block: name of its RAMBlock in the vmstate stream.
        offset: in that RAMBlock, in bytes.
    """

    block: str
    offset: int


@dataclass(frozen=True)
class CounterPages:
    """Where an agent's counters are.

    Attributes:
        control: its control page.
        threads: the thread page of each writer, by thread.
    """

    control: CounterPage
    threads: tuple[CounterPage, ...]


@dataclass(frozen=True)
class LongGap:
    """A time in which a writer made no step, of LONG_GAP_NS or more.

    Attributes:
        end: the guest's CLOCK_MONOTONIC at its end, in seconds.
        seconds: its length.
    """

    end: float
    seconds: float


class AgentCounters:
    """The counters of one agent in the memory of one QEMU. Its methods may be called from any thread.

    All of them raise QemuMemoryGone once QEMU ends, and SetupBroken where its memory cannot be read.

    Attributes:
        pages: where the counters are in guest RAM.
    """

    def __init__(
        self, machine: Machine, pages: CounterPages, blocks: Sequence[RamBlock] | None = None
    ) -> None:
        """Locate the pages in QEMU's own address space.

        Args:
            machine: QEMU.
            pages: where the counters are.
            blocks: the machine's RAMBlocks, asked of QEMU where they are not given.

        Raises:
            SetupBroken: QEMU has no such RAMBlock, or does not print its address.
        """
        self.pages = pages
        self._path = Path(f"/proc/{known_pid(machine)}/mem")
        host_addresses = {block.idstr: block.host_address for block in blocks or ramblocks(machine)}
        if not all(host_addresses.get(page.block) for page in (pages.control, *pages.threads)):
            raise SetupBroken("QEMU does not say where the guest's main RAM lies.")
        self._control, *self._threads = (
            host_addresses[page.block] + page.offset for page in (pages.control, *pages.threads)
        )

    @classmethod
    def find(cls, machine: Machine, nonce: int) -> Self:
        """Search guest RAM for the pages of the agent with this nonce.

        Raises:
            SetupBroken: they are not in guest RAM.
            MachineryMissing: the host does not let us read QEMU's memory.
        """
        threads: dict[int, CounterPage] = {}
        control: list[CounterPage] = []
        blocks = ramblocks(machine)
        for page, words in _counter_pages(machine, blocks, nonce):
            if words[PageWord.MAGIC] == CONTROL_MAGIC:
                control.append(page)
            else:
                threads[int(words[ThreadWord.NUMBER])] = page
        if not threads or not control:
            raise SetupBroken("The agent's thread and control pages were not found in guest RAM.")
        pages = CounterPages(control[0], tuple(threads[thread] for thread in sorted(threads)))
        return cls(machine, pages, blocks)

    def steps(self) -> tuple[int, ...]:
        """Return the page writes completed by each writer, now."""
        return tuple(int(word) for word in self._of_threads(ThreadWord.STEPS)[:, 0])

    def longest_write(self) -> float:
        """Return the longest single page write of all writers since `reset_stats`, in seconds."""
        return int(self._of_threads(ThreadWord.LONGEST_WRITE_NS).max()) / 1e9

    def longest_gap(self) -> float:
        """Return the longest time between the ends of two page writes of a writer, likewise."""
        return int(self._of_threads(ThreadWord.LONGEST_GAP_NS).max()) / 1e9

    def longest_heartbeat_gap(self) -> float:
        """Return the longest time between two heartbeats, likewise, by the guest's clock."""
        return self._of_control(ControlWord.LONGEST_GAP_NS) / 1e9

    def long_gaps(self) -> list[LongGap] | None:
        """Return the long gaps of all writers since `reset_stats`.

        Returns:
            None where there were more than the agent keeps.
        """
        found = []
        counts = self._of_threads(ThreadWord.LONG_GAPS)[:, 0].tolist()
        times = self._of_threads(ThreadWord.LONG_GAP_TIMES, 2 * LONG_GAPS_KEPT)
        if max(counts) > LONG_GAPS_KEPT:
            return None
        for count, words in zip(counts, times, strict=True):
            pairs = words[: 2 * count].reshape(-1, 2).tolist()
            found += [LongGap(end_ns / 1e9, length_ns / 1e9) for end_ns, length_ns in pairs]
        return found

    def histogram(self) -> Words:
        """Return how many writes of all writers lasted how long since `reset_stats`.

        Returns:
            uint64[FINE_BUCKETS], by the buckets of `fine_bucket_ns`.
        """
        total: Words = self._of_threads(ThreadWord.FINE_HISTOGRAM, FINE_BUCKETS).sum(axis=0, dtype=np.uint64)
        return total

    def guest_clock(self) -> float:
        """Return the guest's CLOCK_MONOTONIC in seconds: at most 10 ms old in a guest that runs."""
        return self._of_control(ControlWord.MONOTONIC_NS) / 1e9

    def _of_control(self, word: int) -> int:
        return int(self._read([self._control], word, 1)[0, 0])

    def _of_threads(self, word: int, count: int = 1) -> Words:
        """Read words of each thread page: uint64[threads, count]."""
        return self._read(self._threads, word, count)

    def _read(self, addresses: Sequence[int], word: int, count: int) -> Words:
        """Read `count` words from `word` on of the pages at these addresses: uint64[pages, count]."""
        length, start = count * WORD_BYTES, word * WORD_BYTES
        try:
            with self._path.open("rb", buffering=0) as memory:
                parts = [os.pread(memory.fileno(), length, address + start) for address in addresses]
        except OSError as error:
            # Linux fs/proc/base.c: a process that is ending has no memory any more before it has ended.
            if error.errno in (errno.ESRCH, errno.ENOENT):
                raise QemuMemoryGone("The guest's counters cannot be read: QEMU's memory is gone.") from error
            raise SetupBroken(
                f"The guest's counters cannot be read: {error.strerror}.", code=Code.QEMU_MEMORY_UNREADABLE
            ) from error
        if any(len(part) != length for part in parts):
            raise QemuMemoryGone("The guest's counters cannot be read: QEMU's memory is gone.")
        return np.frombuffer(b"".join(parts), dtype="<u8").reshape(len(addresses), count)


def _counter_pages(
    machine: Machine, blocks: Sequence[RamBlock], nonce: int
) -> Iterator[tuple[CounterPage, Words]]:
    """Find an agent's control and thread pages in guest RAM, each with its words: uint64[PAGE_WORDS]."""
    for block in blocks:
        if not block.host_address:
            continue
        for address, data in read_populated(machine, block):
            whole = len(data) // PAGE_BYTES * PAGE_BYTES
            words = np.frombuffer(data[:whole], dtype="<u8").reshape(-1, PAGE_WORDS)
            kinds = np.isin(words[:, PageWord.MAGIC], np.array([CONTROL_MAGIC, THREAD_MAGIC], np.uint64))
            for row in np.flatnonzero(kinds & (words[:, PageWord.NONCE] == nonce)).tolist():
                offset = address - block.host_address + row * PAGE_BYTES
                yield CounterPage(block.idstr, offset), words[row]
