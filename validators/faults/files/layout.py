"""Faults planted around the pages: in headers, sections, footers, the end of the stream and the vmdesc."""

from __future__ import annotations

import json
from typing import Any

from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, DamagePlace, Edit, Subject
from validators.vmstate.stream.index import Section, Vmdesc
from validators.vmstate.stream.vmdesc import field_length

LAYOUT = Catalogue()
_RESTORE_ONLY = "the field has no redundancy in the stream; only QEMU or the guest can notice"
_NO_ORACLE = "no oracle compares device state, so only a guest or a QEMU that needs the bit would notice"
# Field of the device "cpu" and a bit of it (QEMU 10.0 target/*/machine.c). CR3 then points to 2 GiB or more,
# where the self-test's guest has no RAM: the first fetch faults, and so do the handlers of it. A higher
# bit of it does not count in a 32-bit guest. The other fields are program counters, which then point to where
# nothing is; in real mode a processor of ppc64 ignores the four highest bits.
_VITAL_FIELDS = (("env.cr[3]", 31), ("env.psw.addr", 62), ("env.pc", 62), ("env.nip", 40))


@LAYOUT.fault("One byte follows the end of the stream.")
def _trailing_byte(subject: Subject) -> Damage | None:
    if not subject.index.ends_file:
        return None
    end = subject.index.end
    return Damage((Edit(end, 0, b"\0"),), DamagePlace("end of file", end, end + 1))


@LAYOUT.fault("A second stream follows the first.")
def _trailing_stream(subject: Subject) -> Damage | None:
    if not subject.index.ends_file:
        return None
    end = subject.index.end
    data = subject.bytes_at(subject.index.start, subject.index.start + 8192)
    return Damage((Edit(end, 0, data),), DamagePlace("end of file", end, end + len(data)))


@LAYOUT.fault("The stream has another version.")
def _version_altered(subject: Subject) -> Damage | None:
    start = subject.index.start
    return Damage((Edit(start + 7, 1, b"\x02"),), DamagePlace("header", start, start + 8))


@LAYOUT.fault("The last RAM section is behind a device.")
def _ram_behind_device(subject: Subject) -> Damage | None:
    ram = [section for section in subject.index.sections if section.is_ram]
    first = next((section for section in subject.index.devices), None)
    if len(ram) < 2 or first is None or subject.section_end(ram[-1]) > first.offset:
        return None
    start, middle, end = ram[-1].offset, subject.section_end(ram[-1]), subject.section_end(first)
    moved = subject.bytes_at(middle, end) + subject.bytes_at(start, middle)
    return Damage((Edit(start, end - start, moved),), DamagePlace("RAM behind a device", start, end))


@LAYOUT.fault("Two devices are in each other's place.")
def _devices_swapped(subject: Subject) -> Damage | None:
    devices = subject.index.devices
    if len(devices) < 3:
        return None
    number = subject.pick(len(devices) - 1)
    first, second = devices[number], devices[number + 1]
    start, middle, end = first.offset, second.offset, subject.section_end(second)
    moved = subject.bytes_at(middle, end) + subject.bytes_at(start, middle)
    return Damage((Edit(start, end - start, moved),), DamagePlace("two devices", start, end))


@LAYOUT.fault("A device's section is dropped.")
def _device_dropped(subject: Subject) -> Damage | None:
    section = subject.device()
    end = subject.section_end(section)
    place = DamagePlace(f"device {section.idstr}", block=section.idstr)
    return Damage((Edit(section.offset, end - section.offset, b""),), place)


@LAYOUT.fault("A device's section is in the stream twice.")
def _device_doubled(subject: Subject) -> Damage | None:
    section = subject.device()
    end = subject.section_end(section)
    copy = subject.bytes_at(section.offset, end)
    return Damage((Edit(end, 0, copy),), DamagePlace("doubled device", end, end + len(copy)))


def _patch(subject: Subject, section: Section, at: int, data: bytes) -> Damage:
    return Damage((Edit(at, len(data), data),), subject.section_place(section))


