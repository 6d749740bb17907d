"""A real QEMU whose guest does nothing, for tests of what drives its devices from outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guest_images.cache import default_cache_folder
from guest_images.catalogue import DEFAULT_QEMU
from harness.qemu.architectures import X86_64
from harness.qemu.configuration import MachineConfig
from harness.qemu.spawned_machine import SpawnedMachine

RAM_MIB = 32

# SeaBIOS would set up devices itself, and use the ports of PCI configuration space meanwhile. The processor
# begins 16 bytes before the end: cli; hlt; jmp to the hlt.
_IDLE = bytes.fromhex("faf4ebfd").rjust((64 << 10) - 12, b"\0").ljust(64 << 10, b"\0")


def found_qemu() -> Path:
    """Return a QEMU that is there already, or skip the test; nothing is fetched."""
    program = X86_64.qemu
    trees = sorted(default_cache_folder().glob(f"trees/{DEFAULT_QEMU}-qemu*/{program}"))
    found = shutil.which(program) or next(iter(trees), None)
    if not found:
        pytest.skip(f"there is no {program}; 'snapproof run' fetches one")
    return Path(found)


@contextmanager
def real_machine(folder: Path, *arguments: str, machine: str = "pc") -> Iterator[SpawnedMachine]:
    """Run a QEMU with further arguments within the `with`."""
    folder.mkdir(parents=True, exist_ok=True)
    firmware = folder / "idle.bin"
    firmware.write_bytes(_IDLE)
    config = MachineConfig(
        found_qemu(),
        None,
        None,
        "",
        accel="tcg",
        ram_mib=RAM_MIB,
        machine=machine,
        extra=arguments,
        firmware=firmware,
        virtio=False,
    )
    with SpawnedMachine(config, folder) as started:
        yield started
