"""Reads the names of what a running QEMU has: objects with their properties, types, block nodes, chardevs.

Commands that are drawn name these, so that QEMU finds what they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from harness.codes import Code
from harness.errors import SubjectFailed
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused

NEW = ("explored-0", "explored-1")
"""Names that drawn commands give to what they add, and by which others remove it."""

IMAGE = "image"
"""Block node of the image that the step `save-inside` makes."""

# Our own monitor and consoles are chardevs as well, and must stay.
_OWN_CHARDEVS = ("ring",)
_DEVICES, _OBJECTS = "/machine/peripheral", "/objects"


@dataclass(frozen=True)
class Property:
    """A property of an object or a device.

    Attributes:
        path: of the object; "" for one of a type.
        name: its name.
        kind: its type, as QEMU words it: `bool`, `uint32`, `link<...>`, ...
    """

    path: str
    name: str
    kind: str


@dataclass(frozen=True)
class Names:
    """What commands may name.

    Attributes:
        paths: of all objects (QOM).
        properties: of all objects.
        devices, disks, objects, nodes, chardevs, netdevs, buses: by their ids.
        types: all types of devices.
        all_types: all types of objects, abstract ones too.
        device_types: those whose properties QEMU tells, with these.
    """

    paths: tuple[str, ...] = ("/machine",)
    properties: tuple[Property, ...] = (Property("/machine", "type", "string"),)
    devices: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    chardevs: tuple[str, ...] = ()
    netdevs: tuple[str, ...] = ()
    buses: tuple[str, ...] = ()
    types: tuple[str, ...] = ("device",)
    all_types: tuple[str, ...] = ("device",)
    device_types: Mapping[str, tuple[Property, ...]] = field(default_factory=dict)


def read_names(opened: Callable[[], AbstractContextManager[Machine]]) -> Names:
    """Read the names of a QEMU that has all devices.

    Args:
        opened: starts one, and another if it ends: 7.2 does when asked about a type whose module is missing.
    """
    found: dict[str, tuple[Property, ...]] = {}
    with opened() as machine:
        names = _names_of(machine)
    left = list(names.types)
    while left:
        with opened() as machine:
            try:
                while left:
                    kind = left.pop()
                    found.update(_device_type(machine, kind))
            except SubjectFailed as error:
                if error.code is not Code.QEMU_ENDED:
                    raise
    return replace(names, device_types=found)


def _names_of(machine: Machine) -> Names:
    execute = machine.qmp.execute
    properties = tuple(_walk(machine, "/"))
    paths = tuple(sorted({one.path for one in properties}))
    netdevs = (one.path for one in properties if one.name == "netdev" and one.kind == "str")
    named = {execute("qom-get", {"path": path, "property": "netdev"}) for path in netdevs}
    devices: Any = execute("qom-list-types", {"implements": "device", "abstract": False})
    return Names(
        paths,
        properties,
        _children(paths, _DEVICES),
        _children([one.path for one in properties if one.name == "drive"], _DEVICES),
        _children(paths, _OBJECTS),
        tuple(sorted({*(node["node-name"] for node in execute("query-named-block-nodes")), IMAGE})),
        tuple(sorted(one["label"] for one in execute("query-chardev") if one["label"] in _OWN_CHARDEVS)),
        tuple(sorted(name for name in named if name)),
        tuple(sorted({one.name for one in properties if one.kind.startswith("child<") and "." in one.name})),
        tuple(sorted(one["name"] for one in devices)),
        tuple(sorted(one["name"] for one in execute("qom-list-types"))),
    )


def _walk(machine: Machine, path: str) -> Iterator[Property]:
    """Yield the properties of an object and of all that it has."""
    for one in machine.qmp.execute("qom-list", {"path": path}):
        yield Property(path, one["name"], one["type"])
        if one["type"].startswith("child<"):
            yield from _walk(machine, f"{path.rstrip('/')}/{one['name']}")


def _children(paths: Sequence[str], parent: str) -> tuple[str, ...]:
    return tuple(
        path.rpartition("/")[2]
        for path in paths
        if path.startswith(f"{parent}/") and "/" not in path[len(parent) + 1 :]
    )


def _device_type(machine: Machine, name: str) -> dict[str, tuple[Property, ...]]:
    """Return the properties of a type of devices, empty if QEMU does not tell."""
    try:
        properties = machine.qmp.execute("device-list-properties", {"typename": name})
    except CommandRefused:
        return {}
    return {name: tuple(Property("", one["name"], one["type"]) for one in properties)}
