"""Plans the samples of `snapproof bench downtime`: which, in which order, and what is left out and why."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests_functional.lib.measure.cases import (
    AROUND_SECONDS,
    GIVE_UP_FACTOR,
    UNLIMITED,
    Sink,
    Way,
    Writer,
    why_not,
)

RAM_MIB = (256, 512, 1024, 2048, 4096)
"""Guest sizes by default."""

_SIDE_MIB = 512
# Of guest RAM, for a share of the file in the page cache; and for QEMU itself.
_MEMORY_FACTOR, _MEMORY_MIB = 1.25, 512
# A pre-copy that is given up sends the rest of its round, and then the pages written meanwhile once more.
_FILE_FACTOR = GIVE_UP_FACTOR + 2.0
# MiB per second, measured with QEMU 10.0.13 under TCG on two cores; only for a rough estimate.
_SAVE_SPEED = {
    Way.BACKGROUND_EXEC: 300.0,
    Way.BACKGROUND_FILE: 300.0,
    Way.STOP_AND_SAVE: 900.0,
    Way.SAVEVM: 700.0,
    Way.PRECOPY_FILE: 600.0,
}
# A pre-copy sends pages that were written meanwhile once more.
_PRECOPY_TIMES = 2.5
_START_SECONDS, _START_SPEED = 1.5, 400.0
_BOOT_SECONDS, _FILL_SPEED = 7.0, 60.0


@dataclass(frozen=True)
class BenchCase:
    """A combination that is measured several times.

    Attributes:
        ram_mib: RAM of the guest.
        way: how it is saved.
        writer: what writes meanwhile.
        sink: what takes the bytes.
    """

    ram_mib: int
    way: Way
    writer: Writer
    sink: Sink = UNLIMITED

    @property
    def name(self) -> str:
        """A name for messages and folders."""
        share = self.writer.value.replace("%", "-percent")
        return f"{self.ram_mib}-{self.way.value}-{share}-{self.sink.name}"

    @property
    def again(self) -> bool:
        """Whether a second snapshot of the same process is measured too."""
        return self.way is Way.BACKGROUND_EXEC and self.writer is Writer.ALL and not self.sink.mib_per_second

    @property
    def seconds(self) -> float:
        """Estimated seconds of one sample."""
        speed = self.sink.mib_per_second or _SAVE_SPEED[self.way]
        times = _PRECOPY_TIMES if self.way is Way.PRECOPY_FILE and self.writer is not Writer.IDLE else 1
        saves = times * self.ram_mib / speed + (self.ram_mib / _SAVE_SPEED[self.way] if self.again else 0)
        return _START_SECONDS + self.ram_mib / _START_SPEED + 2 * AROUND_SECONDS + saves


@dataclass(frozen=True)
class PlannedSample:
    """One sample to be taken: a case, and the number of its repeat, from 1."""

    repeat: int
    case: BenchCase


@dataclass(frozen=True)
class SamplePlan:
    """The samples that a benchmark takes.

    Attributes:
        cases: the combinations that are measured.
        left_out: what is not measured, and why.
        repeats: samples of each case.
        seed: seed of their order.
        writer: the writer that is measured at all sizes.
        sink: the sink that is measured at all sizes.
    """

    cases: tuple[BenchCase, ...]
    left_out: tuple[tuple[str, str], ...]
    repeats: int
    seed: int
    writer: Writer
    sink: Sink

    def samples(self) -> list[PlannedSample]:
        """Return all samples in the order in which they are taken: each case once per round, shuffled anew.

        Other load on the machine, and effects of the sample before, then affect all cases alike.
        """
        order = random.Random(self.seed)
        samples = []
        for repeat in range(1, self.repeats + 1):
            cases = list(self.cases)
            order.shuffle(cases)
            samples += [PlannedSample(repeat, case) for case in cases]
        return samples

    def guests(self) -> list[tuple[int, Writer]]:
        """Return the guests to be made ready beforehand: RAM in MiB, and writer."""
        return sorted(
            {(case.ram_mib, case.writer) for case in self.cases}, key=lambda one: (one[0], one[1].value)
        )

    @property
    def seconds(self) -> float:
        """Estimated seconds of the whole benchmark."""
        guests = sum(_BOOT_SECONDS + ram / _FILL_SPEED for ram, _ in self.guests())
        return guests + self.repeats * sum(case.seconds for case in self.cases)

    @property
    def disk_mib(self) -> int:
        """MiB of disk that are needed at most: all guests, and the file of one sample."""
        sizes = [ram for ram, _ in self.guests()]
        return int(sum(sizes) + _FILE_FACTOR * max(sizes, default=0))


def make_plan(
    ram: Sequence[int],
    ways: Sequence[Way],
    writers: Sequence[Writer],
    sinks: Sequence[Sink],
    *,
    repeats: int,
    seed: int,
    memory_mib: int,
) -> SamplePlan:
    """Plan all sizes by all ways with one writer and sink, and all writers and sinks at one size.

    The whole product would take hours.

    Args:
        ram: guest sizes in MiB.
        ways: ways of saving.
        writers: writers; `all` is measured at all sizes, or the first one where `all` is not among them.
        sinks: sinks; `unlimited` is measured at all sizes, or else the first one.
        repeats: samples of each case.
        seed: seed of the order.
        memory_mib: memory available on this host.
    """
    left_out = [
        (f"{size} MiB", f"It needs {_needed_mib(size)} MiB of the host's memory, {memory_mib} are available.")
        for size in ram
        if _needed_mib(size) > memory_mib
    ]
    sizes = [size for size in ram if _needed_mib(size) <= memory_mib]
    writer = Writer.ALL if Writer.ALL in writers else writers[0]
    sink = next((sink for sink in sinks if not sink.mib_per_second), sinks[0])
    wanted = [BenchCase(size, way, writer, sink) for size in sizes for way in ways]
    if sizes:
        side = min(sizes, key=lambda size: abs(size - _SIDE_MIB))
        wanted += [BenchCase(side, way, other, to) for other in writers for to in sinks for way in ways]
    cases = []
    for case in dict.fromkeys(wanted):
        why = why_not(case.way, case.sink)
        if not why:
            cases.append(case)
        elif (what := f"{case.way.value}, {case.sink.name}") not in dict(left_out):
            left_out.append((what, why))
    return SamplePlan(tuple(cases), tuple(left_out), repeats, seed, writer, sink)


def _needed_mib(ram_mib: int) -> int:
    return int(ram_mib * _MEMORY_FACTOR) + _MEMORY_MIB
