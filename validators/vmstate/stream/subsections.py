"""Compares the subsections in device state with their description in the vmdesc.

QEMU 10.0 migration/vmstate.c, vmstate_subsection_load(): a subsection is found by its type byte and name and
refused for a version above its own. Otherwise its bytes are taken for what follows. QEMU writes stream and
vmdesc in one go, so each subsection is where the vmdesc has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.codes import Code
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.index import Section, Vmdesc
from validators.vmstate.stream.source import Source
from validators.vmstate.stream.vmdesc import described_length, device_key, field_length

_DEPTH = 32
# Bounds for a hostile file: steps and bytes of state for all devices together.
_MAX_STEPS = 1 << 18
_MAX_BYTES = 64 << 20
_HEAD_BYTES = 2
_VERSION_BYTES = 4


@dataclass(frozen=True)
class DescribedSubsection:
    """A described subsection.

    Attributes:
        offset: byte offset of its type byte in the device's state.
        name: its name in QEMU.
        version: its version, None if the description does not say.
    """

    offset: int
    name: bytes
    version: int | None


class DeviceBytes:
    """The state of the devices until the vmdesc, the last element, says what is in it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held: dict[int, bytes] = {}
        self._left = _MAX_BYTES
        self._finder = SubsectionFinder()

    def hold(self, section: Section) -> None:
        """Keep the state of a device if its source cannot be read again."""
        length = section.data_end - section.data_offset
        if section.kind == fmt.FULL and not self._source.seekable and length <= self._left:
            self._left -= length
            self._held[section.offset] = self._source.read(section.data_offset, length)

    def judge(self, sections: Sequence[Section], vmdesc: Vmdesc, collector: Collector) -> None:
        """Note each subsection that is not where it is described, or has another version."""
        described = {device_key(device): device for device in vmdesc.content.get("devices", [])}
        for section in sections:
            device = described.get((section.idstr, section.instance))
            if section.kind != fmt.FULL or device is None:
                continue
            places = self._finder.find(device)
            # A device of another size than described is reported, and its subsections cannot be found.
            if places and described_length(device) == section.data_end - section.data_offset:
                _compare(section, places, self._read(section), collector)

    def _read(self, section: Section) -> bytes:
        """Return the state of a device, b"" if it was not kept."""
        length = section.data_end - section.data_offset
        if not self._source.seekable:
            return self._held.get(section.offset, b"")
        if length > self._left:
            return b""
        self._left -= length
        return self._source.read(section.data_offset, length)


def _compare(
    section: Section, places: Sequence[DescribedSubsection], raw: bytes, collector: Collector
) -> None:
    if not raw:
        return
    for place in places:
        behind = place.offset + _HEAD_BYTES + len(place.name)
        head = bytes([fmt.SUBSECTION, len(place.name) & 0xFF]) + place.name
        name = readable(place.name)
        offset = section.data_offset + place.offset
        if raw[place.offset : behind] != head:
            collector.anomaly(
                Code.VMDESC_SUBSECTION,
                f"Device '{section.idstr}' ({section.instance}) has no subsection '{name}' at offset "
                f"{offset}, where it is described.",
                offset,
            )
            continue
        version = int.from_bytes(raw[behind : behind + _VERSION_BYTES], "big")
        if place.version not in (None, version):
            collector.anomaly(
                Code.VMDESC_SUBSECTION_VERSION,
                f"Subsection '{name}' of device '{section.idstr}' ({section.instance}) has version "
                f"{version}, but version {place.version} is described.",
                offset,
            )


class SubsectionFinder:
    """Adds up the lengths in descriptions, and notes where subsections are."""

    def __init__(self) -> None:
        self._found: list[DescribedSubsection] = []
        self._steps = _MAX_STEPS

    def find(self, device: Mapping[str, Any]) -> list[DescribedSubsection]:
        """Return the described subsections of a device, none if its description contradicts itself."""
        self._found = []
        return self._found if self._struct(device, 0, _DEPTH) is not None else []

    def versions(
        self, source: Source, section: Section, device: Mapping[str, Any] | None
    ) -> Iterator[tuple[str, int]]:
        """Yield name and version of each described subsection, as they are in the stream."""
        for place in self.find(device) if device is not None else ():
            start = section.data_offset + place.offset + _HEAD_BYTES
            raw = source.read(start, len(place.name) + _VERSION_BYTES)
            yield readable(raw[:-_VERSION_BYTES]), int.from_bytes(raw[-_VERSION_BYTES:], "big")

    def _struct(self, description: Mapping[str, Any], at: int, depth: int) -> int | None:
        """Return the offset behind a struct that begins at `at`; None if that cannot be said."""
        fields, subsections = description.get("fields"), description.get("subsections", [])
        if depth == 0 or not isinstance(fields, list) or not isinstance(subsections, list):
            return None
        for entry in fields:
            length = field_length(entry)
            if length is None or not self._field(entry, at, depth):
                return None
            at += length
        for entry in subsections:
            behind = self._subsection(entry, at, depth)
            if behind is None:
                return None
            at = behind
        return at

    def _step(self) -> bool:
        """Count a step; False if more are needed than allowed."""
        self._steps -= 1
        return self._steps >= 0

    def _field(self, entry: Mapping[str, Any], at: int, depth: int) -> bool:
        """Walk through a field that may be a struct; False if more steps are needed than allowed."""
        struct = entry.get("struct")
        if isinstance(struct, dict):
            for number in range(entry.get("array_len", 1)):
                if not self._step():
                    return False
                start = at + number * entry["size"]
                kept = len(self._found)
                if self._struct(struct, start, depth - 1) != start + entry["size"]:
                    # Where its subsections are cannot be said; what follows the field can.
                    del self._found[kept:]
                elif len(self._found) == kept:
                    break  # no subsections in it, so none in the other elements of the array
        return self._step()

    def _subsection(self, entry: Any, at: int, depth: int) -> int | None:
        if not self._step() or not isinstance(entry, dict) or not isinstance(entry.get("vmsd_name"), str):
            return None
        name = entry["vmsd_name"].encode(errors="replace")
        version = entry.get("version")
        self._found.append(DescribedSubsection(at, name, version if isinstance(version, int) else None))
        return self._struct(entry, at + _HEAD_BYTES + len(name) + _VERSION_BYTES, depth - 1)
