"""The interface of the two sides that the A/B gate compares: each gives a figure for each save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.errors import SetupBroken
from tests_functional.lib.measure.cases import Writer

if TYPE_CHECKING:
    # Help texts list the metrics, and need no compiler.
    from validators.faults.slow.wrapper import Slowdown

AB_RAM_MIB, AB_WRITER = 256, Writer.ALL
"""RAM and writer of the guest that `bench ab` saves on this host, by default."""


@dataclass(frozen=True)
class Metric:
    """A figure of a background snapshot; less is better.

    Attributes:
        what: what it is, in words.
        unit: its unit.
        can_be_planted: whether validators.faults.slow can make it worse.
    """

    what: str
    unit: str
    can_be_planted: bool = False


METRICS: Mapping[str, Metric] = {
    "total": Metric("time from the command to the completed save", "ms", True),
    "stun": Metric("STOP to RESUME by QEMU's event times", "ms", True),
    "downtime": Metric("QEMU's own downtime", "ms", True),
    "stall-p99": Metric("time that 99 % of the guest's page writes do not exceed", "us"),
    "size": Metric("size of the file", "bytes"),
}


def comparable(value: float, metric: str) -> float:
    """Return a figure from which a ratio can be made.

    Raises:
        SetupBroken: the figure is 0, as QEMU's own downtime is when it is shorter than a millisecond.
    """
    if value <= 0:
        raise SetupBroken(
            f"The figure of --metric {metric} is {value:g} {METRICS[metric].unit}, so there is no ratio; "
            "compare by another --metric ('stun' is measured in microseconds)."
        )
    return value


class Side(Protocol):
    """Side A or B of a comparison."""

    def figure(self, metric: str, folder: Path, /) -> float:
        """Restore the guest, save it once by a background snapshot, and return a figure above 0.

        Args:
            metric: a key of METRICS.
            folder: a folder of its own for files and logs.

        Raises:
            NotApplicable: there are no background snapshots.
            SetupBroken: the save failed, or gave no such figure.
        """

    def slowed(self, slowdown: Slowdown, folder: Path, /) -> Side:
        """Return the same side with a slowdown planted; `folder` is for the files that this needs."""


@dataclass(frozen=True)
class TwoSides:
    """The two sides of a comparison.

    Attributes:
        a: the fixed baseline.
        b: the side that is judged.
        common: whether both restore the same file. If not, each has booted a guest of its own, and the
            contents of the guests' memory differ.
    """

    a: Side
    b: Side
    common: bool
