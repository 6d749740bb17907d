"""A QEMU wrapper that saves slower than the QEMU it runs, and tells by how much."""

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
class SlowQemu:
    """A QEMU with a planted slowdown.

    Attributes:
        executable: wrapper script, for use as `--qemu`.
        report: file of the page that the library counts in.
    """

    executable: Path
    report: Path

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


def slow_qemu(
    qemu: Path,
    cache: Cache,
    folder: Path,
    log: Callable[[str], None],
    *,
    per_mille: int = 0,
    at_t0_us: int = 0,
) -> SlowQemu:
    """Make a wrapper script that runs `qemu` with a slowdown planted.

    Args:
        qemu: the executable.
        cache: where the library is kept.
        folder: where the wrapper and its report go.
        log: told what takes time.
        per_mille: each save takes so much longer, in thousandths of what it takes without.
        at_t0_us: the guest stands still for so much longer at T0, in microseconds.

    Raises:
        MachineryMissing, SetupBroken: it cannot be compiled.
    """
    report = folder / f"slow-save-{per_mille}-{at_t0_us}.acts"
    report.write_bytes(bytes(_PAGE_BYTES))
    variables = {
        ACTS_VARIABLE: str(report),
        "SNAPPROOF_SLOW_SAVE_PER_MILLE": str(per_mille),
        "SNAPPROOF_SLOW_T0_US": str(at_t0_us),
    }
    library = preload_library(_SOURCE, cache, log)
    return SlowQemu(preloading_wrapper(library, qemu, folder, variables), report)
