"""Lists the devices that a QEMU has, with their buses and properties, and the buses of its machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import SetupBroken, SubjectFailed
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused

# QEMU 7.2 to 11.1 system/qdev-monitor.c (softmmu/ before 8.2), qdev_print_devinfo(): the lines of `info qdm`,
# under a heading for each category.
_LINE = re.compile(r'name "(?P<name>[^"]+)"(?:, bus (?P<bus>[^,]+))?(?P<rest>.*)')
_HEADING = re.compile(r"(?P<category>.+) devices:")
_NOT_FOR_USERS = ", no-user"
# hw/core/qdev.c: the lines of `info qtree` for a bus; the type of a bus may be derived from that of a device.
_BUS_TYPE = re.compile(r"^ *bus: .*\n +type (?P<type>\S+)$", re.MULTILINE)

ALL = "*"
"""The pattern of a sweep of all devices."""

PROCESSORS = "CPU"
"""The category of processors, which have no backends."""


@dataclass(frozen=True)
class Property:
    """A property of a device type.

    Attributes:
        name: as for `-device`.
        type: as QEMU has it, e.g. ``str`` or ``link<iothread>``.
        description: QEMU's, "" for none.
    """

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class DeviceType:
    """A device type that users may create.

    Attributes:
        name: as for `-device`.
        category: the heading under which `-device help` has it.
        bus: type of the bus that it is plugged into, "" for none.
        properties: those that it can be given, if they were asked for.
    """

    name: str
    category: str
    bus: str
    properties: tuple[Property, ...]


@dataclass(frozen=True)
class Listing:
    """What a QEMU has for a machine.

    Attributes:
        types: the device types that users may create, by name, in QEMU's order.
        buses: types of the machine's buses, with those that they are derived from.
        cpu: type of the processors that can be plugged in, "" for none.
    """

    types: Mapping[str, DeviceType]
    buses: frozenset[str]
    cpu: str


class TypeUnusable(SubjectFailed):
    """QEMU ends when it is asked for the properties of the device type `name`.

    QEMU 7.2 does where a module is not installed that the type needs.
    """

    def __init__(self, name: str, error: SubjectFailed) -> None:
        super().__init__(error.sentence, error.evidence, code=error.code, fields=error.fields)
        self.name = name


def list_devices(machine: Machine, wanted: Callable[[str], bool]) -> Listing:
    """Ask a QEMU for its device types, and its machine for its buses.

    Args:
        machine: runs the QEMU.
        wanted: whether to ask for the properties of a device type of that name; all take seconds.

    Raises:
        SetupBroken: QEMU lists none, so its output is not understood.
        TypeUnusable: QEMU ended when it was asked for the properties of a device type.
    """
    types = {}
    for name, category, bus in parse_device_list(machine.hmp("info qdm")):
        found = _properties(machine, name) if wanted(name) and category != PROCESSORS else []
        properties = (Property(p["name"], p["type"], p.get("description", "")) for p in found)
        types[name] = DeviceType(name, category, bus, tuple(properties))
    if not types:
        raise SetupBroken("QEMU's list of devices ('info qdm') has none that users may create.")
    buses = {one.bus for one in types.values() if one.bus}
    present = set(_BUS_TYPE.findall(machine.hmp("info qtree")))
    return Listing(
        types,
        frozenset(bus for bus in buses if present & _derived(machine, bus)),
        _processor_type(machine),
    )


def _properties(machine: Machine, name: str) -> Any:
    try:
        return machine.qmp.execute("device-list-properties", {"typename": name})
    except SubjectFailed as error:
        raise TypeUnusable(name, error) from error


def parse_device_list(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, category and bus of each device in the output of `info qdm` that users may create."""
    category = ""
    for line in text.splitlines():
        if heading := _HEADING.fullmatch(line.strip()):
            category = heading["category"]
        found = _LINE.match(line)
        if found and _NOT_FOR_USERS not in found["rest"]:
            yield found["name"], category, found["bus"] or ""


def _derived(machine: Machine, bus: str) -> set[str]:
    """Return the types that are derived from a type of bus, and that type itself."""
    found = machine.qmp.execute("qom-list-types", {"implements": bus, "abstract": True})
    return {bus, *(str(one["name"]) for one in found)}


def _processor_type(machine: Machine) -> str:
    """Return the type of processors that can be plugged in, "" for none."""
    try:
        found = machine.qmp.execute("query-hotpluggable-cpus")
    except CommandRefused:
        return ""
    return str(found[0]["type"]) if found else ""
