"""A planted slowdown: the library that makes QEMU save slower, what it counts, and a wrapper with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guest_images.cache import Cache
from validators.preload import preload_library, preloading_wrapper
from validators.preload.acts import ActsPage

_SOURCE = Path(__file__).with_name("slow_save.c")


@dataclass(frozen=True)
class Slowdown:
    """What is planted, and what has come of it.

    Attributes:
        library: to be preloaded.
        page: what the library counts in.
        per_mille: each save takes so much longer, in thousandths of what it takes without.
        at_t0_us: the guest stands still for so much longer at T0, in microseconds.
    """

    library: Path
    page: ActsPage
    per_mille: int
    at_t0_us: int

    def variables(self, page: str = "") -> dict[str, str]:
        """The environment that tells the library what to do, given where the page is if not here."""
        return {
            **self.page.environment(page),
            "SNAPPROOF_SLOW_SAVE_PER_MILLE": str(self.per_mille),
            "SNAPPROOF_SLOW_T0_US": str(self.at_t0_us),
        }

    @property
    def acts(self) -> int:
        """How often it slept."""
        return self.page.acts

    @property
    def slept_share(self) -> float:
        """Time slept over all time of saves without that; 0 where no whole save was slowed."""
        _, worked, slept = self.page.words(3)
        return slept / worked if worked else 0.0


def plant_slowdown(
    cache: Cache, folder: Path, log: Callable[[str], None], *, per_mille: int = 0, at_t0_us: int = 0
) -> Slowdown:
    """Make what it takes to plant a slowdown.

    Args:
        cache: where the library is kept.
        folder: where the page goes.
        log: told what takes time.
        per_mille: see Slowdown.
        at_t0_us: likewise.

    Raises:
        MachineryMissing, SetupBroken: the library cannot be compiled.
    """
    page = ActsPage.blank(folder / f"slow-save-{per_mille}-{at_t0_us}.acts")
    return Slowdown(preload_library(_SOURCE, cache, log), page, per_mille, at_t0_us)


def slow_qemu(qemu: Path, slowdown: Slowdown, folder: Path) -> Path:
    """Make a wrapper script in a folder that runs `qemu` with a slowdown, for use as `--qemu`."""
    return preloading_wrapper(slowdown.library, qemu, folder, slowdown.variables())
