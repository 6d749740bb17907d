"""Aligns the columns of a table of text, for the terminal."""

from __future__ import annotations

from collections.abc import Container, Sequence


def table_rows(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Return rows as lines with aligned columns.

    Args:
        rows: the cells of each row, the heads among them; all rows have as many.
        right: numbers of the columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
