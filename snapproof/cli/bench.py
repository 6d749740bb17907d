"""`snapproof bench`: measures what snapshots cost, and how fast the validators are."""

from __future__ import annotations

from snapproof.bench.arguments import add_parser

__all__ = ["add_parser"]
