"""Contract: the devices that users may create are read from QEMU's list, each with category and bus."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.errors import SetupBroken
from tests_functional.devices.listing import PROCESSORS, Property, list_devices, parse_device_list

_QDM = """\
Controller/Bridge/Hub devices:\r
name "pci-bridge", bus PCI, desc "Standard PCI Bridge"\r
name "mch", bus PCI, desc "Host bridge", no-user\r
\r
Storage devices:\r
name "ich9-ahci", bus PCI, alias "ahci"\r
name "nvdimm", desc "DIMM memory module"\r
name "virtio-blk-device", bus virtio-bus\r
\r
CPU devices:\r
name "qemu64-cpu"\r
"""
_QTREE = """\
bus: main-system-bus
  type System
  dev: pcihost, id ""
    bus: pcie.0
      type PCIE
      dev: transport
        bus: virtio-mmio-bus.0
          type virtio-mmio-bus
"""
_DERIVED = {"PCI": ["PCIE"], "virtio-bus": ["virtio-mmio-bus"]}


class _Machine:
    """A QEMU that answers about devices, and notes whose properties it was asked for."""

    def __init__(self, qdm: str = _QDM, hotplug: bool = True) -> None:
        self.qmp = self
        self.asked: list[str] = []
        self._qdm, self._hotplug = qdm, hotplug

    def hmp(self, command: str) -> str:
        return {"info qdm": self._qdm, "info qtree": _QTREE}[command]

    def execute(self, command: str, arguments: Any = None) -> Any:
        if command == "device-list-properties":
            self.asked.append(arguments["typename"])
            return [{"name": "drive", "type": "str", "description": "a disk"}, {"name": "n", "type": "bool"}]
        if command == "qom-list-types":
            assert arguments["abstract"]
            return [{"name": name} for name in _DERIVED.get(arguments["implements"], [])]
        assert command == "query-hotpluggable-cpus"
        return [{"type": "qemu64-cpu"}] if self._hotplug else []


def test_devices_for_users_alone_are_read() -> None:
    """A device that QEMU itself makes is none that can be put into a guest."""
    assert list(parse_device_list(_QDM)) == [
        ("pci-bridge", "Controller/Bridge/Hub", "PCI"),
        ("ich9-ahci", "Storage", "PCI"),
        ("nvdimm", "Storage", ""),
        ("virtio-blk-device", "Storage", "virtio-bus"),
        ("qemu64-cpu", PROCESSORS, ""),
    ]


def test_machine_has_a_bus_by_a_type_that_is_derived_from_it() -> None:
    """A machine whose only bus is PCIE takes PCI devices."""
    found = list_devices(cast(Any, _Machine()), lambda _name: True)
    assert found.buses == {"PCI", "virtio-bus"}
    assert found.cpu == "qemu64-cpu"
    assert found.types["nvdimm"].properties == (
        Property("drive", "str", "a disk"),
        Property("n", "bool", ""),
    )


def test_properties_are_asked_of_wanted_devices_alone() -> None:
    """Asking for all takes seconds; a processor has nothing to be made for it."""
    machine = _Machine(hotplug=False)
    found = list_devices(cast(Any, machine), lambda name: name in ("nvdimm", "qemu64-cpu"))
    assert machine.asked == ["nvdimm"]
    assert len(found.types) == 5
    assert found.types["ich9-ahci"].properties == ()
    assert found.cpu == ""


def test_list_without_devices_is_an_error_of_ours() -> None:
    """A list that is not understood must not become a sweep of nothing."""
    with pytest.raises(SetupBroken, match="info qdm"):
        list_devices(cast(Any, _Machine("nothing\n")), lambda _name: True)
