"""The library that makes QEMU save slower, its counters, and a wrapper script that runs QEMU with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guest_images.provisioning import Provisioning
from validators.faults.preload.acts import ActsPage
from validators.faults.preload.library import preload_library, preloading_wrapper

_SOURCE = Path(__file__).with_name("slow_save.c")


@dataclass(frozen=True)
class Slowdown:
    """A planted slowdown, and what it has done so far.

    Attributes:
        library: to be preloaded.
        page: in which the library counts.
        per_mille: by how much longer each save takes, in thousandths of its time without.
        at_t0_us: by how much longer the guest is stunned at T0, in microseconds.
    """

    library: Path
    page: ActsPage
    per_mille: int
    at_t0_us: int

    def variables(self, page: str = "") -> dict[str, str]:
        """Return the environment that configures the library; `page` is its path if not the one here."""
        return {
            **self.page.environment(page),
            "SNAPPROOF_SLOW_SAVE_PER_MILLE": str(self.per_mille),
            "SNAPPROOF_SLOW_T0_US": str(self.at_t0_us),
        }

    @property
    def acts(self) -> int:
        """Return how often it slept."""
        return self.page.acts

    @property
    def slept_share(self) -> float:
        """Return the time slept as a share of the other time of whole saves, 0 before there is one."""
        _, worked, slept = self.page.words(3)
        return slept / worked if worked else 0.0


def plant_slowdown(
    folder: Path, provisioning: Provisioning, *, per_mille: int = 0, at_t0_us: int = 0
) -> Slowdown:
    """Compile the library and make its page.

    Args:
        provisioning: the mirror, the cache, and the log of slow steps.
        folder: where the page goes.
        per_mille: see Slowdown.
        at_t0_us: see Slowdown.

    Raises:
        MachineryMissing, SetupBroken: the library cannot be compiled.
    """
    page = ActsPage.blank(folder / f"slow-save-{per_mille}-{at_t0_us}.acts")
    return Slowdown(preload_library(_SOURCE, provisioning), page, per_mille, at_t0_us)


def slow_qemu(qemu: Path, slowdown: Slowdown, folder: Path) -> Path:
    """Make a wrapper script in a folder that runs `qemu` with a slowdown, for use as `--qemu`."""
    return preloading_wrapper(slowdown.library, qemu, folder, slowdown.variables())
