"""Contract: a device gets the backends that its properties refer to, and a controller for its bus."""

from __future__ import annotations

import pytest

from tests_functional.devices.backends import Candidate, candidates, wanted
from tests_functional.devices.listing import PROCESSORS, DeviceType, Listing, Property

_DRIVE = Property("drive", "str", "Node name or ID of a block device to use as a backend")
_HOST = Property("host", "str", "Host PCI address of assigned device")


def _made(device: DeviceType, *buses: str, cpu: str = "") -> dict[str, Candidate]:
    listing = Listing({device.name: device}, frozenset(buses), cpu)
    return {one.label: one for one in candidates(listing)}


def _type(name: str, bus: str, *properties: Property, category: str = "Storage") -> DeviceType:
    return DeviceType(name, category, bus, properties)


def test_backend_is_made_for_a_property_that_refers_to_one() -> None:
    """Device and backend get names of their own; a property that says no backend is left out."""
    made = _made(_type("ide-hd", "IDE", _DRIVE, _HOST), "IDE")["ide-hd"]
    assert made.impossible == ""
    assert made.arguments == (
        "-blockdev", "driver=null-co,node-name=d0-drive,size=67108864,read-zeroes=on",
        "-device", "ide-hd,id=d0,drive=d0-drive",
    )  # fmt: skip


def test_controller_is_added_for_a_bus_that_the_machine_lacks() -> None:
    """The controller comes before the device, and is the one whose own bus the machine has."""
    made = _made(_type("scsi-hd", "SCSI"), "virtio-bus")["scsi-hd"]
    assert made.arguments == ("-device", "virtio-scsi-device", "-device", "scsi-hd,id=d0")
    assert _made(_type("scsi-hd", "SCSI"), "SCSI")["scsi-hd"].arguments == ("-device", "scsi-hd,id=d0")


@pytest.mark.parametrize("buses", [(), ("ISA",)])
def test_device_without_a_bus_is_impossible(buses: tuple[str, ...]) -> None:
    """No QEMU is started for it; the reason names the bus."""
    made = _made(_type("usb-kbd", "usb-bus"), *buses)["usb-kbd"]
    assert made.impossible == "The machine has no bus of type 'usb-bus'."


def test_device_of_the_host_is_impossible() -> None:
    """What another program or the host would have to be is said."""
    assert "host" in _made(_type("vfio-pci", "PCI"), "PCI")["vfio-pci"].impossible


def test_only_the_machines_own_processor_is_tried() -> None:
    """QEMU refuses each of the hundred other models."""
    device = _type("a-cpu", "", category=PROCESSORS)
    assert _made(device, cpu="a-cpu")["a-cpu"].impossible == ""
    assert _made(device, cpu="b-cpu")["a-cpu"].impossible != ""


def test_property_with_a_value_of_its_own_gets_no_backend() -> None:
    """A variant gives it; the variant has a name of its own beside the device."""
    made = _made(_type("nvme", "PCI", _DRIVE), "PCI")
    assert made["nvme"].arguments[-1] == "nvme,id=d0,serial=snapproof,drive=d0-drive"
    assert made["nvme-drive"].arguments[-1] == "nvme,id=d1,serial=snapproof,drive=d1-disk"


def test_variant_is_wanted_by_its_own_name() -> None:
    """Its device type must be asked for its properties then, and no other."""
    assert wanted("nvme-dr*")("nvme")
    assert wanted("nvme")("nvme")
    assert not wanted("nvme-dr*")("nvme-ns")
    assert not wanted("e1000*")("nvme")