@LAYOUT.fault("A device's footer has another section's number.")
def _footer_number(subject: Subject) -> Damage | None:
    section = subject.device()
    at = section.data_end + 4
    flipped = bytes([subject.bytes_at(at, at + 1)[0] ^ 0x40])
    return _patch(subject, section, at, flipped) if subject.index.footers else None


@LAYOUT.fault("A device's footer lacks its type byte.")
def _footer_type(subject: Subject) -> Damage | None:
    section = subject.device()
    return _patch(subject, section, section.data_end, b"\x11") if subject.index.footers else None


@LAYOUT.fault("A RAM section's footer has another section's number.")
def _ram_footer(subject: Subject) -> Damage | None:
    ram = [section for section in subject.index.sections if section.is_ram]
    if not ram or not subject.index.footers:
        return None
    section = ram[subject.pick(len(ram))]
    flipped = bytes([subject.bytes_at(section.data_end + 4, section.data_end + 5)[0] ^ 0x40])
    place = DamagePlace("footer of RAM", section.data_end, section.data_end + 5)
    return Damage((Edit(section.data_end + 4, 1, flipped),), place)


@LAYOUT.fault("A device's section has a type that does not exist.")
def _section_type(subject: Subject) -> Damage | None:
    section = subject.device()
    return _patch(subject, section, section.offset, b"\x33")


@LAYOUT.fault("A device's section has another version number.")
def _device_version(subject: Subject) -> Damage | None:
    section = subject.device()
    version = (section.version + 1).to_bytes(4, "big")
    return _patch(subject, section, section.data_offset - 4, version)


@LAYOUT.fault("A device's section has another name.")
def _device_renamed(subject: Subject) -> Damage | None:
    section = subject.device()
    at = section.offset + 6
    return _patch(subject, section, at, bytes([subject.bytes_at(at, at + 1)[0] ^ 1]))


@LAYOUT.fault("A device has eight bytes of state too few.")
def _device_shortened(subject: Subject) -> Damage | None:
    section = max(subject.index.devices, key=lambda device: device.data_end - device.data_offset)
    at = (section.data_offset + section.data_end) // 2
    return Damage((Edit(at, 8, b""),), subject.section_place(section))


@LAYOUT.fault(
    "A bit of the first vCPU's page table address or program counter is flipped.", blind=_RESTORE_ONLY
)
def _vcpu_bit_flip(subject: Subject) -> Damage | None:
    # A guest needs it for its next instruction, so none survives.
    found = _vital_bit(subject)
    if found is None:
        return None
    section, at, mask = found
    return _patch(subject, section, at, bytes([subject.bytes_at(at, at + 1)[0] ^ mask]))


@LAYOUT.fault("One bit of a device's state is flipped, which the guest may never read.", uncovered=_NO_ORACLE)
def _device_bit_flip(subject: Subject) -> Damage | None:
    section = subject.device()
    at = section.data_offset + subject.pick(max(1, section.data_end - section.data_offset))
    return _patch(subject, section, at, bytes([subject.bytes_at(at, at + 1)[0] ^ 1 << subject.pick(8)]))


def _vital_bit(subject: Subject) -> tuple[Section, int, int] | None:
    """Return section, file offset and mask of a bit that no guest survives; None without a known vCPU."""
    devices = subject.index.vmdesc.content.get("devices", []) if subject.index.vmdesc else []
    for section in subject.index.devices:
        described: dict[str, Any] = next(
            (d for d in devices if (d["name"], d["instance_id"]) == (section.idstr, section.instance)), {}
        )
        for name, bit in _VITAL_FIELDS:
            place = _field_offset(described, name) if section.idstr == "cpu" else None
            if place is not None:
                # Fields are big-endian 64-bit numbers.
                return section, section.data_offset + place + 7 - bit // 8, 1 << bit % 8
    return None


def _field_offset(device: dict[str, Any], name: str) -> int | None:
    """Return the bytes before a field of a device (not of a subsection), None if it has no such field."""
    offset = 0
    for entry in device.get("fields", []):
        if entry.get("name") == name:
            return offset
        offset += field_length(entry) or 0
    return None


