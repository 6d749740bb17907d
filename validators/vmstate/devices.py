"""Judges device state by the vmdesc, and decodes it into named fields.

The layout of fields is that of QEMU 10.0 migration/vmstate.c, vmstate_save_state_v().
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.codes import Code
from validators.verdict import CheckResult, Tally, Violation
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Section, SnapshotIndex
from validators.vmstate.stream.source import Source
from validators.vmstate.stream.vmdesc import described_length, device_key, field_length

Value = Any  # a JSON value: dict, list, int, bool or str

_DEPTH = 32
# Bounds on the decoded state of all devices together.
_MAX_ELEMENTS = 1 << 20
_MAX_BYTES = 64 << 20


def judge_devices(index: SnapshotIndex) -> CheckResult:
    """Check that the vmdesc names the device sections of the stream, with their sizes, in their order."""
    tally = Tally("vmdesc", "The vmdesc names exactly the device sections there are, with their sizes.")
    for anomaly in (*index.anomalies, *([index.damage] if index.damage else [])):
        if anomaly.check == tally.name:
            tally.report(anomaly.code, anomaly.sentence, file_offset=anomaly.offset)
    if index.damage is not None:
        return tally.skip("The reading stopped before the vmdesc.")
    if index.vmdesc is None and not (index.footers or index.configuration.present):
        return tally.skip(
            "There is none, and no footers: a machine type of QEMU 2.0 to 2.2 wrote the file, or it was cut, "
            "which only restoring it can show."
        )
    if index.vmdesc is None:
        tally.report(Code.VMDESC_ABSENT, "No vmdesc follows the end marker.", file_offset=index.end)
        return tally.result()
    if index.vmdesc.problem:
        tally.report(
            Code.VMDESC_UNUSABLE,
            f"The vmdesc cannot be used: {index.vmdesc.problem}.",
            file_offset=index.vmdesc.offset,
        )
        return tally.result()
    _compare_devices(index, tally)
    tally.facts["devices"] = len(index.devices)
    return tally.result()


def _compare_devices(index: SnapshotIndex, tally: Tally) -> None:
    assert index.vmdesc is not None
    described = index.vmdesc.content["devices"]
    by_key = {device_key(device): device for device in described}
    present = {(section.idstr, section.instance) for section in index.devices}
    for key in by_key:
        if key not in present:
            tally.report(
                Code.VMDESC_DEVICE_ABSENT,
                f"Device '{key[0]}' ({key[1]}) is described, but not in the stream.",
                file_offset=index.vmdesc.offset,
            )
    for section in index.devices:
        device = by_key.get((section.idstr, section.instance))
        if device is None:
            tally.report(
                Code.VMDESC_DEVICE_UNDESCRIBED,
                f"Device '{section.idstr}' ({section.instance}) is not described.",
                file_offset=section.offset,
            )
        else:
            _compare_device(section, device, tally)
    if not tally.total:
        _compare_order([device_key(device) for device in described], index.devices, tally)


def _compare_order(described: list[tuple[str, int]], sections: Sequence[Section], tally: Tally) -> None:
    for key, section in zip(described, sections, strict=False):
        if key != (section.idstr, section.instance):
            tally.report(
                Code.VMDESC_DEVICE_ORDER,
                f"Device '{section.idstr}' ({section.instance}) is in the stream where "
                f"'{key[0]}' ({key[1]}) is described.",
                file_offset=section.offset,
            )
            return
    if len(described) != len(sections):
        tally.report(
            Code.VMDESC_DEVICE_COUNT,
            f"{len(described)} devices are described, {len(sections)} are in the stream.",
        )


def _compare_device(section: Section, device: Mapping[str, Any], tally: Tally) -> None:
    length = described_length(device)
    actual = section.data_end - section.data_offset
    if length != actual:
        sentence = (
            f"Device '{section.idstr}' ({section.instance}) has {actual} bytes of state, "
            f"but {'a malformed description' if length is None else f'{length} bytes are described'}."
        )
        code, where, fields = Code.VMDESC_DEVICE_SIZE, section.data_offset, {"device": section.idstr}
        tally.add(Violation(tally.name, code, sentence, file_offset=where, fields=fields))
    version = device.get("version", section.version)
    if not isinstance(version, int):
        version = "unknown"
    if version != section.version:
        tally.report(
            Code.VMDESC_DEVICE_VERSION,
            f"Device '{section.idstr}' ({section.instance}) has version {section.version}, "
            f"but version {version} is described.",
            file_offset=section.offset,
        )


def decode_devices(source: Source, index: SnapshotIndex) -> dict[str, Value]:
    """Decode the state of every device.

    Returns:
        By "name (instance)" the fields by name: int, bool, hexadecimal text, list for arrays, dict for
        structs and subsections. {"raw": hex} for a device without a description, and {"error": sentence,
        "raw": hex} for one whose bytes do not fit it.
    """
    described = index.vmdesc.content["devices"] if index.vmdesc and index.vmdesc.content else []
    by_key = {device_key(device): device for device in described}
    result: dict[str, Value] = {}
    bytes_left, elements_left = _MAX_BYTES, _MAX_ELEMENTS
    for section in index.devices:
        name, length = f"{section.idstr} ({section.instance})", section.data_end - section.data_offset
        if length > bytes_left:
            result[name] = {"error": f"The devices have more than {_MAX_BYTES >> 20} MiB of state."}
            continue
        bytes_left -= length
        raw = source.read(section.data_offset, length)
        decoder = _Decoder(raw, section.data_offset, elements_left)
        result[name] = _decode_one(decoder, raw, by_key.get((section.idstr, section.instance)))
        elements_left = decoder.left
    return result


def _decode_one(decoder: _Decoder, raw: bytes, device: Mapping[str, Any] | None) -> Value:
    if device is None:
        return {"raw": raw.hex()}
    try:
        return decoder.struct(device, _DEPTH)
    except StreamError as error:
        return {"error": error.sentence, "raw": raw.hex()}


class _Decoder:
    """Decodes the bytes of one device."""

    def __init__(self, raw: bytes, offset: int, left: int) -> None:
        self._raw = raw
        self._offset = offset
        self._at = 0
        self.left = left

    def _error(self, sentence: str) -> StreamError:
        return StreamError(Code.VMDESC_UNDECODABLE, sentence, self._offset + self._at)

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._raw):
            raise self._error("The description goes beyond the end of the section.")
        self._at += count
        return self._raw[self._at - count : self._at]

    def struct(self, description: Mapping[str, Any], depth: int) -> dict[str, Value]:
        """Decode the fields and subsections of one struct."""
        fields, subsections = description.get("fields"), description.get("subsections", [])
        if depth == 0 or not isinstance(fields, list) or not isinstance(subsections, list):
            raise self._error("The description has no list of fields.")
        result: dict[str, Value] = {}
        for entry in fields:
            self._field(entry, depth, result)
        for entry in subsections:
            self._subsection(entry, depth, result)
        return result

    def _field(self, entry: Any, depth: int, result: dict[str, Value]) -> None:
        length = field_length(entry)
        if length is None or not isinstance(entry.get("name"), str):
            raise self._error("The description of a field has no name or size.")
        count, size = entry.get("array_len", 1), entry["size"]
        if length > len(self._raw) - self._at:
            raise self._error("The description goes beyond the end of the section.")
        if count > self.left:
            raise self._error("The devices have too many fields.")
        self.left -= count
        values = [self._value(entry, size, depth) for _ in range(count)]
        _store(result, entry, values)

    def _value(self, entry: Mapping[str, Any], size: int, depth: int) -> Value:
        if isinstance(entry.get("struct"), dict):
            before = self._at
            value = self.struct(entry["struct"], depth - 1)
            if self._at - before != size:
                raise self._error("A struct has another size than in its description.")
            return value
        raw = self._take(size)
        kind = entry.get("type")
        if kind == "bool":
            return any(raw)
        if isinstance(kind, str) and kind.startswith("uint") and size <= 8:
            return int.from_bytes(raw, "little" if kind.endswith(" le") else "big")
        if isinstance(kind, str) and kind.startswith("int") and size <= 8:
            return int.from_bytes(raw, "little" if kind.endswith(" le") else "big", signed=True)
        return raw.hex()

    def _subsection(self, entry: Any, depth: int, result: dict[str, Value]) -> None:
        if not isinstance(entry, dict) or not isinstance(entry.get("vmsd_name"), str):
            raise self._error("The description of a subsection has no name.")
        head = self._take(2)
        name = self._take(head[1])
        self._take(4)
        if head[0] != fmt.SUBSECTION or name != entry["vmsd_name"].encode(errors="replace"):
            raise self._error(
                f"Subsection '{readable(entry['vmsd_name'].encode(errors='replace'))}' is not where it is "
                "described."
            )
        result[readable(name)] = self.struct(entry, depth - 1)


def _store(result: dict[str, Value], entry: Mapping[str, Any], values: list[Value]) -> None:
    """Put values under the field's name; fields of one name make one list, since QEMU splits arrays."""
    name = readable(entry["name"].encode(errors="replace"))
    is_array = "array_len" in entry or "index" in entry
    if name in result and isinstance(result[name], list):
        result[name].extend(values)
    elif name in result:
        result[name] = [result[name], *values]
    elif is_array:
        result[name] = values
    elif values:
        result[name] = values[0]
