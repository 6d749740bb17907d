"""Faults around the pages that QEMU's loader refuses, or that no background snapshot has."""

from __future__ import annotations

from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, DamagePlace, Edit, Subject
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.index import Section
from validators.vmstate.stream.subsections import DescribedSubsection, SubsectionFinder
from validators.vmstate.stream.vmdesc import device_key

LOADER = Catalogue()
_HEADER_BYTES = 8


def _configuration(subject: Subject) -> tuple[int, int] | None:
    """Return start and end of the configuration; None where it has none or nothing may be moved."""
    index = subject.index
    if not index.configuration.present or not index.footers or not subject.plain:
        return None
    follower = min([index.sections[0].offset, *(command.offset for command in index.commands)])
    return index.start + _HEADER_BYTES, follower


@LOADER.fault("The stream has no configuration.")
def _configuration_dropped(subject: Subject) -> Damage | None:
    found = _configuration(subject)
    if found is None:
        return None
    start, end = found
    return Damage((Edit(start, end - start, b""),), DamagePlace("configuration", start - _HEADER_BYTES, end))


@LOADER.fault("The stream has its configuration twice.")
def _configuration_doubled(subject: Subject) -> Damage | None:
    found = _configuration(subject)
    if found is None:
        return None
    start, end = found
    place = DamagePlace("configuration", end, 2 * end - start)
    return Damage((Edit(end, 0, subject.bytes_at(start, end)),), place)


def _configuration_extra(subject: Subject, version: int, capability: bytes) -> Damage | None:
    found = _configuration(subject)
    if found is None or "configuration/capabilities" in subject.index.configuration.subsections:
        return None
    name = b"configuration/capabilities"
    data = bytes([fmt.SUBSECTION, len(name)]) + name + version.to_bytes(4, "big")
    data += (1).to_bytes(4, "big") + bytes([len(capability)]) + capability
    place = DamagePlace("configuration", found[1], found[1] + len(data))
    return Damage((Edit(found[1], 0, data),), place)


@LOADER.fault("The configuration has a capability with a name that QEMU does not know.")
def _capability_unknown(subject: Subject) -> Damage | None:
    return _configuration_extra(subject, 1, b"napped-ram")


@LOADER.fault("A subsection of the configuration has another version.")
def _configuration_version(subject: Subject) -> Damage | None:
    return _configuration_extra(subject, 2, b"events")


def _command(subject: Subject, number: int, content: bytes) -> Damage | None:
    """Put a command before the first device, where nothing behind it has a fixed place."""
    if not subject.index.devices:
        return None
    at = subject.index.devices[0].offset
    data = bytes([fmt.COMMAND]) + number.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content
    return Damage((Edit(at, 0, data),), DamagePlace(f"command {number}", at, at + len(data)))


@LOADER.fault("A PING is in the file, and nothing to answer it with.")
def _command_ping(subject: Subject) -> Damage | None:
    return _command(subject, fmt.COMMAND_PING, bytes(4))


@LOADER.fault("A POSTCOPY_RUN is in the file.")
def _command_postcopy_run(subject: Subject) -> Damage | None:
    return _command(subject, 5, b"")


@LOADER.fault("A PACKAGED is in the file.")
def _command_packaged(subject: Subject) -> Damage | None:
    return _command(subject, 7, bytes(4))


@LOADER.fault("An OPEN_RETURN_PATH has content.")
def _command_return_path(subject: Subject) -> Damage | None:
    return _command(subject, fmt.COMMAND_OPEN_RETURN_PATH, b"\1")


@LOADER.fault("A SWITCHOVER_START has content.")
def _command_too_long(subject: Subject) -> Damage | None:
    return _command(subject, 11, bytes(4))


@LOADER.fault("The RAM section has an instance that does not exist.")
def _ram_instance(subject: Subject) -> Damage | None:
    ram = next((section for section in subject.index.sections if section.is_ram), None)
    if ram is None:
        return None
    edit = Edit(ram.data_offset - 8, 4, (5).to_bytes(4, "big"))
    return Damage((edit,), subject.section_place(ram))


@LOADER.fault("State besides RAM was saved in parts while the guest ran.")
def _iterable_state(subject: Subject) -> Damage | None:
    index = subject.index
    if index.flow != "background" or not index.devices or not index.footers:
        return None
    at, number = index.devices[0].offset, (0x5150).to_bytes(4, "big")
    name, footer = b"spapr/htab", bytes([fmt.FOOTER]) + number
    data = bytes([fmt.START]) + number + bytes([len(name)]) + name + bytes(4) + (1).to_bytes(4, "big")
    data += (20).to_bytes(4, "big") + footer
    data += bytes([fmt.PART]) + number + bytes(4) + subject.random.bytes(64) + bytes(8) + footer
    return Damage((Edit(at, 0, data),), DamagePlace("iterable state", at, at + len(data)))


@LOADER.fault("A RAMBlock in the list has no name.")
def _block_unnamed(subject: Subject) -> Damage | None:
    if not subject.plain:
        return None
    block = subject.index.blocks[-1]
    start, end = block.list_offset, block.list_offset + 1 + len(block.idstr)
    return Damage((Edit(start, end - start, b"\0"),), DamagePlace("block list", start, end))


def _subsection(subject: Subject) -> tuple[Section, DescribedSubsection] | None:
    """Pick a random subsection of a device."""
    finder, sections = SubsectionFinder(), {(one.idstr, one.instance): one for one in subject.index.devices}
    devices = subject.index.vmdesc.content.get("devices", []) if subject.index.vmdesc else []
    found = [
        (sections[device_key(device)], subsection)
        for device in devices
        if device_key(device) in sections
        for subsection in finder.find(device)
    ]
    return found[subject.pick(len(found))] if found else None


def _subsection_edit(subject: Subject, inside: int) -> Damage | None:
    """Flip a bit of the byte at `inside` of a subsection; negative for its version, behind the name."""
    picked = _subsection(subject)
    if picked is None:
        return None
    section, subsection = picked
    at = section.data_offset + subsection.offset
    at += inside if inside >= 0 else 2 + len(subsection.name) + 3
    flipped = bytes([subject.bytes_at(at, at + 1)[0] ^ 1])
    return Damage((Edit(at, 1, flipped),), subject.section_place(section))


@LOADER.fault("A subsection has another type byte.")
def _subsection_type(subject: Subject) -> Damage | None:
    return _subsection_edit(subject, 0)


@LOADER.fault("A subsection has another name.")
def _subsection_renamed(subject: Subject) -> Damage | None:
    return _subsection_edit(subject, 2)


@LOADER.fault("A subsection has another version.")
def _subsection_version(subject: Subject) -> Damage | None:
    return _subsection_edit(subject, -1)
