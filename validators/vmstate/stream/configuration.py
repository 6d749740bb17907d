"""Reads the configuration section: machine type, capabilities, target page size, UUID.

QEMU 6.0 to 11.0 migration/savevm.c, vmstate_configuration and its subsections.
"""

from __future__ import annotations

from harness.codes import Code
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.cursor import Cursor, readable
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Configuration

_MAX_SUBSECTIONS = 16


def read_configuration(cursor: Cursor, collector: Collector) -> Configuration:
    """Read the section behind its type byte; note in the collector what QEMU would refuse.

    Raises:
        StreamError: it is cut off, or has content that no QEMU writes.
    """
    offset = cursor.position
    length = cursor.unsigned(4, "the machine name")
    if not 0 < length <= fmt.MAX_MACHINE_NAME:
        raise StreamError(
            Code.CONFIGURATION_MACHINE,
            f"The machine name has {length} bytes by its header, which no machine's has.",
            offset,
        )
    raw = cursor.take(length, "the machine name")
    machine = readable(raw)
    if not all(32 < byte < 127 for byte in raw):
        # QEMU finds no machine by it: names of machine types are words of ASCII.
        collector.anomaly(
            Code.CONFIGURATION_MACHINE,
            f"The machine name '{machine}' has a byte that no machine's name has.",
            offset,
        )
    bits: int | None = None
    uuid: bytes | None = None
    capabilities: tuple[str, ...] = ()
    names: list[str] = []
    while cursor.peek(1) == bytes([fmt.SUBSECTION]):
        offset = cursor.position
        cursor.take(1, "a configuration subsection")
        name = cursor.name("a configuration subsection's name")
        version = cursor.unsigned(4, "a configuration subsection")
        if version != fmt.CONFIGURATION_SUBSECTION_VERSION:
            collector.anomaly(
                Code.CONFIGURATION_SUBSECTION_VERSION,
                f"The subsection '{name}' has version {version}; QEMU takes "
                f"{fmt.CONFIGURATION_SUBSECTION_VERSION}.",
                offset,
            )
        names.append(name)
        if name == "configuration/target-page-bits":
            bits = _page_bits(cursor)
        elif name == "configuration/capabilities":
            capabilities = _capabilities(cursor, collector)
        elif name == "configuration/uuid":
            uuid = cursor.take(16, "the UUID")
        else:
            raise StreamError(
                Code.CONFIGURATION_SUBSECTION,
                f"The configuration has the unknown subsection '{name}'.",
                offset,
            )
        if len(names) > _MAX_SUBSECTIONS:
            raise StreamError(
                Code.CONFIGURATION_SUBSECTIONS,
                f"The configuration has more than {_MAX_SUBSECTIONS} subsections.",
                offset,
            )
    return Configuration(True, machine, capabilities, bits, uuid, tuple(names))


def _page_bits(cursor: Cursor) -> int:
    offset = cursor.position
    bits = cursor.unsigned(4, "the target page bits")
    if not fmt.MIN_PAGE_BITS <= bits <= fmt.MAX_PAGE_BITS:
        raise StreamError(
            Code.CONFIGURATION_PAGE_BITS,
            f"A target page has 2**{bits} bytes by the configuration, which is not possible.",
            offset,
        )
    return bits


def _capabilities(cursor: Cursor, collector: Collector) -> tuple[str, ...]:
    offset = cursor.position
    count = cursor.unsigned(4, "the capabilities")
    if count > fmt.MAX_CAPABILITIES:
        raise StreamError(
            Code.CONFIGURATION_CAPABILITIES,
            f"The configuration announces {count} capabilities, more than QEMU has.",
            offset,
        )
    names = []
    for _ in range(count):
        place = cursor.position
        names.append(cursor.name("a capability"))
        if names[-1] not in fmt.CAPABILITIES:
            collector.anomaly(
                Code.CONFIGURATION_CAPABILITY,
                f"The configuration has the capability '{names[-1]}', which QEMU does not know.",
                place,
            )
    return tuple(names)
