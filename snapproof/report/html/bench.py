"""Makes the part of report.html that shows a bench.json: charts, and a table of medians."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from snapproof.report.charts.samples import BenchSample, main_series, read_samples, way_name
from snapproof.report.html.checked import BLOCK, clean, duration, items, mapping, number
from snapproof.report.html.environment import rows_of
from snapproof.report.html.figures import NONE, figure_text
from snapproof.report.html.pictures import Pictures
from snapproof.report.html.views import BenchView, Table
from tests_functional.lib.measure.figures import spread

BENCH_FILE = "bench.json"
_FILE_BYTES = 64 << 20
_ROW_LIMIT = 200
_COLUMNS = {
    "stun_ms": "stun",
    "downtime_ms": "downtime",
    "total_ms": "total",
    "guest_gap_ms": "guest's gap",
    "size_bytes": "file",
}


def bench_beside(folder: Path, pictures: Pictures) -> BenchView | None:
    """Return the view of the bench.json in a results folder, None if there is none."""
    path = folder / BENCH_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _FILE_BYTES:
            return BenchView(
                "Bench", problem=f"{BENCH_FILE} is larger than {_FILE_BYTES >> 20} MiB and was not read."
            )
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        return BenchView("Bench", problem=f"{BENCH_FILE} could not be read: {clean(error, 200)}.")
    return bench_view(mapping(content), pictures)


def bench_view(bench: Mapping[str, Any], pictures: Pictures) -> BenchView:
    """Return what the page shows of a bench."""
    samples = read_samples(bench)
    broken = [mapping(row).get("error") for row in items(bench.get("samples"))]
    left_out = [mapping(one) for one in items(bench.get("left_out"), 100)]
    environment = mapping(bench.get("environment"))
    command = items(bench.get("command"), 400)
    series = main_series(samples)
    return BenchView(
        title=f"Bench: {clean(bench.get('bench'), 40) or 'unnamed'}",
        about=_about(bench, samples, series) if samples else "",
        problem="" if samples else "There is no sample without an error.",
        pictures=_charts(series, pictures) if samples else (),
        table=_table(samples),
        errors=Counter(clean(text, 300) for text in broken if text).most_common(20),
        left_out=[(clean(one.get("what"), 80), clean(one.get("why"))) for one in left_out],
        facts=rows_of({"started": bench.get("started"), **environment}, minor=False),
        details=rows_of(environment, minor=True),
        command=clean(shlex.join(map(str, command)), BLOCK) if command else "",
    )


def _about(bench: Mapping[str, Any], samples: Sequence[BenchSample], series: Sequence[BenchSample]) -> str:
    return (
        f"{len(samples)} samples in {duration(number(bench.get('seconds')))}. "
        f"Charts: writer '{clean(series[0].writer, 40)}', sink '{clean(series[0].sink, 40)}'; points are "
        "medians, bars reach from the smallest to the largest; histogram and rate of writes are those of "
        f"guests with {_largest(series):g} MiB."
    )


def _largest(series: Sequence[BenchSample]) -> float:
    return max(sample.ram_mib for sample in series)


def _charts(series: Sequence[BenchSample], pictures: Pictures) -> list[Markup]:
    biggest = [sample for sample in series if sample.ram_mib == _largest(series)]
    found = [
        pictures.bench(
            lambda module, key: module.by_ram_chart(series, "stun_ms", "Stun (STOP to RESUME)", key)
        ),
        pictures.bench(
            lambda module, key: module.by_ram_chart(
                series, "again_stun_ms", "Stun of a second save by the same process", key
            )
        ),
        pictures.bench(
            lambda module, key: module.by_ram_chart(series, "downtime_ms", "Downtime (QEMU's figure)", key)
        ),
        pictures.bench(lambda module, key: module.stall_chart(biggest, key)),
        pictures.bench(lambda module, key: module.size_chart(series, key)),
        pictures.bench(lambda module, key: module.write_rate_chart(biggest, key)),
    ]
    return [picture for picture in found if picture]


def _table(samples: Sequence[BenchSample]) -> Table:
    """Return the medians of each case, recomputed from the samples: a summary could disagree with them."""
    groups: dict[tuple[float, str, str, str], list[BenchSample]] = {}
    for sample in samples:
        groups.setdefault((sample.ram_mib, sample.way, sample.writer, sample.sink), []).append(sample)
    rows = []
    for (ram, way, writer, sink), mine in sorted(groups.items())[:_ROW_LIMIT]:
        medians = [spread([one.figures[name] for one in mine if name in one.figures]) for name in _COLUMNS]
        shown = [
            figure_text(name, found.median) if found else NONE
            for name, found in zip(_COLUMNS, medians, strict=True)
        ]
        rows.append(
            [
                f"{ram:g} MiB, {clean(way_name(way), 40)}",
                clean(writer, 40),
                clean(sink, 40),
                str(len(mine)),
                *shown,
            ]
        )
    return Table(["guest", "writer", "sink", "n", *_COLUMNS.values()], rows, len(groups) - len(rows))
