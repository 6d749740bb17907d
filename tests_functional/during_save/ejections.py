"""Devices that the guest ejects while RAM is saved, as an operating system does after a device_del."""

from __future__ import annotations

from collections.abc import Mapping

from harness.qemu.io_ports import write_port
from tests_functional.during_save.thing import Place, Thing

_SLOT = 9
# QEMU hw/acpi/pcihp.c: the registers that choose a bus and eject the devices of its slots.
_BUS_PORT, _EJECT_PORT = 0xAE10, 0xAE08
# QEMU hw/acpi/memory_hotplug.c: the registers that choose a DIMM and control it; bit 3 ejects it.
_DIMM_PORT, _DIMM_CONTROL_PORT, _EJECT_DIMM = 0xA00, 0xA14, 8
# Less than the guest's RAM, so that QEMU saves it after that.
_DIMM_MIB = 32


def _eject_device(place: Place) -> None:
    write_port(place.machine, _BUS_PORT, 4, 0)
    write_port(place.machine, _EJECT_PORT, 4, 1 << _SLOT)


def _eject_dimm(place: Place) -> None:
    write_port(place.machine, _DIMM_PORT, 4, 0)
    write_port(place.machine, _DIMM_CONTROL_PORT, 1, _EJECT_DIMM)


EJECTIONS: Mapping[str, Thing] = {
    "eject-device": Thing(
        "a device_del from before the save ends when the guest ejects the device, which may be in mid-save",
        _eject_device,
        ("-device", f"virtio-rng-pci,addr={_SLOT:#x}"),
    ),
    "eject-device-with-memory": Thing(
        "the same with a device that has memory of its own, which is a RAMBlock of the stream",
        _eject_device,
        ("-device", f"secondary-vga,addr={_SLOT:#x}"),
    ),
    "eject-dimm": Thing(
        "the same with a DIMM, whose memory the guest had at T0",
        _eject_dimm,
        (
            *("-m", "slots=1,maxmem=1G"),
            *("-object", f"memory-backend-ram,id=dimm-memory,size={_DIMM_MIB}M"),
            *("-device", "pc-dimm,id=dimm,memdev=dimm-memory"),
        ),
    ),
}
