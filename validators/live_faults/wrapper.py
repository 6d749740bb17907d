"""The planted faults of the live path by name, and a QEMU wrapper that runs with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guest_images.cache import Cache
from harness.errors import UsageError
from validators.preload import preload_library, preloading_wrapper

_SOURCES = Path(__file__).parent


def fault_names() -> tuple[str, ...]:
    """The live planted faults that there are, each the name of a C file in this folder."""
    return tuple(sorted(path.stem for path in _SOURCES.glob("*.c")))


def faulty_qemu(fault: str, qemu: Path, cache: Cache, log: Callable[[str], None]) -> Path:
    """A wrapper script that runs `qemu` with a fault planted, for use as `--qemu`.

    Args:
        fault: one of `fault_names()`.
        qemu: the executable to break.
        cache: where the library and the wrapper are kept.
        log: told what takes time.

    Raises:
        UsageError: there is no such fault.
        MachineryMissing, SetupBroken: it cannot be compiled.
    """
    if fault not in fault_names():
        raise UsageError(f"There is no planted fault '{fault}', only {', '.join(fault_names())}.")
    library = preload_library(_SOURCES / f"{fault}.c", cache, log)
    return preloading_wrapper(library, qemu, library.parent)
