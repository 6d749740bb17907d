"""Reads from the state of a PC's clock how much RAM QEMU told the firmware: below and above 4 GiB."""

from __future__ import annotations

from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.source import Source

# QEMU 10.0 hw/rtc/mc146818rtc.c vmstate_rtc: the first field is cmos_data.
_DEVICE, _CMOS_BYTES = "mc146818rtc", 128
# QEMU 10.0 hw/i386/pc.c pc_cmos_init(), and hw/i386/microvm.c: in units of 64 KiB, what is between 16 MiB and
# 4 GiB, up to 65535 units, and what is above.
_BETWEEN, _ABOVE = slice(0x34, 0x36), slice(0x5B, 0x5E)
_UNIT, _FROM = 64 << 10, 16 << 20


def agrees_with_cmos(source: Source, index: SnapshotIndex, below: int, above: int) -> bool | None:
    """Tell whether the CMOS has that many bytes of RAM below and above 4 GiB, None if there is no CMOS."""
    for section in index.devices:
        if section.idstr == _DEVICE and section.data_end - section.data_offset >= _CMOS_BYTES:
            cmos = source.read(section.data_offset, _CMOS_BYTES)
            found = [int.from_bytes(cmos[place], "little") for place in (_BETWEEN, _ABOVE)]
            return found == [max(0, below - _FROM) // _UNIT, above // _UNIT & 0xFFFFFF]
    return None
