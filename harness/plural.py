"""Writes a number with its noun, in the singular where it is one."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 page" and "2,000 pages"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
