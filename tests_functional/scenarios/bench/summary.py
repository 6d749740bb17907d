"""Medians and spread of samples that are alike, and what they say about the promise of the feature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests_functional.scenarios.bench.figures import Spread, spread
from tests_functional.scenarios.bench.measure import Sample
from tests_functional.scenarios.bench.ways import Way

_FIGURES: Mapping[str, Callable[[Sample], float | None]] = {
    "stun_ms": lambda one: one.stun_ms,
    "again_stun_ms": lambda one: one.again_stun_ms,
    "downtime_ms": lambda one: one.downtime_ms,
    "total_ms": lambda one: one.total_ms,
    "size_bytes": lambda one: one.size_bytes,
    "qemu_total_ms": lambda one: one.qemu_total_ms,
    "guest_gap_ms": lambda one: one.guest_gap_ms,
    "guest_write_gap_ms": lambda one: one.guest_write_gap_ms,
    "guest_clock_gap_ms": lambda one: one.guest_clock_gap_ms,
    "stall_p50_us": lambda one: one.stall_us["p50"],
    "stall_p99_us": lambda one: one.stall_us["p99"],
    "stall_p99.9_us": lambda one: one.stall_us["p99.9"],
    "stall_max_us": lambda one: one.stall_us["max"],
    "rss_growth_kib": lambda one: one.rss_growth_kib,
    "page_tables_growth_kib": lambda one: one.page_tables_growth_kib,
    "huge_before_kib": lambda one: one.memory_before.huge if one.memory_before else None,
    "huge_after_kib": lambda one: one.memory_after.huge if one.memory_after else None,
    "pages_per_100_ms_before": lambda one: one.pages("before"),
    "pages_per_100_ms_during": lambda one: one.pages("during"),
    "pages_per_100_ms_after": lambda one: one.pages("after"),
}


@dataclass(frozen=True)
class Row:
    """The samples of one case.

    Attributes:
        ram_mib: of the guest.
        way: of saving.
        writer: what wrote.
        sink: what took the bytes.
        n: samples that count.
        failed: samples that do not; all of a case whose snapshot is wrong.
        given_up: of those that count, pre-copies for which the guest had to be stopped.
        figures: the spread of each figure, None where no sample has it.
    """

    ram_mib: int
    way: str
    writer: str
    sink: str
    n: int
    failed: int
    given_up: int
    figures: Mapping[str, Spread | None]

    @property
    def stun(self) -> Spread | None:
        """In ms."""
        return self.figures["stun_ms"]

    def to_json(self) -> dict[str, Any]:
        """Its form in bench.json."""
        plain = {name: value for name, value in vars(self).items() if name != "figures"}
        return {**plain, **{name: one.to_json() if one else None for name, one in self.figures.items()}}


def summarise(samples: Sequence[Sample]) -> list[Row]:
    """One row for each case, in order of size, way, writer and sink."""
    cases: dict[tuple[int, str, str, str], list[Sample]] = {}
    for sample in samples:
        cases.setdefault((sample.ram_mib, sample.way, sample.writer, sample.sink), []).append(sample)
    return [_row(key, cases[key]) for key in sorted(cases, key=_order)]


def _order(key: tuple[int, str, str, str]) -> tuple[str, str, int, int]:
    ram, way, writer, sink = key
    return writer, sink, ram, [one.value for one in Way].index(way)


def _row(key: tuple[int, str, str, str], samples: Sequence[Sample]) -> Row:
    # One file of a case is judged; where that is wrong, what the others cost means nothing either.
    void = any(sample.wrong for sample in samples)
    good = [] if void else [sample for sample in samples if sample.measured]
    figures = {
        name: spread([value for sample in good if (value := figure(sample)) is not None])
        for name, figure in _FIGURES.items()
    }
    return Row(
        *key,
        n=len(good),
        failed=len(samples) - len(good),
        given_up=sum(sample.given_up for sample in good),
        figures=figures,
    )


@dataclass(frozen=True)
class Promise:
    """What the feature promises, in numbers of the main rows: those of the sizes.

    Attributes:
        smallest_mib: the smallest guest that was measured.
        largest_mib: the largest.
        background: stun by background-exec of the largest as a multiple of that of the smallest.
        stopped: the same by stop-and-save, None where it was not measured.
        gain: at the largest, how many times as long stop-and-save stuns it as a background snapshot.
        again: as `background`, for a second background snapshot of the same process.
        again_ms: its stun at the largest, in ms.
    """

    smallest_mib: int
    largest_mib: int
    background: float
    stopped: float | None
    gain: float | None
    again: float | None = None
    again_ms: float | None = None


def promise(rows: Sequence[Row], writer: str, sink: str) -> Promise | None:
    """Compare sizes; None where there are not two of them."""
    main = [row for row in rows if row.stun and (row.writer, row.sink) == (writer, sink)]
    stun = {(row.way, row.ram_mib): row.stun.median for row in main if row.stun}
    second = {
        row.ram_mib: again.median
        for row in main
        if row.way == Way.BACKGROUND_EXEC.value and (again := row.figures["again_stun_ms"])
    }
    sizes = sorted(ram for way, ram in stun if way == Way.BACKGROUND_EXEC.value)
    if len(sizes) < 2:
        return None
    small, large = sizes[0], sizes[-1]
    background = stun[Way.BACKGROUND_EXEC.value, large]
    stopped = {ram: value for (way, ram), value in stun.items() if way == Way.STOP_AND_SAVE.value}
    return Promise(
        small,
        large,
        background / stun[Way.BACKGROUND_EXEC.value, small],
        stopped[large] / stopped[small] if small in stopped and large in stopped else None,
        stopped[large] / background if large in stopped else None,
        second[large] / second[small] if small in second and large in second else None,
        second.get(large),
    )
