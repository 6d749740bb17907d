"""Says when a campaign of random lists ends, for QEMU's and for those of the kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """When a campaign ends, and how much a reduction may take.

    Attributes:
        seconds: of the campaign; None for no limit.
        runs: lists; None for no limit.
        reduction_seconds: of one reduction.
    """

    seconds: float | None
    runs: int | None
    reduction_seconds: float
