"""Lists the machines whose RAM is looked at, each with devices that have RAM of many kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.qemu.configuration import MIB, Flash
from harness.qemu.probe import has_device
from tests_functional.lib.guest import Stack

_FLASH_FILE, _FLASH_PROGRAM = "variables.fd", "program.fd"
_FLASH_BYTES = 4 * MIB


@dataclass(frozen=True)
class RamMachine:
    """A machine with RAM of many kinds.

    Attributes:
        reason: why it is looked at.
        devices: by the name of each device: the arguments that create it.
        properties: of `-machine`, appended to the guest's.
        memory: value of `-m` beside the size, "" for none.
        flash: whether the guest's own firmware is in flash, with a second flash device for variables.
    """

    reason: str
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    properties: str = ""
    memory: str = ""
    flash: bool = False

    def stack(self, stack: Stack, folder: Path) -> tuple[Stack, tuple[str, ...]]:
        """Return the stack with this machine, and the devices that this QEMU does not have.

        Args:
            stack: the run's.
            folder: receives the images of flash devices.
        """
        lacking = tuple(name for name in self.devices if not has_device(stack.executable, name))
        arguments = [text for name, texts in self.devices.items() if name not in lacking for text in texts]
        if self.memory:
            arguments += ["-m", f"{stack.ram_mib}M,{self.memory}"]
        machine = f"{stack.machine},{self.properties}" if self.properties else stack.machine
        stack = replace(stack, machine=machine, extra=(*stack.extra, *arguments))
        return (replace(stack, flash=_flash(stack, folder)) if self.flash else stack), lacking


def _flash(stack: Stack, folder: Path) -> Flash:
    """Return flash devices with the bare guest's firmware, and with nothing."""
    assert stack.image.firmware is not None, "the row names a bare guest that has firmware"
    program, variables = folder / _FLASH_PROGRAM, folder / _FLASH_FILE
    program.write_bytes(stack.image.firmware.read_bytes())
    variables.write_bytes(bytes(_FLASH_BYTES))
    return Flash("the bare guest's", program, variables)


def _backed(device: str, name: str, backend: str, options: str = "") -> tuple[str, ...]:
    """Return the arguments for a device with a memory backend."""
    return ("-object", f"{backend},id={name}", "-device", f"{device},memdev={name}{options}")


_PCI: Mapping[str, tuple[str, ...]] = {
    "VGA": ("-device", "VGA,vgamem_mb=4"),
    "e1000": ("-device", "e1000"),
    "ivshmem-plain": _backed("ivshmem-plain", "shared", "memory-backend-ram,size=4M,share=on", ",master=on"),
}
_DIMMS: Mapping[str, tuple[str, ...]] = {
    "pc-dimm": _backed("pc-dimm", "dimm", "memory-backend-ram,size=16M"),
    "nvdimm": _backed("nvdimm", "persistent", "memory-backend-ram,size=16M"),
}
_SLOTS = "slots=4,maxmem=1G"

RAM_MACHINES: Mapping[str, RamMachine] = {
    "devices": RamMachine(
        "RAM of the board, of DIMMs and of devices; ROMs; tables that QEMU makes",
        {**_PCI, **_DIMMS},
        properties="nvdimm=on",
        memory=_SLOTS,
    ),
    "flash": RamMachine("the guest writes flash by commands", _PCI, flash=True),
    "pmem": RamMachine(
        "RAM of a device that QEMU gives no name in the stream",
        {"virtio-pmem-pci": _backed("virtio-pmem-pci", "persistent", "memory-backend-ram,size=16M")},
        memory=_SLOTS,
    ),
    "board": RamMachine("what the board has by itself: RAM, firmware, flash"),
}
"""By name. Those with devices are for machine types whose devices the host can drive."""
