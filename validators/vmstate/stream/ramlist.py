"""Reads the list of RAMBlocks at the beginning of the RAM state, and the mapped-ram layout.

QEMU 10.0 migration/ram.c: ram_save_setup(), parse_ramblock(), mapped_ram_setup_ramblock(),
mapped_ram_read_header(). QEMU 11.0 leaves shared RAMBlocks out of a mapped-ram file: both offsets are 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.cursor import Cursor
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import ZERO_BY_BITMAP, Block, Configuration, MappedRegion
from validators.vmstate.stream.source import Source

_MAX_HUGE_PAGE = 1 << 34
_BITMAP_PIECE = 1 << 17
# Words that can follow the list.
_ENDS = (fmt.FLAG_EOS, fmt.FLAG_MULTIFD_FLUSH)
_EMPTY_LOOK = 256 << 20  # bytes looked at in all blocks together
_EMPTY_PIECE = 4 << 20


class BlockList:
    """Reads the block list into a Collector.

    Attributes:
        mapped: place of each block of a mapped-ram file, by position.
    """

    def __init__(
        self,
        source: Source,
        collector: Collector,
        configuration: Configuration,
        page_size: int,
        postcopy: bool,
    ) -> None:
        self._source = source
        self._collector = collector
        self._page_size = page_size
        self._ignore_shared = "x-ignore-shared" in configuration.capabilities
        self._mapped_ram = "mapped-ram" in configuration.capabilities
        self._postcopy = postcopy
        self._pages = 0
        self._needed = 0
        self._empty_look = _EMPTY_LOOK
        self.mapped: dict[int, MappedRegion] = {}

    def read(self, position: int, total: int) -> int:
        """Read the list whose MEM_SIZE word is at `position` and announces `total` bytes.

        Returns:
            The file offset behind the list; in a mapped-ram file behind the last RAMBlock's pages.

        Raises:
            StreamError: the list cannot be read on.
        """
        if self._collector.blocks:
            raise StreamError(Code.BLOCK_LIST_SECOND, "The stream has a second list of RAMBlocks.", position)
        cursor = Cursor(self._source, position)
        cursor.unsigned(8, "the RAM size")
        bytes_read = 0
        # If the sum is wrong, the list is read to its end: the pages show which RAMBlock is wrong.
        # A record begins with a zero byte, an entry with the length of its name.
        while bytes_read < total or cursor.peek(1) not in (b"\0", b""):
            if int.from_bytes(cursor.peek(8), "big") in _ENDS:
                break
            bytes_read += self._read_block(cursor)
        if bytes_read != total:
            self._collector.anomaly(
                Code.BLOCK_LIST_SUM,
                f"The RAMBlocks of the list have 0x{bytes_read:x} bytes, but 0x{total:x} are announced.",
                position,
            )
        return cursor.position

    def _require_entry(self, cursor: Cursor) -> None:
        """Judge whether an entry of the list follows; in a mapped-ram file the last RAMBlock says where."""
        if not self._mapped_ram or not self._collector.blocks:
            return
        before, held = self._collector.blocks[-1], cursor.peek(256)
        name = held[1 : 1 + held[0]] if held else b""
        if not name or not all(32 <= byte < 127 for byte in name):
            raise StreamError(
                Code.MAPPED_RAM_LIST_LOST,
                f"The list of RAMBlocks does not go on at offset {cursor.position}, where by its length and "
                f"its mapped-ram header the pages of RAMBlock '{before.idstr}' end.",
                before.list_offset,
                before.idstr,
            )

    def _read_block(self, cursor: Cursor) -> int:
        self._require_entry(cursor)
        start = cursor.position
        if len(self._collector.blocks) >= fmt.MAX_BLOCKS:
            raise StreamError(
                Code.BLOCK_LIST_TOO_MANY, f"The stream has more than {fmt.MAX_BLOCKS} RAMBlocks.", start
            )
        idstr = cursor.name("a RAMBlock's name")
        if not idstr:
            raise StreamError(Code.BLOCK_LIST_NO_NAME, "A RAMBlock in the list has no name.", start)
        length = cursor.unsigned(8, "a RAMBlock's length")
        self._judge_length(idstr, length, start)
        if self._postcopy:
            self._skip_page_size(cursor)
        gpa = cursor.unsigned(8, "a RAMBlock's address") if self._ignore_shared else None
        pages = length // self._page_size
        block = Block(idstr, length, self._page_size, self._room(idstr, pages), start, gpa)
        if self._collector.find_block(idstr) is not None:
            self._collector.anomaly(
                Code.BLOCK_LIST_TWICE, f"RAMBlock '{idstr}' is in the block list twice.", start, idstr
            )
        self._collector.add_block(block)
        if self._mapped_ram:
            self._read_region(cursor, block)
        return length

    def _room(self, idstr: str, pages: int) -> npt.NDArray[np.int64]:
        """Return an empty page_source; a read-only one if the file is too short for so many records.

        Of some RAMBlocks most pages may rightly have none: a device's, whose memory virtio-mem may not have
        plugged in (its state may come later in the stream), and with x-ignore-shared any that is shared.
        Pages without a record take no memory.
        """
        if "/" in idstr or self._ignore_shared:
            return np.zeros(pages, np.int64)
        self._needed += pages
        size, needed = self._source.size, self._needed
        if needed <= fmt.FREE_PAGES or size is None or needed <= size // fmt.LEAST_RECORD_BYTES:
            return np.zeros(pages, np.int64)
        return np.broadcast_to(np.zeros(1, np.int64), pages)

    def _judge_length(self, idstr: str, length: int, start: int) -> None:
        self._pages += length // self._page_size
        if length == 0:
            raise StreamError(Code.BLOCK_SIZE_EMPTY, f"RAMBlock '{idstr}' has no bytes.", start, idstr)
        if self._pages > fmt.MAX_PAGES:
            raise StreamError(
                Code.BLOCK_SIZE_TOO_LARGE,
                f"With RAMBlock '{idstr}', which has 0x{length:x} bytes, the guest has more than "
                f"{fmt.MAX_PAGES * self._page_size >> 40} TiB of RAM, which is more than snapproof reads.",
                start,
                idstr,
            )
        if length % self._page_size:
            self._collector.anomaly(
                Code.BLOCK_SIZE_NOT_WHOLE,
                f"RAMBlock '{idstr}' has 0x{length:x} bytes, which is not a whole number of pages.",
                start,
                idstr,
            )

    def _skip_page_size(self, cursor: Cursor) -> None:
        # Present only if the RAMBlock's pages are not of the host's default size, which the stream does not
        # say. It differs from all that can follow instead: the next RAMBlock's name begins with its length
        # byte (a number of at least 2**56), and a flags word is smaller than a page.
        value = int.from_bytes(cursor.peek(8), "big")
        if self._page_size <= value <= _MAX_HUGE_PAGE and value & (value - 1) == 0:
            cursor.unsigned(8, "a page size")

    def _read_region(self, cursor: Cursor, block: Block) -> None:
        header = cursor.position
        version = cursor.unsigned(4, "a mapped-ram header")
        page_size = cursor.unsigned(8, "a mapped-ram header")
        bitmap = cursor.unsigned(8, "a mapped-ram header")
        pages = cursor.unsigned(8, "a mapped-ram header")
        if version != fmt.MAPPED_RAM_VERSION:
            raise StreamError(
                Code.MAPPED_RAM_VERSION, f"The mapped-ram header has the unknown version {version}.", header
            )
        if page_size != self._page_size:
            raise StreamError(
                Code.MAPPED_RAM_PAGE_SIZE,
                f"A page has {page_size} bytes by the mapped-ram header, {self._page_size} by the stream.",
                header,
            )
        number = len(self._collector.blocks) - 1
        if bitmap == 0 and pages == 0 and self._ignore_shared:
            self.mapped[number] = MappedRegion(0, 0, 0, header)
            return
        region = MappedRegion(bitmap, (block.pages + 63) // 64 * 8, pages, header)
        self._judge_region(region, block)
        self.mapped[number] = region
        cursor.position = pages + block.used_length

    def _judge_region(self, region: MappedRegion, block: Block) -> None:
        behind = region.header_offset + fmt.MAPPED_RAM_HEADER_BYTES
        size = self._source.size
        if not self._source.seekable or size is None:
            raise StreamError(
                Code.PIPE_MAPPED_RAM, "A mapped-ram file cannot be read from a pipe.", region.header_offset
            )
        if region.bitmap_offset != behind:
            # mapped_ram_setup_ramblock() of QEMU 9.0 to 11.1 puts it there. Another is another RAMBlock's.
            self._collector.anomaly(
                Code.MAPPED_RAM_BITMAP_PLACE,
                f"By the mapped-ram header the bitmap of RAMBlock '{block.idstr}' begins at "
                f"0x{region.bitmap_offset:x} and not behind the header, at 0x{behind:x}.",
                region.header_offset,
                block.idstr,
            )
        if region.bitmap_offset < behind or region.pages_offset < region.bitmap_offset + region.bitmap_bytes:
            raise StreamError(
                Code.MAPPED_RAM_OVERLAP,
                f"By the mapped-ram header the bitmap and the pages of RAMBlock '{block.idstr}' begin at "
                f"0x{region.bitmap_offset:x} and 0x{region.pages_offset:x}, where other content is.",
                region.header_offset,
                block.idstr,
            )
        if region.bitmap_offset + region.bitmap_bytes > size:
            raise StreamError(
                Code.TRUNCATED_BITMAP,
                f"The file ends before the bitmap of RAMBlock '{block.idstr}'.",
                region.header_offset,
                block.idstr,
            )
        if region.pages_offset > size:
            raise StreamError(
                Code.MAPPED_RAM_BEYOND_END,
                f"By the mapped-ram header the pages of RAMBlock '{block.idstr}' begin at "
                f"0x{region.pages_offset:x}, but the file has only 0x{size:x} bytes.",
                region.header_offset,
                block.idstr,
            )
        if region.pages_offset + block.used_length > size:
            raise StreamError(
                Code.TRUNCATED_PAGES,
                f"The file ends at offset {size}, in the pages of RAMBlock '{block.idstr}'.",
                size,
                block.idstr,
            )
        if region.pages_offset % self._page_size:
            self._collector.anomaly(
                Code.MAPPED_RAM_UNALIGNED,
                f"The pages of RAMBlock '{block.idstr}' begin at the unaligned offset {region.pages_offset}.",
                region.header_offset,
                block.idstr,
            )

    def fill_mapped(self) -> None:
        """Enter the pages of a mapped-ram file from its bitmaps, in which a clear bit is a zero page."""
        for number, region in self.mapped.items():
            block = self._collector.blocks[number]
            if region.bitmap_bytes == 0:
                continue
            has_data = False
            for first, bits in self._bitmap_pieces(region, block):
                at = region.pages_offset + (first + np.arange(len(bits))) * block.page_size
                block.page_source[first : first + len(bits)] = np.where(bits, at, ZERO_BY_BITMAP)
                count = int(np.count_nonzero(bits))
                self._collector.records["page"] += count
                self._collector.records["zero"] += len(bits) - count
                has_data = has_data or count > 0
            if not has_data:
                self._judge_empty(block, region)

    def _judge_empty(self, block: Block, region: MappedRegion) -> None:
        """Note a bitmap without a set bit whose pages are in the file.

        QEMU 10.0.13 and 11.1.3 write such files with background-snapshot and mapped-ram (finding F2):
        ram_save_complete() writes the bitmaps, and a background snapshot does not call it.
        """
        for start in range(0, min(block.used_length, self._empty_look), _EMPTY_PIECE):
            length = min(_EMPTY_PIECE, block.used_length - start)
            place = region.pages_offset + start
            self._empty_look -= length
            if np.frombuffer(self._source.read(place, length), np.uint8).any():
                self._collector.anomaly(
                    Code.MAPPED_RAM_EMPTY_BITMAP,
                    f"The bitmap of RAMBlock '{block.idstr}' is empty, but its pages are in the file.",
                    region.bitmap_offset,
                    block.idstr,
                )
                return

    def _bitmap_pieces(
        self, region: MappedRegion, block: Block
    ) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        for start in range(0, region.bitmap_bytes, _BITMAP_PIECE):
            length = min(_BITMAP_PIECE, region.bitmap_bytes - start)
            raw = np.frombuffer(self._source.read(region.bitmap_offset + start, length), np.uint8)
            bits = np.unpackbits(raw, bitorder="little").view(np.bool_)
            wanted = min(len(bits), block.pages - start * 8)
            if bits[wanted:].any():
                self._collector.anomaly(
                    Code.PAGE_OUTSIDE_BLOCK_BITMAP,
                    f"The bitmap of RAMBlock '{block.idstr}' has bits set behind its last page.",
                    region.bitmap_offset + start + wanted // 8,
                    block.idstr,
                )
            yield start * 8, bits[:wanted]
