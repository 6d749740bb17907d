"""Draws the timeline of one snapshot: how much was saved when, and how long the guest was stopped."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from snapproof.report.charts.palette import AMBER, BLUE, INK, MUTED, VERMILION, Colour
from snapproof.report.charts.svg import as_svg, new_figure, no_grid, size_text, time_text
from snapproof.report.charts.times import SaveTimes

_HEIGHT = 275
_ROWS = ("guest stopped", "RAM saved", "longest stall")


def timeline_chart(times: SaveTimes, stall_us: float | None, key: str) -> str:
    """Draw one save over time since T0: STOP, RESUME, completion, bytes saved, the longest write stall.

    Args:
        times: times of the save.
        stall_us: the longest time that one write of the guest took during it, in microseconds, None if
            unknown. It is drawn to scale from T0 on, because its time is not recorded.
        key: prefix of the ids of the drawing.

    Returns:
        The SVG element.
    """
    with new_figure(_HEIGHT) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.1, 1))
        figure.subplots_adjust(left=0.235, right=0.97, top=0.89, bottom=0.1, hspace=0.16)
        _progress(upper, times)
        _bars(lower, times, stall_us)
        left, right = _window(times, stall_us)
        lower.set_xlim(left, right)
        lower.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: time_text(value * 1e6) if value else "T0")
        )
        lower.locator_params(axis="x", nbins=5)
        upper.set_title(times.label, loc="left")
        return as_svg(figure, key, f"Timeline of {times.label}", _words(times, stall_us))


def _window(times: SaveTimes, stall_us: float | None) -> tuple[float, float]:
    marks = [time for pair in times.stuns for time in pair] + [times.begun, *(at for at, _ in times.progress)]
    marks += [times.ended] if times.ended else []
    first = min(marks) - times.origin
    last = max([*(mark - times.origin for mark in marks), (stall_us or 0) / 1e6, first + 1e-4])
    room = 0.03 * (last - first)
    return first - room, last + room


def _progress(axes: Axes, times: SaveTimes) -> None:
    points = [(at - times.origin, done / (1 << 20)) for at, done in times.progress]
    if points:
        across, upright = [at for at, _ in points], [done for _, done in points]
        axes.fill_between(across, upright, color=BLUE.stand_in, alpha=0.18, linewidth=0)
        axes.plot(across, upright, color=BLUE.stand_in)
    for start, _ in times.stuns:
        axes.axvline(start - times.origin, color=VERMILION.stand_in, linewidth=1)
    for resumed in times.resumed:
        axes.axvline(resumed - times.origin, color=VERMILION.stand_in, linewidth=1, linestyle=(0, (2, 2)))
    if times.ended is not None:
        axes.axvline(times.ended - times.origin, color=INK.stand_in, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(round(value, 3))))
    axes.locator_params(axis="y", nbins=4)
    no_grid(axes, "x")


def _bars(axes: Axes, times: SaveTimes, stall_us: float | None) -> None:
    stuns = [(start - times.origin, end - start) for start, end in times.stuns]
    end = times.ended if times.ended is not None else max([times.begun, *(at for at, _ in times.progress)])
    stall = [(0.0, stall_us / 1e6)] if stall_us else []
    said = (
        time_text(sum(length for _, length in stuns) * 1e6) if stuns else "never",
        f"{time_text((end - times.begun) * 1e6)}, {times.result or 'no end seen'}",
        time_text(stall_us) if stall_us is not None else "not measured",
    )
    saved = [(times.begun - times.origin, end - times.begun)]
    rows: tuple[tuple[list[tuple[float, float]], Colour], ...] = (
        (stuns, VERMILION),
        (saved, BLUE),
        (stall, AMBER),
    )
    for index, (stretches, colour) in enumerate(rows):
        # With an edge, two milliseconds in twenty seconds stay visible.
        axes.broken_barh(
            stretches,
            (index - 0.42, 0.34),
            facecolors=colour.stand_in,
            edgecolors=colour.stand_in,
            linewidth=1.2,
        )
        axes.text(
            0.012, index + 0.2, said[index], fontsize=11, transform=axes.get_yaxis_transform(), va="center"
        )
    axes.set_ylim(2.6, -0.6)
    axes.set_yticks(range(3), _ROWS)
    axes.tick_params(axis="y", length=0, labelcolor=MUTED.stand_in)
    axes.spines["left"].set_visible(False)
    no_grid(axes, "y")


def _words(times: SaveTimes, stall_us: float | None) -> str:
    said = [f"The guest was stopped for {time_text(sum(end - start for start, end in times.stuns) * 1e6)}"]
    if times.ended is not None:
        said.append(f"the save was {times.result} after {time_text((times.ended - times.begun) * 1e6)}")
    if stall_us is not None:
        said.append(f"the longest stall of a write was {time_text(stall_us)}")
    return ", ".join(said) + "."
