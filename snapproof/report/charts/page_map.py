"""Draws a map of the pages that a check found wrong: each RAMBlock as rows of cells, read like text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from harness.qemu.architectures import TARGET_PAGE_BYTES
from snapproof.report.charts.palette import BAD, TRACK
from snapproof.report.charts.svg import WIDTH, as_svg, new_figure

_COLUMNS, _ROWS = 64, 12
_CELL = 5.5
_SIDE, _TEXT = 6, 20
_BLOCK_LIMIT = 8
# Opacity of a cell by the share of it that is bad. A single bad page must be visible.
_LEVELS = ((0.0, 0.45), (0.25, 0.7), (0.75, 1.0))

Ranges = Mapping[str, Sequence[tuple[int, int]]]
Cells = npt.NDArray[np.float64]


def page_map_chart(ranges: Ranges, lengths: Mapping[str, int], key: str, title: str) -> str:
    """Draw the map of a failed check.

    Args:
        ranges: ranges of bad pages by RAMBlock, as byte offsets: first byte, and the byte after the last.
        lengths: bytes of each RAMBlock; if unknown, a block ends with its last bad page.
        key: prefix of the ids of the drawing.
        title: title of the drawing.

    Returns:
        The SVG element with the eight blocks that have the most bad pages, "" if no page is bad.
    """
    bad = {block: [pair for pair in pairs if 0 <= pair[0] < pair[1]] for block, pairs in ranges.items()}
    worst = sorted((block for block in bad if bad[block]), key=lambda block: -_bytes(bad[block]))[
        :_BLOCK_LIMIT
    ]
    if not worst:
        return ""
    grids = {block: _shares(bad[block], lengths.get(block, 0)) for block in worst}
    height = sum(len(grid) * _CELL + _TEXT + 10 for grid in grids.values())
    with new_figure(height) as figure:
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        top = 0.0
        for block, grid in grids.items():
            axes.text(_SIDE, top + 14, _label(block, bad[block], lengths), fontsize=11.5)
            top += _TEXT
            axes.add_patch(PathPatch(_outline(grid, -1.0, 2.0, top), facecolor=TRACK.stand_in, linewidth=0))
            for (least, opacity), limit in zip(_LEVELS, (0.25, 0.75, 2.0), strict=True):
                cells = _outline(grid, least, limit, top)
                if len(np.asarray(cells.vertices)):
                    axes.add_patch(PathPatch(cells, facecolor=BAD.stand_in, alpha=opacity, linewidth=0))
            top += len(grid) * _CELL + 10
        said = "; ".join(_label(block, bad[block], lengths) for block in worst)
        return as_svg(figure, key, title, f"Cells from left to right and top to bottom. {said}.")


def _bytes(pairs: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in pairs)


def _label(block: str, pairs: Sequence[tuple[int, int]], lengths: Mapping[str, int]) -> str:
    pages = _bytes(pairs) // TARGET_PAGE_BYTES
    name = block if len(block) <= 28 else f"{block[:27]}…"
    length = lengths.get(block, 0)
    of = f" of {length // TARGET_PAGE_BYTES:,}" if length else ""
    return f"{name}: {pages:,}{of} pages bad, first at 0x{min(start for start, _ in pairs):x}"


def _shares(pairs: Sequence[tuple[int, int]], length: int) -> Cells:
    """Return the bad share of each cell: rows of 64 cells, NaN after the end of the block."""
    ends = np.asarray(pairs, np.float64)
    length = max(length, int(ends[:, 1].max()))
    count = int(min(_COLUMNS * _ROWS, max(1, length // TARGET_PAGE_BYTES)))
    edges = np.linspace(0, length, count + 1)
    # Bad bytes below each edge of a cell, by interpolation between the ends of the ranges.
    order = np.argsort(ends[:, 0], kind="stable")
    ends = ends[order]
    ends[:, 1] = np.maximum.accumulate(ends[:, 1])
    starts = np.maximum(ends[:, 0], np.append(0, ends[:-1, 1]))
    sizes = np.maximum(0, ends[:, 1] - starts)
    points = np.column_stack((starts, starts + sizes)).ravel()
    totals = np.column_stack((np.cumsum(sizes) - sizes, np.cumsum(sizes))).ravel()
    below = np.interp(edges, points, totals, left=0.0)
    shares = np.diff(below) / np.diff(edges)
    full = np.full(-(-count // _COLUMNS) * _COLUMNS if count > _COLUMNS else count, np.nan)
    full[:count] = shares
    return full.reshape(-1, _COLUMNS if count > _COLUMNS else count)


def _outline(grid: Cells, least: float, limit: float, top: float) -> Outline:
    """Return one path of all cells with a share above `least` up to `limit`; merge neighbours in a row."""
    width = (WIDTH - 2 * _SIDE) / _COLUMNS
    if grid.shape[1] < _COLUMNS:
        width = (WIDTH - 2 * _SIDE) / grid.shape[1]
    pieces = []
    for row, shares in enumerate(grid):
        chosen = np.concatenate(([0], ((shares > least) & (shares <= limit)).astype(np.int8), [0]))
        steps = np.diff(chosen)
        for start, end in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
            left, right, upper = _SIDE + start * width, _SIDE + end * width, top + row * _CELL
            lower = upper + _CELL - 0.8
            pieces.append(
                Outline(
                    [(left, upper), (right, upper), (right, lower), (left, lower), (left, upper)], closed=True
                )
            )
    return Outline.make_compound_path(*pieces) if pieces else Outline(np.empty((0, 2)))
