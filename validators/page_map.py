"""Draws where in RAM bad pages lie: as text for a terminal, or as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from harness.qemu.architectures import TARGET_PAGE_BYTES

_SHADES = "·░▒▓█"
_CELL, _ROW_CELLS, _LINE = 8, 128, 18


def _shares(length: int, offsets: Sequence[int], cells: int) -> npt.NDArray[np.float64]:
    """Return the share of bad pages in each of `cells` equal parts of a RAMBlock of `length` bytes."""
    edges = np.linspace(0, max(length, 1), cells + 1)
    counts, _ = np.histogram(np.asarray(sorted(set(offsets)), np.float64), edges)
    return np.minimum(1.0, counts * TARGET_PAGE_BYTES / (max(length, 1) / cells))


def terminal_map(lengths: Mapping[str, int], bad: Mapping[str, Sequence[int]], width: int = 64) -> str:
    """Draw one line of block characters for each RAMBlock with bad pages.

    Args:
        lengths: bytes of every RAMBlock, by idstr.
        bad: byte offsets of bad pages, by idstr.
        width: characters of a bar.

    Returns:
        Text lines, "" if no page is bad. A cell with a bad page is never shown as empty.
    """
    lines = []
    for idstr, offsets in bad.items():
        length = lengths.get(idstr, 0)
        if not length or not offsets:
            continue
        shares = _shares(length, offsets, width)
        bar = "".join(_SHADES[0 if share == 0 else 1 + min(3, int(share * 4))] for share in shares)
        lines.append(f"{idstr:>24} {length >> 20:6d} MiB |{bar}| {len(set(offsets))} bad")
    return "\n".join(lines)


def svg_map(lengths: Mapping[str, int], bad: Mapping[str, Sequence[int]]) -> str:
    """Draw all RAMBlocks as an SVG document: grey where pages are right, red where they are bad.

    Args:
        lengths: bytes of every RAMBlock, by idstr.
        bad: byte offsets of bad pages, by idstr.
    """
    parts: list[str] = []
    top = _LINE
    for idstr, length in lengths.items():
        cells = int(min(16 * _ROW_CELLS, max(1, length // TARGET_PAGE_BYTES)))
        shares = _shares(length, bad.get(idstr, ()), cells)
        label = escape(f"{idstr}: {length >> 10} KiB, {len(set(bad.get(idstr, ())))} bad pages", quote=False)
        parts.append(f'<text x="4" y="{top}" font-size="12" font-family="monospace">{label}</text>')
        top += 6
        rows = (cells + _ROW_CELLS - 1) // _ROW_CELLS
        full = min(cells, _ROW_CELLS) * _CELL
        parts.append(f'<rect x="4" y="{top}" width="{full}" height="{rows * _CELL}" fill="#dddddd"/>')
        parts.extend(
            _bad_cell(idstr, length, cells, int(cell), shares[cell], top) for cell in np.flatnonzero(shares)
        )
        top += rows * _CELL + _LINE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_ROW_CELLS * _CELL + 8}" height="{top}">'
    return "\n".join([head, *parts, "</svg>", ""])


def _bad_cell(idstr: str, length: int, cells: int, cell: int, share: float, top: int) -> str:
    x, y = 4 + cell % _ROW_CELLS * _CELL, top + cell // _ROW_CELLS * _CELL
    red = 255 - int(120 * share)
    start = length * cell // cells
    title = f"<title>{escape(idstr, quote=False)} 0x{start:x}</title>"
    colour = f"rgb({red},0,0)"
    return f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}">{title}</rect>'
