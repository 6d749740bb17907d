"""Finds out which memory of a virtio-mem device is plugged in, from the device's state in the file.

QEMU 6.2 and later do not save memory that is not plugged in (migration/ram.c
ramblock_dirty_bitmap_clear_discarded_pages()).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from validators.vmstate.stream.index import Block, Section, SnapshotIndex
from validators.vmstate.stream.source import Source

# QEMU 10.0 hw/virtio/virtio-mem.c: one of these names follows the device's path, the first one since 8.1.
_STATES = ("/virtio-mem-device-early", "/virtio-mem")
_LEAST_BLOCK_BYTES = 1 << 20
_WORD = 8

Plugged = npt.NDArray[np.bool_]
Unplugged = Mapping[int, npt.NDArray[np.bool_]]
"""By position of a RAMBlock in the index: bool[pages], True where the page is not plugged in."""


def is_early_state(section: Section) -> bool:
    """Whether a section is virtio-mem state that QEMU writes before the first page."""
    return section.idstr.endswith(_STATES[0])


def has_virtio_mem(index: SnapshotIndex) -> bool:
    """Whether the stream has a device that may have left out some of its memory."""
    return any(section.idstr.endswith(_STATES) for section in index.devices)


def unplugged_pages(source: Source, index: SnapshotIndex) -> Unplugged:
    """Find the pages that virtio-mem devices have not plugged in.

    A device's RAMBlock has the device's path in its name. A device whose state cannot be read is left out, so
    its missing pages count as missing.
    """
    found = {}
    for number, block in enumerate(index.blocks):
        path = block.idstr.rpartition("/")[0]
        for section in index.devices:
            if path and number not in found and section.idstr in [path + state for state in _STATES]:
                raw = source.read(section.data_offset, section.data_end - section.data_offset)
                plugged = _plugged(raw, block)
                if plugged is not None:
                    found[number] = ~plugged
    return found


def _plugged(raw: bytes, block: Block) -> Plugged | None:
    """Read from a device's state which pages are plugged in: bool[pages], None if it does not say.

    vmstate_virtio_mem_sanity_checks has address, size and block size of the region (64 bits each) and the
    node (32 bits). Then follow, in the early state, the plugged size and the bitmap; in the other state the
    usable, the plugged and the requested size and the bitmap. A bitmap is believed if its bits add up to the
    plugged size.
    """
    region = block.used_length.to_bytes(_WORD, "big")
    at = raw.find(region)
    while at >= 0:
        unit = int.from_bytes(raw[at + _WORD : at + 2 * _WORD], "big")
        if unit >= _LEAST_BLOCK_BYTES and not unit & (unit - 1) and block.used_length % unit == 0:
            behind = at + 2 * _WORD + 4
            for size_at, bitmap_at in ((behind, behind + _WORD), (behind + _WORD, behind + 3 * _WORD)):
                bits = _bits(raw[bitmap_at:], block.used_length // unit)
                size = int.from_bytes(raw[size_at : size_at + _WORD], "big")
                if bits is not None and int(bits.sum()) * unit == size:
                    return np.repeat(bits, unit // block.page_size)
        at = raw.find(region, at + 1)
    return None


def _bits(raw: bytes, count: int) -> Plugged | None:
    """Return the first `count` bits of a bitmap in big-endian words (QEMU vmstate-types.c put_bitmap())."""
    length = (count + 63) // 64 * _WORD
    if len(raw) < length:
        return None
    words = np.frombuffer(raw[:length], ">u8").astype("<u8")
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count].astype(np.bool_)
