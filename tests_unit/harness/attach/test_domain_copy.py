"""Contract: a copy keeps each device and shares nothing with its domain, or there is no copy."""

from __future__ import annotations

from xml.etree.ElementTree import Element, fromstring

import pytest

from harness.attach.domain_copy import DomainCopy, copy_domain

_OLD, _NEW = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
_DOMAIN = f"""
<domain type='kvm' id='3'>
  <name>vm</name>
  <uuid>{_OLD}</uuid>
  <sysinfo type='smbios'>
    <system><entry name='uuid'>{_OLD}</entry><entry name='family'>f</entry></system>
  </sysinfo>
  <metadata><x:y xmlns:x='urn:x'/></metadata>
  <os><type>hvm</type>{{os}}</os>
  <devices>
    <emulator>/usr/bin/qemu</emulator>
    {{devices}}
  </devices>
  {{more}}
</domain>
"""


def _copied(devices: str = "", os: str = "", more: str = "") -> tuple[DomainCopy, Element]:
    copy = copy_domain(_DOMAIN.format(devices=devices, os=os, more=more), "copy", _NEW)
    return copy, fromstring(copy.xml)


def test_name_and_uuid() -> None:
    """No trace of the domain's own name and UUID is left, and the rest of the firmware's texts stays."""
    copy, root = _copied()
    assert (root.findtext("name"), root.findtext("uuid")) == ("copy", _NEW)
    entries = {entry.get("name"): entry.text for entry in root.findall("sysinfo/system/entry")}
    assert entries == {"uuid": _NEW, "family": "f"}
    assert _OLD not in copy.xml
    assert copy.changes == (f"Its name is 'copy' and no longer 'vm', and its UUID is {_NEW}.",)
    assert copy.impossible == ()


@pytest.mark.parametrize("tag", ["serial", "parallel", "channel"])
def test_character_devices_lead_nowhere(tag: str) -> None:
    """What is behind one goes; its target and address, which the guest sees, stay."""
    copy, root = _copied(
        f"<{tag} type='unix' x='y'><source mode='bind' path='/s'/><log file='/l'/><protocol type='raw'/>"
        f"<target type='virtio' name='a'/><address type='pci'/></{tag}>"
    )
    found = root.find(f"devices/{tag}")
    assert found is not None
    assert found.attrib == {"type": "null"}
    assert [child.tag for child in found] == ["target", "address"]
    assert copy.changes[1:] == (f"Its {tag} of type 'unix' leads nowhere.",)
    assert copy.impossible == ()


@pytest.mark.parametrize(
    ("console", "left"),
    [
        ("<console type='pty'/>", 0),
        ("<console type='pty'><target type='serial'/></console>", 0),
        ("<console type='pty'><target type='virtio'/></console>", 1),
    ],
)
def test_console(console: str, left: int) -> None:
    """A console that is another name of a serial port goes; libvirt makes it anew."""
    copy, root = _copied(console)
    assert [found.get("type") for found in root.findall("devices/console")] == ["null"] * left
    assert len(copy.changes) == 1 + left


def test_displays_and_sound() -> None:
    """The display goes, the sound card stays, and is not heard."""
    copy, root = _copied(
        "<graphics type='vnc' port='5900'/><sound model='ich6'/><video/>"
        "<audio id='2' type='spice'><input/></audio><audio id='3' type='none'/>"
    )
    assert root.find("devices/graphics") is None
    assert root.find("devices/sound") is not None
    audio = root.findall("devices/audio")
    assert [found.attrib for found in audio] == [{"id": "2", "type": "none"}, {"id": "3", "type": "none"}]
    assert [len(found) for found in audio] == [0, 0]
    assert copy.changes[1:] == ("It has no display of type 'vnc'.", "Its sound of type 'spice' is not heard.")
    assert copy.impossible == ()


@pytest.mark.parametrize(
    "devices",
    [
        "<disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>",
        "<disk type='file' device='disk'><target dev='vda'/><readonly/></disk>",
        "<disk type='file'><target dev='vda'/><readonly/></disk>",
        "<disk type='block' device='lun'><target dev='sda'/><readonly/></disk>",
        "<interface type='user'><model type='e1000'/></interface>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<rng model='virtio'><backend model='builtin'/></rng>",
        "<input type='tablet'/><controller type='usb'/><memballoon model='none'/><panic/><watchdog/>",
    ],
)
def test_what_a_copy_may_have(devices: str) -> None:
    """Such devices stay as they are."""
    copy, root = _copied(devices)
    assert copy.impossible == ()
    found = root.find("devices")
    assert found is not None
    assert len(found) == 1 + len(fromstring(f"<devices>{devices}</devices>"))


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ("<disk device='disk'><target dev='vda'/></disk>", "Its disk 'vda' can be written to"),
        ("<disk device='disk'/>", "Its disk '' can be written to"),
        ("<disk device='floppy'><target dev='fda'/><readonly/></disk>", "Its disk 'fda' can be written to"),
        ("<interface type='network'/>", "an interface of type 'network'"),
        ("<interface type='user'><backend type='passt'/></interface>", "an interface of type 'user'"),
        ("<rng><backend model='egd'/></rng>", "with the backend 'egd'"),
        ("<rng/>", "with the backend 'None'"),
        ("<input type='evdev'/>", "a device 'input'"),
        ("<hostdev mode='subsystem'/>", "a device 'hostdev'"),
        ("<tpm/>", "a device 'tpm'"),
    ],
)
def test_what_a_copy_may_not_have(devices: str, told: str) -> None:
    """The device is named in one sentence."""
    copy, _root = _copied(devices)
    assert len(copy.impossible) == 1
    assert told in copy.impossible[0]


def test_each_obstacle_is_told() -> None:
    """Firmware variables and arguments of QEMU, beside a device."""
    copy, _root = _copied(
        "<tpm/>",
        "<nvram>/n</nvram>",
        "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/>",
    )
    assert [("nvram" in one, "'commandline'" in one, "'tpm'" in one) for one in copy.impossible] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


@pytest.mark.parametrize(
    "xml", ["", "<domain>", "<network><name>n</name><devices/></network>", "<domain><name>n</name></domain>",
            "<domain><devices/></domain>"],
)  # fmt: skip
def test_what_is_no_domain(xml: str) -> None:
    """It is no definition of a domain, and told as such."""
    with pytest.raises(ValueError, match="it "):
        copy_domain(xml, "copy", _NEW)
