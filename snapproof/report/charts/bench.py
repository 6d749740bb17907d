"""Draws the charts of `snapproof bench`: stun and size by RAM, write stalls, rate of writes around a save."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from snapproof.report.charts.palette import AMBER, BLUE, GREEN, INK, MUTED, SKY, VERMILION, Colour
from snapproof.report.charts.samples import BenchSample, way_name, ways_of
from snapproof.report.charts.svg import as_svg, count_text, new_figure, no_grid, shade, size_text, time_text
from tests_functional.lib.measure.figures import spread

_LEFT, _RIGHT = 0.15, 0.97
_LEGEND_ROW = 18
_LEAST_MS = 0.01


@dataclass(frozen=True)
class _Style:
    """How one way of saving is drawn. Marker and dashes tell the ways apart without colours."""

    colour: Colour
    marker: str
    dashes: str


_STYLES = {
    "background-exec": _Style(BLUE, "o", "-"),
    "background-file": _Style(SKY, "s", "-"),
    "precopy-file": _Style(GREEN, "v", "-."),
    "savevm": _Style(AMBER, "D", ":"),
    "stop-and-save": _Style(VERMILION, "^", "--"),
}
_OTHER = _Style(MUTED, "x", "-")


def by_ram_chart(samples: Sequence[BenchSample], figure_name: str, title: str, key: str) -> str:
    """Draw a time of the save against the guest's RAM, both on logarithmic axes: medians and ranges.

    Args:
        samples: samples of one writer and one sink.
        figure_name: name of a figure in milliseconds.
        title: title of the chart.
        key: prefix of the ids of the drawing.

    Returns:
        The SVG element, "" if no sample has that figure.
    """
    known = [sample for sample in samples if figure_name in sample.figures]
    if not known:
        return ""
    ways = ways_of(known)
    with new_figure(250 + _LEGEND_ROW * _rows(ways)) as figure:
        axes = _axes(figure, ways)
        axes.set(xscale="log", yscale="log")
        for way in ways:
            mine = [sample for sample in known if sample.way == way]
            _medians(axes, way, mine, lambda sample: max(_LEAST_MS, sample.figures[figure_name]))
        _ram_axis(axes, known)
        low, high = axes.get_ylim()
        # Whole powers of ten, so that at least two of them are named.
        axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value * 1000)))
        axes.yaxis.set_minor_locator(NullLocator())
        no_grid(axes, "x")
        axes.set_title(title, loc="left")
        _legend(figure, axes, ways)
        return as_svg(figure, key, f"{title} against RAM", _by_ram_words(known, ways, figure_name))


def _by_ram_words(samples: Sequence[BenchSample], ways: Sequence[str], name: str) -> str:
    said = []
    for way in ways:
        mine = [sample for sample in samples if sample.way == way]
        ends = [min(sample.ram_mib for sample in mine), max(sample.ram_mib for sample in mine)]
        medians = [
            spread([one.figures[name] for one in mine if one.ram_mib == ram]) for ram in dict.fromkeys(ends)
        ]
        shown = " to ".join(time_text(found.median * 1000) for found in medians if found)
        said.append(f"{way_name(way)}: {shown}")
    return "Medians from the smallest to the largest guest. " + "; ".join(said) + "."


def size_chart(samples: Sequence[BenchSample], key: str) -> str:
    """Draw the size of the saved file as a share of the guest's RAM; "" if no sample has a size."""
    known = [sample for sample in samples if sample.figures.get("size_bytes", 0) >= 1]
    if not known:
        return ""
    ways = ways_of(known)
    with new_figure(220 + _LEGEND_ROW * _rows(ways)) as figure:
        axes = _axes(figure, ways)
        axes.set_xscale("log")
        for way in ways:
            mine = [sample for sample in known if sample.way == way]
            _medians(axes, way, mine, _share)
        _ram_axis(axes, known)
        axes.set_ylim(0, 1.12 * max(map(_share, known)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        no_grid(axes, "x")
        axes.set_title("Saved size, as a share of RAM", loc="left")
        _legend(figure, axes, ways)
        return as_svg(
            figure, key, "Saved size as a share of RAM", "Medians by way of saving and RAM of the guest."
        )


def _share(sample: BenchSample) -> float:
    """Return the size of the file in percent of the guest's RAM."""
    return sample.figures["size_bytes"] / (sample.ram_mib * (1 << 20)) * 100


def stall_chart(samples: Sequence[BenchSample], key: str) -> str:
    """Draw a histogram of the guest's page writes during a save by duration, both on logarithmic axes.

    Args:
        samples: samples of one writer, one sink and one size of RAM; repeats are added up.
        key: prefix of the ids of the drawing.

    Returns:
        The SVG element, "" if no sample has a histogram.
    """
    known = [sample for sample in samples if any(count for _, _, count in sample.stalls)]
    if not known:
        return ""
    ways = ways_of(known)
    with new_figure(240 + _LEGEND_ROW * _rows(ways)) as figure:
        axes = _axes(figure, ways)
        axes.set(xscale="log", yscale="log")
        for way in ways:
            _stall_steps(axes, way, [sample for sample in known if sample.way == way])
        axes.xaxis.set_major_locator(LogLocator(numticks=7))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title("Writes by how long they took", loc="left")
        _legend(figure, axes, ways)
        text = "Number of writes (upright) by the time that each took (across), by way of saving."
        return as_svg(figure, key, "Histogram of write stalls", text)


def _stall_steps(axes: Axes, way: str, samples: Sequence[BenchSample]) -> None:
    """Draw one line: the counts of all samples by powers of two, whatever the buckets of each were."""
    counts: dict[int, float] = {}
    for sample in samples:
        for low, high, count in sample.stalls:
            power = math.floor(math.log2((low + high) / 2))
            counts[power] = counts.get(power, 0) + count
    powers = range(min(counts), max(counts) + 2)
    # The axis begins at 0.8, so that a count of 1 is above it, and a count of 0 below.
    heights = [max(0.5, counts.get(power, 0)) for power in powers]
    style = _STYLES.get(way, _OTHER)
    axes.step(
        [2.0**power for power in powers], heights, where="post", color=style.colour.stand_in,
        linestyle=style.dashes, label=way_name(way),
    )  # fmt: skip
    axes.set_ylim(bottom=0.8)


def write_rate_chart(samples: Sequence[BenchSample], key: str) -> str:
    """Draw the pages that the guest writes, over time around T0: a panel for each way of saving.

    The time in which the guest is stopped is shaded; a dashed line is the end of the save.

    Args:
        samples: samples of one writer, one sink and one size of RAM; for each way the repeat with the median
            stun is drawn.
        key: prefix of the ids of the drawing.

    Returns:
        The SVG element, "" if no sample has a write rate.
    """
    known = [sample for sample in samples if len(sample.rate) > 1]
    if not known:
        return ""
    ways = ways_of(known)
    chosen = {way: _middle([sample for sample in known if sample.way == way]) for way in ways}
    height = 70 + 86 * len(ways)
    with new_figure(height) as figure:
        panels = figure.subplots(len(ways), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        figure.subplots_adjust(left=_LEFT, right=_RIGHT, top=1 - 46 / height, bottom=38 / height, hspace=0.55)
        for axes, way in zip(panels, ways, strict=True):
            _rate_panel(axes, way, chosen[way])
        panels[0].set_xlim(*_window(list(chosen.values())))
        panels[0].set_ylim(0, 1.1 * max([1.0, *(pages for one in chosen.values() for _, pages in one.rate)]))
        panels[-1].set_xlabel("since T0; shaded: guest stopped; dashed: save complete")
        interval = chosen[ways[0]].interval_ms
        figure.text(0.01, 1 - 16 / height, f"Pages written per {interval:g} ms", fontsize=12)
        words = [f"{way_name(way)}: stopped for {_stun_text(one)}" for way, one in chosen.items()]
        return as_svg(figure, key, "Rate of writes around a save", "; ".join(words) + ".")


def _stun_text(sample: BenchSample) -> str:
    return time_text(sample.figures["stun_ms"] * 1000) if "stun_ms" in sample.figures else "an unknown time"


def _rate_panel(axes: Axes, way: str, sample: BenchSample) -> None:
    times = [time for time, _ in sample.rate]
    pages = [number for _, number in sample.rate]
    colour = _STYLES.get(way, _OTHER).colour.stand_in
    axes.fill_between(times, pages, step="post", color=colour, alpha=0.25, linewidth=0)
    axes.step(times, pages, where="post", color=colour, linewidth=1.4)
    stun, total = sample.figures.get("stun_ms"), sample.figures.get("total_ms")
    if stun:
        shade(axes, 0, stun, VERMILION)
    axes.axvline(0, color=VERMILION.stand_in, linewidth=1)
    if total:
        axes.axvline(total, color=INK.stand_in, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_title(f"{way_name(way)}: stopped for {_stun_text(sample)}", loc="left", fontsize=11, pad=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g} s"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    axes.locator_params(axis="y", nbins=3)
    no_grid(axes, "x")


def _window(samples: Sequence[BenchSample]) -> tuple[float, float]:
    """Return the range of time to draw: all saves, and some time before and after."""
    end = max([sample.figures.get("total_ms", 0.0) for sample in samples] + [1000.0])
    first = min(sample.rate[0][0] for sample in samples)
    last = max(sample.rate[-1][0] for sample in samples)
    return max(first, -0.35 * end), min(max(last, 1000.0), 1.35 * end)


def _middle(samples: Sequence[BenchSample]) -> BenchSample:
    return sorted(samples, key=lambda sample: sample.figures.get("stun_ms", 0.0))[len(samples) // 2]


def _medians(
    axes: Axes, way: str, samples: Sequence[BenchSample], value: Callable[[BenchSample], float]
) -> None:
    style = _STYLES.get(way, _OTHER)
    sizes = sorted({sample.ram_mib for sample in samples})
    found = [(ram, spread([value(one) for one in samples if one.ram_mib == ram])) for ram in sizes]
    known = [(ram, one) for ram, one in found if one]
    medians = [one.median for _, one in known]
    below = [one.median - one.min for _, one in known]
    above = [one.max - one.median for _, one in known]
    axes.errorbar(
        [ram for ram, _ in known], medians, [below, above], color=style.colour.stand_in,
        linestyle=style.dashes, marker=style.marker, markersize=5, elinewidth=1, capsize=2.5,
        label=way_name(way),
    )  # fmt: skip


def _ram_axis(axes: Axes, samples: Sequence[BenchSample]) -> None:
    sizes = sorted({sample.ram_mib for sample in samples})
    step = max(1, -(-len(sizes) // 6))
    axes.set_xticks(sizes[::step], [size_text(size) for size in sizes[::step]])
    axes.xaxis.set_minor_locator(NullLocator())


def _rows(ways: Sequence[str]) -> int:
    return -(-len(ways) // 2)


def _axes(figure: Figure, ways: Sequence[str]) -> Axes:
    """Add one set of axes, with room below it for a legend of two columns."""
    height = figure.get_figheight() * 72
    figure.subplots_adjust(
        left=_LEFT, right=_RIGHT, top=1 - 30 / height, bottom=(36 + _LEGEND_ROW * _rows(ways)) / height
    )
    return figure.add_subplot()


def _legend(figure: Figure, axes: Axes, ways: Sequence[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0.02, 0), ncols=min(2, len(ways)), borderpad=0.2,
        columnspacing=1.5, handlelength=2.8, labelspacing=0.3,
    )  # fmt: skip
