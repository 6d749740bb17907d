"""Which samples `snapproof bench downtime` takes, in which order, and what it leaves out and why."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests_functional.scenarios.bench.measure import AROUND_SECONDS
from tests_functional.scenarios.bench.ways import GIVE_UP_FACTOR, UNLIMITED, Sink, Way, why_not
from tests_functional.scenarios.bench.writers import Writer

RAM_MIB = (256, 512, 1024, 2048, 4096)
"""Guest sizes where nobody says otherwise."""

_SIDE_MIB = 512
# QEMU beside guest RAM, and a share of the file in the page cache.
_MEMORY_FACTOR, _MEMORY_MIB = 1.25, 512
# A pre-copy that is given up sends the rest of its round, and then once more what was written in that.
_FILE_FACTOR = GIVE_UP_FACTOR + 2.0
# MiB per second as measured with QEMU 10.0.13 under TCG on two cores: the estimate need not be good.
_SAVE_SPEED = {
    Way.BACKGROUND_EXEC: 300.0,
    Way.BACKGROUND_FILE: 300.0,
    Way.STOP_AND_SAVE: 900.0,
    Way.SAVEVM: 700.0,
    Way.PRECOPY_FILE: 600.0,
}
# A pre-copy sends pages again that were written meanwhile.
_PRECOPY_TIMES = 2.5
_START_SECONDS, _START_SPEED = 1.5, 400.0
_BOOT_SECONDS, _FILL_SPEED = 7.0, 60.0


@dataclass(frozen=True)
class Case:
    """What is measured, several times.

    Attributes:
        ram_mib: of the guest.
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
        """For messages and folders."""
        share = self.writer.value.replace("%", "-percent")
        return f"{self.ram_mib}-{self.way.value}-{share}-{self.sink.name}"

    @property
    def again(self) -> bool:
        """Whether a second snapshot of the same process is looked at as well."""
        return self.way is Way.BACKGROUND_EXEC and self.writer is Writer.ALL and not self.sink.mib_per_second

    @property
    def seconds(self) -> float:
        """About how long a sample takes."""
        speed = self.sink.mib_per_second or _SAVE_SPEED[self.way]
        times = _PRECOPY_TIMES if self.way is Way.PRECOPY_FILE and self.writer is not Writer.IDLE else 1
        saves = times * self.ram_mib / speed + (self.ram_mib / _SAVE_SPEED[self.way] if self.again else 0)
        return _START_SECONDS + self.ram_mib / _START_SPEED + 2 * AROUND_SECONDS + saves


@dataclass(frozen=True)
class Run:
    """One sample to be taken: a case, and which of its repeats."""

    repeat: int
    case: Case


@dataclass(frozen=True)
class Plan:
    """All samples.

    Attributes:
        cases: what is measured.
        left_out: what is not, and why.
        repeats: how often each case.
        seed: of their order.
        writer: at all sizes.
        sink: at all sizes.
    """

    cases: tuple[Case, ...]
    left_out: tuple[tuple[str, str], ...]
    repeats: int
    seed: int
    writer: Writer
    sink: Sink

    def runs(self) -> list[Run]:
        """All samples in the order in which they are taken: each case once per round, shuffled anew.

        So what the machine does meanwhile, and what a sample leaves behind, meets all cases alike.
        """
        order = random.Random(self.seed)
        runs = []
        for repeat in range(1, self.repeats + 1):
            cases = list(self.cases)
            order.shuffle(cases)
            runs += [Run(repeat, case) for case in cases]
        return runs

    def guests(self) -> list[tuple[int, Writer]]:
        """The guests to be made ready beforehand: RAM in MiB, and writer."""
        return sorted(
            {(case.ram_mib, case.writer) for case in self.cases}, key=lambda one: (one[0], one[1].value)
        )

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        guests = sum(_BOOT_SECONDS + ram / _FILL_SPEED for ram, _ in self.guests())
        return guests + self.repeats * sum(case.seconds for case in self.cases)

    @property
    def disk_mib(self) -> int:
        """MiB that it takes on disk at most: all guests, and the file of one sample."""
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
) -> Plan:
    """All sizes by all ways with one writer and sink, and all writers and sinks at one size.

    The whole product would take hours.

    Args:
        ram: guest sizes in MiB.
        ways: of saving.
        writers: `all` stands for itself at all sizes, where it is there; else the first does.
        sinks: likewise `unlimited`.
        repeats: samples of each case.
        seed: of the order.
        memory_mib: available on this host.
    """
    left_out = [
        (f"{size} MiB", f"It needs {_needed_mib(size)} MiB of the host's memory, {memory_mib} are available.")
        for size in ram
        if _needed_mib(size) > memory_mib
    ]
    sizes = [size for size in ram if _needed_mib(size) <= memory_mib]
    writer = Writer.ALL if Writer.ALL in writers else writers[0]
    sink = next((sink for sink in sinks if not sink.mib_per_second), sinks[0])
    wanted = [Case(size, way, writer, sink) for size in sizes for way in ways]
    if sizes:
        side = min(sizes, key=lambda size: abs(size - _SIDE_MIB))
        wanted += [Case(side, way, other, to) for other in writers for to in sinks for way in ways]
    cases = []
    for case in dict.fromkeys(wanted):
        why = why_not(case.way, case.sink)
        if not why:
            cases.append(case)
        elif (what := f"{case.way.value}, {case.sink.name}") not in dict(left_out):
            left_out.append((what, why))
    return Plan(tuple(cases), tuple(left_out), repeats, seed, writer, sink)


def _needed_mib(ram_mib: int) -> int:
    return int(ram_mib * _MEMORY_FACTOR) + _MEMORY_MIB
