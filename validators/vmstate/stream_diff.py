"""Compares what two vmstate streams are made of: configuration, commands, sections and subsections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.source import FileSource
from validators.vmstate.stream.subsections import SubsectionFinder
from validators.vmstate.stream.vmdesc import device_key

_MAPPED_RAM = "mapped-ram"
# Pages are compared by their content, which shows none of this.
_PAGE_RULES = ("zero-fill", "duplicate", "page-flags", "page-outside-block", "unknown-block")
_CAPABILITIES = "configuration/capabilities"


@dataclass(frozen=True)
class FieldChange:
    """A value that differs.

    Attributes:
        path: what it is of, such as "timer (0).cpu_clock_offset".
        before: its value in the first file, None if it is not there.
        after: its value in the second file, None if it is not there.
    """

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Stream:
    """One side of a comparison: a file and its index."""

    source: FileSource
    index: SnapshotIndex


def stream_changes(first: Stream, second: Stream) -> Iterator[FieldChange]:
    """Yield what differs between the streams besides pages and device fields.

    The layout is none of it: a mapped-ram file may be of the same guest as a plain stream. Nor is the number
    of parts that RAM is in.
    """
    before, after = (_values(stream) for stream in (first, second))
    if first.index.configuration.present and second.index.configuration.present:
        before, after = _configuration(first) | before, _configuration(second) | after
    for path in [*before, *(path for path in after if path not in before)]:
        if before.get(path) != after.get(path):
            yield FieldChange(path, before.get(path), after.get(path))
    orders = [[path for path in values if path.startswith("section ")] for values in (before, after)]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        yield FieldChange("order of the sections", *orders)


def _configuration(stream: Stream) -> dict[str, Any]:
    configuration = stream.index.configuration
    return {
        "machine": configuration.machine,
        "capabilities": sorted(set(configuration.capabilities) - {_MAPPED_RAM}),
        "target page bits": configuration.page_bits,
        "UUID": configuration.uuid.hex() if configuration.uuid else None,
        "configuration subsections": sorted(set(configuration.subsections) - {_CAPABILITIES}),
    }


def _values(stream: Stream) -> dict[str, Any]:
    index = stream.index
    values: dict[str, Any] = {"configuration": "present" if index.configuration.present else None}
    values["section footers"] = index.footers
    values["commands"] = [f"{command.name} ({command.length} bytes)" for command in index.commands]
    for section in index.sections:
        version = f"version {section.version}"
        values.setdefault(f"section {section.idstr} ({section.instance})", version)
    values |= _broken_rules(index)
    return values | _subsection_versions(stream)


def _broken_rules(index: SnapshotIndex) -> dict[str, Any]:
    """Return how often each rule of page records is broken, and the bytes behind the end of the stream.

    An ordinary save may have a page twice, of which the later one counts.
    """
    values: dict[str, Any] = {
        f"broken rule {rule}": index.anomaly_counts[rule]
        for rule in _PAGE_RULES
        if index.anomaly_counts.get(rule) and (rule != "duplicate" or index.flow == "background")
    }
    if index.ends_file and index.file_size is not None:
        left = index.file_size - index.end - index.padding
        values["bytes behind the end"] = left or None
    return values


def _subsection_versions(stream: Stream) -> dict[str, Any]:
    """Return the version that each subsection has in the stream, by device and name."""
    vmdesc, finder, values = stream.index.vmdesc, SubsectionFinder(), {}
    described = {device_key(one): one for one in vmdesc.content.get("devices", [])} if vmdesc else {}
    for section in stream.index.devices:
        device = described.get((section.idstr, section.instance))
        for number, (name, version) in enumerate(finder.versions(stream.source, section, device)):
            values[f"subsection {number} of {section.idstr} ({section.instance})"] = (
                f"{name}, version {version}"
            )
    return values
