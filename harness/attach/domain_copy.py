"""Changes the XML of a libvirt domain so that a copy of it can be restored beside it, paused.

The copy keeps every device, since the stream has the state of each; only what is behind devices changes. An
element that is not known to be harmless makes a copy impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Only this feature has XML, and the import is slow; mypy has its types.
from xml.etree.ElementTree import Element, ParseError, fromstring, tostring

_NULL = "null"
# libvirt docs/formatdomain.rst. These lead to nothing but QEMU itself.
_HARMLESS = frozenset(
    ("emulator", "controller", "memballoon", "video", "panic", "watchdog", "sound", "hub", "iommu")
)
_INPUTS = ("mouse", "tablet", "keyboard")
_CHARACTER = ("serial", "parallel", "console", "channel")
_READ_ONLY_DISKS = ("cdrom", "disk", "lun")
_RNG_MODELS = ("random", "builtin")


@dataclass(frozen=True)
class DomainCopy:
    """The definition of a copy of a domain.

    Attributes:
        xml: as libvirt takes it.
        changes: how it differs from the domain's, a sentence each.
        impossible: why there can be no copy, a sentence each; empty if there can.
    """

    xml: str
    changes: tuple[str, ...]
    impossible: tuple[str, ...]


def copy_domain(xml: str, name: str, uuid: str) -> DomainCopy:
    """Return the definition of a copy of a domain.

    Args:
        xml: of the domain, as `virsh dumpxml --migratable` prints it.
        name: of the copy.
        uuid: of the copy.

    Raises:
        ValueError: it is no XML of a domain.
    """
    try:
        root = fromstring(xml)
    except ParseError as error:
        raise ValueError(f"it cannot be parsed: {error}") from error
    devices = root.find("devices")
    if root.tag != "domain" or devices is None or root.find("name") is None:
        raise ValueError("it is none of a domain with a name and devices")
    impossible = [*_impossible_of_domain(root)]
    changes = [_rename(root, name, uuid)]
    for device in list(devices):
        change = _CHANGES.get(device.tag)
        if change is not None:
            changes += change(devices, device)
        impossible += _impossible(device)
    return DomainCopy(tostring(root, encoding="unicode"), tuple(changes), tuple(impossible))


def _rename(root: Element, name: str, uuid: str) -> str:
    """Give the domain another name and UUID; its firmware tells the guest the UUID, which has read it."""
    old_name = _text(root, "name")
    for element in root.findall("name"):
        element.text = name
    for element in (*root.findall("uuid"), *root.findall("sysinfo/system/entry[@name='uuid']")):
        element.text = uuid
    return f"Its name is '{name}' and no longer '{old_name}', and its UUID is {uuid}."


def _impossible_of_domain(root: Element) -> Iterator[str]:
    if root.find("os/nvram") is not None:
        yield "It has firmware variables in a file (nvram), which two VMs cannot share."
    for child in root:
        if child.tag.startswith("{"):
            yield (
                f"It has the element '{child.tag.rpartition('}')[2]}' of another namespace, whose arguments "
                "of QEMU may lead anywhere."
            )


def _impossible(device: Element) -> Iterator[str]:
    """Say why a device cannot be in a copy, after it was changed."""
    kind = device.tag
    if kind in _HARMLESS or kind in (*_CHARACTER, "graphics", "audio"):
        return
    if kind == "input" and device.get("type") in _INPUTS:
        return
    if kind == "disk":
        if device.find("readonly") is None or device.get("device", "disk") not in _READ_ONLY_DISKS:
            target = device.find("target")
            named = target.get("dev", "") if target is not None else ""
            yield f"Its disk '{named}' can be written to, and two VMs cannot share it."
    elif kind == "interface":
        if device.get("type") != "user" or device.find("backend") is not None:
            yield f"It has an interface of type '{device.get('type')}', which leads to a network of others."
    elif kind == "rng":
        backend = device.find("backend")
        model = backend.get("model") if backend is not None else None
        if model not in _RNG_MODELS:
            yield f"It has a random number generator with the backend '{model}'."
    else:
        yield f"It has a device '{kind}', which is not known to be harmless to share."


def _lead_nowhere(devices: Element, device: Element) -> Iterator[str]:
    """Have a character device lead nowhere; a console that stands for a serial port goes."""
    target = device.find("target")
    if device.tag == "console" and (target is None or target.get("type", "serial") == "serial"):
        devices.remove(device)
        return
    yield f"Its {device.tag} of type '{device.get('type')}' leads nowhere."
    device.attrib = {"type": _NULL}
    for name in ("source", "log", "protocol"):
        _remove_all(device, name)


def _remove_graphics(devices: Element, device: Element) -> Iterator[str]:
    devices.remove(device)
    yield f"It has no display of type '{device.get('type')}'."


def _silence(_devices: Element, device: Element) -> Iterator[str]:
    if device.get("type") != "none":
        yield f"Its sound of type '{device.get('type')}' is not heard."
        device.attrib = {"id": device.get("id", "1"), "type": "none"}
        for child in list(device):
            device.remove(child)


_CHANGES: dict[str, Callable[[Element, Element], Iterator[str]]] = {
    **dict.fromkeys(_CHARACTER, _lead_nowhere),
    "graphics": _remove_graphics,
    "audio": _silence,
}


def _remove_all(element: Element, name: str) -> None:
    for child in element.findall(name):
        element.remove(child)


def _text(root: Element, name: str) -> str:
    found = root.find(name)
    return (found.text or "") if found is not None else ""