@LAYOUT.fault("The machine type has another name.", blind=_RESTORE_ONLY)
def _machine_renamed(subject: Subject) -> Damage | None:
    name = subject.index.configuration.machine
    if not name:
        return None
    at = subject.index.start + 13 + len(name) - 1
    place = DamagePlace("configuration", subject.index.start + 8, at + 1)
    return Damage((Edit(at, 1, bytes([subject.bytes_at(at, at + 1)[0] ^ 1])),), place)


@LAYOUT.fault("The list of RAMBlocks gives one a page too many.")
def _block_longer(subject: Subject) -> Damage | None:
    return _block_length(subject, subject.index.page_size)


@LAYOUT.fault("The list of RAMBlocks gives one a page too few.")
def _block_shorter(subject: Subject) -> Damage | None:
    return _block_length(subject, -subject.index.page_size)


def _block_length(subject: Subject, change: int) -> Damage:
    _, block = subject.main_block()
    at = block.list_offset + 1 + len(block.idstr)
    last = subject.index.blocks[-1].list_offset
    place = DamagePlace(
        "block list",
        subject.index.blocks[0].list_offset - 8,
        last + 64 + 2 * subject.index.page_size,
        block.idstr,
    )
    return Damage((Edit(at, 8, (block.used_length + change).to_bytes(8, "big")),), place)


@LAYOUT.fault("The end marker is another byte.")
def _end_marker_altered(subject: Subject) -> Damage | None:
    at = subject.index.end_marker
    return None if at is None else Damage((Edit(at, 1, b"\x44"),), DamagePlace("end marker", at, at + 1))


def _rewrite_vmdesc(subject: Subject, vmdesc: Vmdesc, content: Any) -> Damage:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    edit = Edit(vmdesc.offset + 1, 4 + vmdesc.length, len(text).to_bytes(4, "big") + text)
    sections = subject.index.devices
    start = sections[0].offset if sections else vmdesc.offset
    return Damage((edit,), DamagePlace("vmdesc", start, vmdesc.offset + 5 + len(text)))


def _altered_devices(subject: Subject) -> tuple[Vmdesc, dict[str, Any], dict[str, Any]] | None:
    vmdesc = subject.index.vmdesc
    if vmdesc is None or not vmdesc.content.get("devices"):
        return None
    content = json.loads(json.dumps(vmdesc.content))
    return vmdesc, content, content["devices"][subject.pick(len(content["devices"]))]


@LAYOUT.fault("The vmdesc names a device that is not in the stream.")
def _vmdesc_extra(subject: Subject) -> Damage | None:
    altered = _altered_devices(subject)
    if altered is None:
        return None
    vmdesc, content, device = altered
    content["devices"].append({**device, "name": "nowhere"})
    return _rewrite_vmdesc(subject, vmdesc, content)


@LAYOUT.fault("The vmdesc leaves a device out.")
def _vmdesc_missing(subject: Subject) -> Damage | None:
    altered = _altered_devices(subject)
    if altered is None:
        return None
    vmdesc, content, device = altered
    content["devices"].remove(device)
    return _rewrite_vmdesc(subject, vmdesc, content)


@LAYOUT.fault("The vmdesc gives a field another size.")
def _vmdesc_size(subject: Subject) -> Damage | None:
    altered = _altered_devices(subject)
    if altered is None:
        return None
    vmdesc, content, device = altered
    device["fields"].append({"name": "nothing", "type": "uint8", "size": 1})
    return _rewrite_vmdesc(subject, vmdesc, content)


@LAYOUT.fault("The vmdesc is not valid JSON.")
def _vmdesc_broken(subject: Subject) -> Damage | None:
    vmdesc = subject.index.vmdesc
    if vmdesc is None:
        return None
    start = vmdesc.offset + 5
    text = subject.bytes_at(start, start + vmdesc.length)
    return _rewrite_vmdesc(subject, vmdesc, text[:-20] + b"}" * 20)
