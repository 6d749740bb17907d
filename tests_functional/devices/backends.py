"""Makes the arguments that create a device: its backends, the controller of its bus, and the device."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from tests_functional.devices.listing import PROCESSORS, DeviceType, Listing, Property

_FILE = Path(__file__).parent / "backends.toml"


@dataclass(frozen=True)
class Candidate:
    """A device to put into a guest.

    Attributes:
        label: what results call it.
        type: its device type.
        arguments: of QEMU, which create it with all that it needs.
        impossible: why it cannot be created on the machine, "" if it may.
    """

    label: str
    type: DeviceType
    arguments: tuple[str, ...]
    impossible: str = ""


def wanted(pattern: str) -> Callable[[str], bool]:
    """Return a function: whether a device type, or a variant of it, matches a shell pattern."""
    variants = [(variant["device"], variant["label"]) for variant in _table()["variant"]]
    return lambda name: any(
        fnmatchcase(label, pattern) for device, label in [(name, name), *variants] if device == name
    )


def candidates(listing: Listing) -> Iterator[Candidate]:
    """Yield each device of a QEMU, and each variant of one, with the arguments that create it."""
    found = [(device, device.name, _extras(device.name)) for device in listing.types.values()]
    found += [
        (listing.types[variant["device"]], variant["label"], variant)
        for variant in _table()["variant"]
        if variant["device"] in listing.types
    ]
    for number, (device, label, extras) in enumerate(found):
        impossible = _impossible(device, listing) or extras.get("needs", "")
        # Names of their own, since several devices share a QEMU; short, as those of block nodes must be.
        yield Candidate(label, device, _arguments(device, listing, f"d{number}", extras), impossible)


def _impossible(device: DeviceType, listing: Listing) -> str:
    """Return why a device cannot be created on the machine, "" if it may."""
    if _controllers(device.bus, listing) is None:
        return f"The machine has no bus of type '{device.bus}'."
    if device.category == PROCESSORS and device.name != listing.cpu:
        return "The machine takes no processor of that model."
    return ""


def _arguments(device: DeviceType, listing: Listing, name: str, extras: Mapping[str, Any]) -> tuple[str, ...]:
    value = str(extras.get("value", ""))
    before, values = (
        list(extras.get("arguments", ())),
        [f"{device.name},id={name}", *([value] if value else [])],
    )
    given = {part.partition("=")[0] for part in value.split(",")}
    for one in device.properties:
        backend = None if one.name in given else _backend(one)
        if backend is not None:
            before += [text.replace("{id}", f"{name}-{one.name}") for text in backend]
            values.append(f"{one.name}={name}-{one.name}")
    controllers = _controllers(device.bus, listing) or ()
    return tuple(
        text.replace("{device}", name) for text in (*before, *controllers, "-device", ",".join(values))
    )


def _controllers(bus: str, listing: Listing) -> tuple[str, ...] | None:
    """Return the arguments that give the machine such a bus, None where that is not possible."""
    if not bus or bus in listing.buses:
        return ()
    for entry in _table()["bus"]:
        if entry["type"] == bus and entry["on"] in listing.buses:
            return tuple(entry["arguments"])
    return None


def _backend(one: Property) -> list[str] | None:
    """Return the arguments that make what a property refers to, None where it can be left out."""
    for entry in _table()["backend"]:
        named = any(fnmatchcase(one.name, pattern) for pattern in entry.get("names", ["*"]))
        # A description that only ends so is that of another property ("Host PCI address ... of device").
        described = f"{entry['description']} to use" in one.description if "description" in entry else True
        if entry["type"] == one.type and named and described:
            found: list[str] = entry["arguments"]
            return found
    return None


def _extras(name: str) -> Mapping[str, Any]:
    for entry in _table()["device"]:
        if any(fnmatchcase(name, pattern) for pattern in entry["names"]):
            found: Mapping[str, Any] = entry
            return found
    return {}


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
