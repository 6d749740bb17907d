"""A guest's writers and heartbeat as they count in guest RAM, read from the host without disturbing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from guest_images.agent.format import FINE_BUCKETS, ThreadWord, fine_bucket_ns
from harness.errors import SetupBroken
from harness.machine import Machine
from harness.ram import RamBlock, ramblocks
from tests_functional.scenarios.agent import AgentWindow
from tests_functional.scenarios.bench.figures import Bucket

# Words of thread and control page, see docs/agent-format.md.
_STEPS_WORD, _MAX_STALL_WORD, _MAX_GAP_WORD = 4, 8, 10
_HEARTBEATS_WORD, _CLOCK_GAP_WORD = 10, 13
_WORD = 8


@dataclass(frozen=True)
class Place:
    """Where a page lies: RAMBlock by its name in the stream, and offset in bytes. The same once restored."""

    block: str
    offset: int


@dataclass(frozen=True)
class Places:
    """Where the agent counts: its control page, and one page for each writer thread."""

    control: Place
    threads: tuple[Place, ...]


def places_of(machine: Machine, window: AgentWindow) -> Places:
    """Where the agent that a window is on counts.

    Raises:
        SetupBroken: QEMU does not say where its RAMBlocks are.
    """
    blocks = [block for block in ramblocks(machine) if block.host_address]
    control, *threads = (_place(blocks, address) for address in (window.control, *window.addresses))
    return Places(control, tuple(threads))


def _place(blocks: Sequence[RamBlock], address: int) -> Place:
    for block in blocks:
        if 0 <= address - block.host_address < block.used_bytes:
            return Place(block.idstr, address - block.host_address)
    raise SetupBroken(f"QEMU's address {address:#x} is in no RAMBlock.")


class Counters:
    """Reads them, for the length of a `with`; from any thread."""

    def __init__(self, machine: Machine, places: Places) -> None:
        """Find the pages of a machine.

        Raises:
            SetupBroken: it has no such RAMBlock, or does not say where it is.
        """
        address = {block.idstr: block.host_address for block in ramblocks(machine)}
        found = [
            address.get(place.block, 0) and address[place.block] + place.offset
            for place in (places.control, *places.threads)
        ]
        if not all(found):
            raise SetupBroken("QEMU does not say where the guest's main RAM lies.")
        self._control, *self._threads = found
        self._path = Path(f"/proc/{machine.process.pid}/mem")
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def steps(self) -> tuple[int, ...]:
        """Page writes completed by each writer, now."""
        return tuple(int(self._read(thread, _STEPS_WORD)[0]) for thread in self._threads)

    def heartbeats(self) -> int:
        """Of the agent's thread that does nothing else every 10 ms."""
        return int(self._read(self._control, _HEARTBEATS_WORD)[0])

    def longest_write_us(self) -> float:
        """Of all writers, since their statistics were reset, in microseconds."""
        return max(int(self._read(thread, _MAX_STALL_WORD)[0]) for thread in self._threads) / 1e3

    def longest_gaps_ms(self) -> tuple[float, float]:
        """In the stream of writes and in the heartbeat, since the statistics were reset, in guest ms."""
        writes = max(int(self._read(thread, _MAX_GAP_WORD)[0]) for thread in self._threads)
        return writes / 1e6, int(self._read(self._control, _CLOCK_GAP_WORD)[0]) / 1e6

    def histogram(self) -> npt.NDArray[np.uint64]:
        """Writes of all threads by duration, uint64[FINE_BUCKETS], since the statistics were reset."""
        total = np.zeros(FINE_BUCKETS, np.uint64)
        for thread in self._threads:
            total += self._read(thread, ThreadWord.FINE_HISTOGRAM, FINE_BUCKETS)
        return total

    def _read(self, page: int, word: int, count: int = 1) -> npt.NDArray[np.uint64]:
        try:
            data = os.pread(self._fd, count * _WORD, page + word * _WORD)
        except OSError as error:
            raise SetupBroken(f"The guest's counters cannot be read: {error.strerror}.") from error
        if len(data) != count * _WORD:
            raise SetupBroken("The guest's counters cannot be read: QEMU's memory is gone.")
        return np.frombuffer(data, dtype="<u8")


def buckets_us(counts: npt.NDArray[np.uint64]) -> list[Bucket]:
    """The buckets of a histogram that hold anything, in microseconds."""
    found = []
    for bucket in np.flatnonzero(counts).tolist():
        first, end = fine_bucket_ns(bucket)
        found.append((first / 1e3, end / 1e3, int(counts[bucket])))
    return found
