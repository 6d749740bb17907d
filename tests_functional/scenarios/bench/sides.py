"""What the A/B gate compares: sides that can be saved once more for a figure, and the figures there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import SetupBroken
from validators.slow_save.wrapper import Slowdown


@dataclass(frozen=True)
class Metric:
    """A figure of a background snapshot; less is better.

    Attributes:
        what: what it is, for people.
        unit: of it.
        can_be_planted: whether validators.slow_save can make it worse.
    """

    what: str
    unit: str
    can_be_planted: bool = False


METRICS: Mapping[str, Metric] = {
    "total": Metric("time from the command to the completed save", "ms", True),
    "stun": Metric("STOP to RESUME by QEMU's event times", "ms", True),
    "downtime": Metric("QEMU's own downtime", "ms", True),
    "stall-p99": Metric("page write of the guest that 99 % do not exceed", "us"),
    "size": Metric("size of the file", "bytes"),
}


def comparable(value: float, metric: str) -> float:
    """A figure that a ratio can be made of.

    Raises:
        SetupBroken: it is 0, which QEMU's own downtime is when it is shorter than a millisecond.
    """
    if value <= 0:
        raise SetupBroken(
            f"The {METRICS[metric].what} is {value:g} {METRICS[metric].unit}, to which there is no ratio; "
            "compare by another --metric ('stun' is taken in microseconds)."
        )
    return value


class Side(Protocol):
    """A or B."""

    def figure(self, metric: str, folder: Path, /) -> float:
        """Start the guest afresh, save it once by a background snapshot, and take a figure, above 0.

        Args:
            metric: of METRICS.
            folder: of its own, for files and logs.

        Raises:
            NotApplicable: there are no background snapshots.
            SetupBroken: the save failed, or gave no such figure.
        """

    def slowed(self, slowdown: Slowdown, folder: Path, /) -> Side:
        """The same with a slowdown planted; `folder` is for what that takes."""


@dataclass(frozen=True)
class TwoSides:
    """What is compared.

    Attributes:
        a: the measure.
        b: what is judged.
        common: whether both start from the same file; else each has booted its own guest, and what lies where
            in the guests' memory differs for good.
    """

    a: Side
    b: Side
    common: bool
