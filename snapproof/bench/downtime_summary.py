"""Summarises samples: medians and spread of each case, and how the stun grows with the guest's RAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests_functional.lib.measure.cases import Way
from tests_functional.lib.measure.figures import Spread, spread
from tests_functional.lib.measure.sample import Sample

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
class CaseSummary:
    """The samples of one case.

    Attributes:
        ram_mib: RAM of the guest.
        way: way of saving.
        writer: what wrote meanwhile.
        sink: what took the bytes.
        n: number of samples that count.
        failed: number of samples that do not count: those that failed, or all where the snapshot is wrong.
        given_up: number of counted pre-copies for which the guest had to be stopped.
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
        """Spread of the stun in ms, None where no sample counts."""
        return self.figures["stun_ms"]

    def to_json(self) -> dict[str, Any]:
        """Its form in bench.json."""
        plain = {name: value for name, value in vars(self).items() if name != "figures"}
        return {**plain, **{name: one.to_json() if one else None for name, one in self.figures.items()}}


def summarise(samples: Sequence[Sample]) -> list[CaseSummary]:
    """Return a summary for each case, in order of writer, sink, size and way."""
    cases: dict[tuple[int, str, str, str], list[Sample]] = {}
    for sample in samples:
        cases.setdefault((sample.ram_mib, sample.way, sample.writer, sample.sink), []).append(sample)
    return [_summary(key, cases[key]) for key in sorted(cases, key=_order)]


def _order(key: tuple[int, str, str, str]) -> tuple[str, str, int, int]:
    ram, way, writer, sink = key
    return writer, sink, ram, [one.value for one in Way].index(way)


def _summary(key: tuple[int, str, str, str], samples: Sequence[Sample]) -> CaseSummary:
    # One file of each case is judged. If it is wrong, the cost of the others means nothing either.
    void = any(sample.wrong for sample in samples)
    good = [] if void else [sample for sample in samples if sample.measured]
    figures = {
        name: spread([value for sample in good if (value := figure(sample)) is not None])
        for name, figure in _FIGURES.items()
    }
    return CaseSummary(
        *key,
        n=len(good),
        failed=len(samples) - len(good),
        given_up=sum(sample.given_up for sample in good),
        figures=figures,
    )


@dataclass(frozen=True)
class StunGrowth:
    """Growth of the stun from the smallest to the largest guest, for one writer and sink.

    Attributes:
        smallest_mib: RAM of the smallest guest that was measured.
        largest_mib: RAM of the largest.
        background: stun of the largest guest by background-exec as a multiple of that of the smallest.
        stopped: the same by stop-and-save, None where it was not measured.
        gain: stun of the largest guest by stop-and-save as a multiple of that by background-exec.
        again: like `background`, for a second background snapshot of the same process.
        again_ms: stun of that second snapshot of the largest guest, in ms.
    """

    smallest_mib: int
    largest_mib: int
    background: float
    stopped: float | None
    gain: float | None
    again: float | None = None
    again_ms: float | None = None


def stun_growth(cases: Sequence[CaseSummary], writer: str, sink: str) -> StunGrowth | None:
    """Compare the guest sizes of one writer and sink; None where background-exec has fewer than two."""
    main = [case for case in cases if case.stun and (case.writer, case.sink) == (writer, sink)]
    stun = {(case.way, case.ram_mib): case.stun.median for case in main if case.stun}
    second = {
        case.ram_mib: again.median
        for case in main
        if case.way == Way.BACKGROUND_EXEC.value and (again := case.figures["again_stun_ms"])
    }
    sizes = sorted(ram for way, ram in stun if way == Way.BACKGROUND_EXEC.value)
    if len(sizes) < 2:
        return None
    small, large = sizes[0], sizes[-1]
    background = stun[Way.BACKGROUND_EXEC.value, large]
    stopped = {ram: value for (way, ram), value in stun.items() if way == Way.STOP_AND_SAVE.value}
    return StunGrowth(
        small,
        large,
        background / stun[Way.BACKGROUND_EXEC.value, small],
        stopped[large] / stopped[small] if small in stopped and large in stopped else None,
        stopped[large] / background if large in stopped else None,
        second[large] / second[small] if small in second and large in second else None,
        second.get(large),
    )
