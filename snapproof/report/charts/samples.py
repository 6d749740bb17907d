"""Reads the samples of a bench.json; leaves out values that are missing or not numbers, without an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WAYS = ("background-exec", "background-file", "precopy-file", "savevm", "stop-and-save")
"""Ways of saving in the order in which they are shown; unknown ones follow."""

_WAY_NAMES = {
    "background-exec": "background (exec)",
    "background-file": "background (file)",
    "precopy-file": "live pre-copy",
    "savevm": "savevm",
    "stop-and-save": "stop and save",
}
_LARGEST = 1e15
_SAMPLE_LIMIT = 20_000
_POINT_LIMIT = 5000


@dataclass(frozen=True)
class BenchSample:
    """A sample as a bench.json has it.

    Attributes:
        ram_mib: RAM of the guest.
        way: way of saving.
        writer: what the guest writes meanwhile.
        sink: ``unlimited`` or ``throttled``.
        figures: numbers by name, the unit in the name.
        stalls: page writes by duration: from and to in microseconds, and the count.
        rate: pages written in each interval: its start in milliseconds after T0, and their number.
        interval_ms: length of an interval.
    """

    ram_mib: float
    way: str
    writer: str
    sink: str
    figures: Mapping[str, float]
    stalls: tuple[tuple[float, float, float], ...] = ()
    rate: tuple[tuple[float, float], ...] = ()
    interval_ms: float = 100.0


def is_number(value: object) -> bool:
    """Tell whether a value is a number that an axis can show; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def read_samples(bench: Mapping[str, Any]) -> tuple[BenchSample, ...]:
    """Return the samples without an error, at most the first 20,000."""
    found = bench.get("samples")
    if not isinstance(found, list):
        return ()
    rows = (row for row in found[:_SAMPLE_LIMIT] if isinstance(row, dict))
    return tuple(_sample(row) for row in rows if not row.get("error") and _positive(row.get("ram_mib")))


def way_name(way: str) -> str:
    """Return the name of a way of saving for charts and tables."""
    return _WAY_NAMES.get(way, way)


def ways_of(samples: Iterable[BenchSample]) -> list[str]:
    """Return the ways of saving that occur, in the order in which they are shown."""
    found = dict.fromkeys(sample.way for sample in samples)
    return [way for way in WAYS if way in found] + [way for way in found if way not in WAYS]


def main_series(samples: Sequence[BenchSample]) -> tuple[BenchSample, ...]:
    """Return the samples of one writer and one sink, so that a chart compares like with like.

    These are the samples of the writer `all` and the sink `unlimited`. If there are none, they are those of
    the pair with the most samples.
    """
    counts: dict[tuple[str, str], int] = {}
    for sample in samples:
        pair = (sample.writer, sample.sink)
        counts[pair] = counts.get(pair, 0) + 1
    if not counts:
        return ()
    wanted = ("all", "unlimited")
    chosen = wanted if wanted in counts else max(counts, key=lambda pair: counts[pair])
    return tuple(sample for sample in samples if (sample.writer, sample.sink) == chosen)


def _positive(value: object) -> bool:
    return is_number(value) and float(value) > 0  # type: ignore[arg-type]  # is_number has checked it


def _sample(row: Mapping[str, Any]) -> BenchSample:
    rate = row.get("write_rate")
    rate = rate if isinstance(rate, dict) else {}
    return BenchSample(
        ram_mib=float(row["ram_mib"]),
        way=_word(row.get("way")),
        writer=_word(row.get("writer")),
        sink=_word(row.get("sink")),
        figures={name: float(value) for name, value in row.items() if is_number(value)},
        stalls=tuple(_triples(row.get("stall_histogram"))),
        rate=tuple(_pairs(rate.get("t_ms"), rate.get("pages"))),
        interval_ms=float(rate["interval_ms"]) if _positive(rate.get("interval_ms")) else 100.0,
    )


def _word(value: object) -> str:
    return value[:40] if isinstance(value, str) and value else "unnamed"


def _triples(rows: object) -> Iterable[tuple[float, float, float]]:
    for row in rows[:_POINT_LIMIT] if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 3 and all(map(is_number, row)) and 0 <= row[0] < row[1]:
            yield float(row[0]), float(row[1]), max(0.0, float(row[2]))


def _pairs(times: object, pages: object) -> Iterable[tuple[float, float]]:
    if isinstance(times, list) and isinstance(pages, list):
        for time, number in zip(times[:_POINT_LIMIT], pages[:_POINT_LIMIT], strict=False):
            if is_number(time) and is_number(number):
                yield float(time), float(number)
