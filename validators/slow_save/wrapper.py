"""A planted slowdown: the library that makes QEMU save slower, what it counts, and a wrapper with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guest_images.cache import Cache
from validators.live_faults.wrapper import ACTS_VARIABLE
from validators.preload import preload_library, preloading_wrapper

_SOURCE = Path(__file__).with_name("slow_save.c")
_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Slowdown:
    """What is planted, and what has come of it.

    Attributes:
        library: to be preloaded.
        report: file of the page that the library counts in, over all processes that use it.
        per_mille: each save takes so much longer, in thousandths of what it takes without.
        at_t0_us: the guest stands still for so much longer at T0, in microseconds.
    """

    library: Path
    report: Path
    per_mille: int
    at_t0_us: int

    def variables(self, report: str) -> dict[str, str]:
        """The environment that tells the library what to do, given where the report is for it."""
        return {
            ACTS_VARIABLE: report,
            "SNAPPROOF_SLOW_SAVE_PER_MILLE": str(self.per_mille),
            "SNAPPROOF_SLOW_T0_US": str(self.at_t0_us),
        }

    @property
    def acts(self) -> int:
        """How often it slept."""
        return int(self._words()[0])

    @property
    def slept_share(self) -> float:
        """Time slept over all time of saves without that; 0 where no whole save was slowed."""
        _, worked, slept = self._words()
        return float(slept) / float(worked) if worked else 0.0

    def _words(self) -> np.ndarray:
        return np.frombuffer(self.report.read_bytes()[:24], dtype="<u8")


def plant_slowdown(
    cache: Cache, folder: Path, log: Callable[[str], None], *, per_mille: int = 0, at_t0_us: int = 0
) -> Slowdown:
    """Make what it takes to plant a slowdown.

    Args:
        cache: where the library is kept.
        folder: where the report goes.
        log: told what takes time.
        per_mille: see Slowdown.
        at_t0_us: likewise.

    Raises:
        MachineryMissing, SetupBroken: the library cannot be compiled.
    """
    report = folder / f"slow-save-{per_mille}-{at_t0_us}.acts"
    report.write_bytes(bytes(_PAGE_BYTES))
    return Slowdown(preload_library(_SOURCE, cache, log), report, per_mille, at_t0_us)


def slow_qemu(qemu: Path, slowdown: Slowdown, folder: Path) -> Path:
    """Make a wrapper script in a folder that runs `qemu` with a slowdown, for use as `--qemu`."""
    return preloading_wrapper(slowdown.library, qemu, folder, slowdown.variables(str(slowdown.report)))
