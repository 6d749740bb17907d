"""The live faults by name, and a wrapper script that runs QEMU with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guest_images.provisioning import Provisioning
from harness.errors import UsageError
from validators.faults.preload.acts import ActsPage
from validators.faults.preload.library import preload_library, preloading_wrapper

_SOURCES = Path(__file__).parent


@dataclass(frozen=True)
class FaultyQemu:
    """A QEMU that runs with a planted fault.

    Attributes:
        executable: wrapper script, for use as `--qemu`.
        page: in which the fault counts how often it acted.
    """

    executable: Path
    page: ActsPage

    @property
    def acts(self) -> int:
        """Return how often the fault acted."""
        return self.page.acts


def fault_names() -> tuple[str, ...]:
    """Return the names of the live faults: each is a C file in this folder."""
    return tuple(sorted(path.stem for path in _SOURCES.glob("*.c")))


def fault_library(fault: str, provisioning: Provisioning) -> Path:
    """Compile the library that plants a fault of `fault_names()` into the QEMU that it is preloaded into.

    Raises:
        MachineryMissing, SetupBroken: it cannot be compiled.
    """
    return preload_library(_SOURCES / f"{fault}.c", provisioning)


def faulty_qemu(fault: str, qemu: Path, folder: Path, provisioning: Provisioning) -> FaultyQemu:
    """Make a wrapper script that runs `qemu` with a fault planted.

    Args:
        fault: one of `fault_names()`.
        qemu: the executable.
        provisioning: the mirror, the cache, and the log of slow steps.
        folder: where the wrapper and its page go.

    Raises:
        UsageError: there is no such fault.
        MachineryMissing, SetupBroken: it cannot be compiled.
    """
    if fault not in fault_names():
        raise UsageError(f"There is no planted fault '{fault}'; there are {', '.join(fault_names())}.")
    page = ActsPage.blank(folder / f"{fault}.acts")
    library = fault_library(fault, provisioning)
    return FaultyQemu(preloading_wrapper(library, qemu, folder, page.environment()), page)
