"""Reads a vmstate stream from its first byte to its last into a SnapshotIndex.

QEMU 6.0 to 11.0 migration/savevm.c: qemu_savevm_state_header(), save_section_header(),
save_section_footer(), qemu_savevm_state_complete_precopy_non_iterable().
"""

from __future__ import annotations

from dataclasses import replace

from harness.codes import Code
from harness.errors import UsageError
from validators.native.library import native_core
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.collector import Collector
from validators.vmstate.stream.configuration import read_configuration
from validators.vmstate.stream.cursor import Cursor, readable
from validators.vmstate.stream.following import Follower
from validators.vmstate.stream.foreign import HEAD_BYTES, foreign_words
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Anomaly, Command, Configuration, Section, SnapshotIndex, Vmdesc
from validators.vmstate.stream.native_records import NativeScanner
from validators.vmstate.stream.ramlist import BlockList
from validators.vmstate.stream.records import RamScanner
from validators.vmstate.stream.run_state import judge_run_state
from validators.vmstate.stream.sections import SectionEnds
from validators.vmstate.stream.source import FileSource, PipeSource, Source
from validators.vmstate.stream.subsections import DeviceBytes
from validators.vmstate.stream.vmdesc import (
    described_length,
    described_page_size,
    device_key,
    find_vmdesc,
    parse_vmdesc,
)

_HEADER_BYTES = 8
_PADDED_TO = 1 << 20


def read_index(
    source: Source, start: int = 0, ends_file: bool | None = None, *, follower: Follower | None = None
) -> SnapshotIndex:
    """Read the vmstate stream that begins at file offset `start`.

    Damage does not raise an error. The index has what was found, the rules that were broken (`anomalies`)
    and what ended the reading (`damage`).

    Args:
        source: the file or pipe.
        start: file offset of the stream.
        ends_file: whether nothing but padding may follow the stream; by default if the file begins with it.
        follower: works on pages as they are read; by now it has ended.

    Raises:
        UsageError: there is no vmstate stream at that offset.
    """
    _require_magic(source, start)
    reader = _Reader(source, start, start == 0 if ends_file is None else ends_file, follower)
    damage = None
    usable = False
    try:
        reader.run()
        usable = reader.each_page_once
    except StreamError as error:
        damage = Anomaly(error.code, error.sentence, error.offset, error.block)
    finally:
        if follower is not None:
            follower.finish(usable)
    return reader.index(damage)


def _require_magic(source: Source, start: int) -> None:
    head = source.read(start, 4) if start >= 0 else b""
    if head != fmt.MAGIC.to_bytes(4, "big"):
        known = foreign_words(source.read(0, HEAD_BYTES)) if start == 0 else ""
        raise UsageError(
            f"There is no vmstate stream at offset {start}: a stream begins with 'QEVM', "
            f"these bytes are '{readable(head)}'.{known}"
        )


def _end_before_padding(source: Source) -> int | None:
    """Return where the zeros at the end of a padded file begin, None if the file is not padded.

    Volumes (of LVM, ZFS, Ceph: Proxmox keeps a guest's state in one) and copies of them are whole MiB. QEMU
    writes no such padding, so zeros behind a stream in a file of any other length are not taken for it.
    """
    if not isinstance(source, FileSource) or source.size % _PADDED_TO:
        return None
    return source.end_of_data()


def _scanner(source: Source, collector: Collector, page_size: int, follower: Follower | None) -> RamScanner:
    core = native_core()
    if core is None:
        return RamScanner(source, collector, page_size)
    return NativeScanner(source, collector, page_size, core, follower)


class _Reader:
    """Reads one stream."""

    def __init__(self, source: Source, start: int, ends_file: bool, follower: Follower | None) -> None:
        self._source = source
        self._start = start
        self._ends_file = ends_file
        self._follower = follower
        self._behind = _end_before_padding(source)
        self._cursor = Cursor(source, start)
        self._collector = Collector()
        self._configuration = Configuration()
        self._tail = find_vmdesc(source, self._behind)
        self._vmdesc: Vmdesc | None = None
        self._page_size = described_page_size(self._tail) if self._tail else None
        self._sections: list[Section] = []
        self._started: dict[int, Section] = {}
        self._commands: list[Command] = []
        self._end_marker: int | None = None
        self._footers: bool | None = None
        self._ends = SectionEnds(source, embedded=not ends_file, taken=self._started)
        self._devices = DeviceBytes(source)
        self._list: BlockList | None = None
        self._scanner: RamScanner | None = None
        self._lengths = self._described_lengths()

    def _described_lengths(self) -> dict[tuple[str, int], int]:
        lengths = {}
        for device in self._tail.content["devices"] if self._tail else []:
            length = described_length(device)
            if length is not None:
                lengths[device_key(device)] = length
        return lengths

    def run(self) -> None:
        """Read the whole stream.

        Raises:
            StreamError: it cannot be read on.
        """
        self._cursor.take(4, "the header")
        version = self._cursor.unsigned(4, "the header")
        if version != fmt.VERSION:
            raise StreamError(
                Code.HEADER_VERSION,
                f"The stream has version {version}; QEMU writes {fmt.VERSION}.",
                self._start + 4,
            )
        while self._element():
            if len(self._sections) + len(self._commands) > fmt.MAX_SECTIONS:
                raise StreamError(
                    Code.SECTIONS_TOO_MANY,
                    f"The stream has more than {fmt.MAX_SECTIONS} sections.",
                    self._cursor.position,
                )
        self._read_vmdesc()

    @property
    def each_page_once(self) -> bool:
        """Whether no page has had more than one record."""
        return not self._collector.counts["duplicate"]

    def _element(self) -> bool:
        """Read one top-level element; False after the end marker."""
        cursor = self._cursor
        offset = cursor.position
        kind = cursor.unsigned(1, "the sections (there is no end marker)")
        if kind == fmt.EOF:
            self._end_marker = offset
            return False
        if kind == fmt.CONFIGURATION:
            self._read_configuration(offset)
        elif kind == fmt.COMMAND:
            self._command(offset)
        elif kind in (fmt.START, fmt.FULL):
            self._section(self._section_head(kind, offset))
        elif kind in (fmt.PART, fmt.END):
            self._section(self._section_again(kind, offset))
        else:
            raise StreamError(
                Code.SECTIONS_UNKNOWN_TYPE, f"A section has the unknown type 0x{kind:02x}.", offset
            )
        return True

    def _read_configuration(self, offset: int) -> None:
        """Read a configuration; only one behind the header counts, as QEMU reads no other."""
        found = read_configuration(self._cursor, self._collector)
        if offset == self._start + _HEADER_BYTES:
            self._configuration = found
        else:
            self._collector.anomaly(
                Code.CONFIGURATION_PLACE,
                f"A configuration is at offset {offset}; QEMU takes only one, right behind the header.",
                offset,
            )

    def _command(self, offset: int) -> None:
        number = self._cursor.unsigned(2, "a command")
        length = self._cursor.unsigned(2, "a command")
        self._cursor.take(length, "a command")
        if number not in fmt.COMMAND_NAMES:
            raise StreamError(
                Code.SECTIONS_UNKNOWN_COMMAND, f"A command has the unknown number {number}.", offset
            )
        self._commands.append(Command(number, length, offset))

    def _section_head(self, kind: int, offset: int) -> Section:
        number = self._cursor.unsigned(4, "a section header")
        idstr = self._cursor.name("a section's name")
        instance = self._cursor.unsigned(4, "a section header")
        version = self._cursor.unsigned(4, "a section header")
        at = self._cursor.position
        section = Section(kind, number, idstr, instance, version, offset, at, at)
        if number in self._started:
            self._collector.anomaly(
                Code.SECTIONS_NUMBER_TWICE, f"Section number {number} is used twice.", offset
            )
        if len(self._started) >= fmt.MAX_DEVICES:
            raise StreamError(
                Code.SECTIONS_TOO_MANY_DEVICES, f"The stream has more than {fmt.MAX_DEVICES} devices.", offset
            )
        self._started[number] = section
        return section

    def _section_again(self, kind: int, offset: int) -> Section:
        number = self._cursor.unsigned(4, "a section header")
        first = self._started.get(number)
        if first is None or first.kind != fmt.START:
            raise StreamError(
                Code.SECTIONS_UNKNOWN_NUMBER,
                f"A {fmt.SECTION_NAMES[kind]} section has the unknown number {number}.",
                offset,
            )
        at = self._cursor.position
        return Section(kind, number, first.idstr, first.instance, first.version, offset, at, at)

    def _section(self, section: Section) -> None:
        if section.is_ram and section.kind != fmt.FULL:
            end = self._ram(section)
        else:
            described = self._lengths.get((section.idstr, section.instance))
            end = self._ends.find(section, described, self._footers)
        self._sections.append(replace(section, data_end=end))
        self._devices.hold(self._sections[-1])
        judge_run_state(self._source, self._sections[-1], self._collector)
        self._cursor.position = end
        self._footer(section)
        if not self._source.seekable:
            self._source.release(self._cursor.position)

    def _ram(self, section: Section) -> int:
        if section.version != fmt.RAM_VERSION:
            raise StreamError(
                Code.SECTIONS_RAM_VERSION, f"RAM has the unknown version {section.version}.", section.offset
            )
        if section.instance != 0 and section.kind == fmt.START:
            self._collector.anomaly(
                Code.SECTIONS_RAM_INSTANCE,
                f"RAM has the instance {section.instance}; QEMU has only instance 0.",
                section.offset,
            )
        page_size = self._decide_page_size()
        if self._scanner is None:
            self._scanner = _scanner(self._source, self._collector, page_size, self._follower)
        position, total = self._scanner.scan(section.data_offset)
        while total is not None:
            self._list = BlockList(
                self._source, self._collector, self._configuration, page_size,
                any(command.number == fmt.COMMAND_POSTCOPY_ADVISE for command in self._commands),
            )  # fmt: skip
            position = self._list.read(position, total)
            position, total = self._scanner.scan(position)
        return position

    def _decide_page_size(self) -> int:
        bits = self._configuration.page_bits
        if self._page_size is None:
            self._page_size = fmt.DEFAULT_PAGE_SIZE if bits is None else 1 << bits
        elif bits is not None and 1 << bits != self._page_size:
            self._collector.anomaly(
                Code.VMDESC_PAGE_SIZE,
                f"A target page has {1 << bits} bytes by the configuration, {self._page_size} by vmdesc.",
                self._start,
            )
            self._page_size = 1 << bits
        return self._page_size

    def _footer(self, section: Section) -> None:
        cursor = self._cursor
        offset = cursor.position
        raw = cursor.peek(5)
        if self._footers is None:
            # Machine types up to pc-2.3 have no footers. A stream has them in all sections or in none.
            self._footers = raw[:1] == bytes([fmt.FOOTER])
        if not self._footers:
            return
        cursor.take(5, "a section footer")
        if raw != bytes([fmt.FOOTER]) + section.section_id.to_bytes(4, "big"):
            self._collector.anomaly(
                Code.FOOTER_WRONG,
                f"Section '{section.idstr}' (number {section.section_id}) ends with the bytes {raw.hex()} "
                f"instead of its footer 7e{section.section_id:08x}.",
                offset,
                section.idstr,
            )

    def _read_vmdesc(self) -> None:
        cursor = self._cursor
        if self._list is not None:
            self._list.fill_mapped()
        offset = cursor.position
        if cursor.peek(1) != bytes([fmt.VMDESC]):
            return
        cursor.take(1, "vmdesc")
        length = cursor.unsigned(4, "vmdesc")
        if length > fmt.MAX_VMDESC_BYTES:
            raise StreamError(
                Code.VMDESC_LENGTH,
                f"The vmdesc has {length} bytes by its header, which is more than QEMU writes.",
                offset,
            )
        text = cursor.take(length, "vmdesc")
        tail = self._tail
        if tail is not None and (tail.offset, tail.length) == (offset, length):
            found = tail
        else:
            found = parse_vmdesc(text, offset)
        self._vmdesc = found
        self._devices.judge(self._sections, found, self._collector)

    def index(self, damage: Anomaly | None) -> SnapshotIndex:
        """Return what has been read so far."""
        # First, since the size of a pipe is known at its end.
        padding = self._padding(damage)
        return SnapshotIndex(
            start=self._start,
            end=self._cursor.position,
            file_size=self._source.size,
            page_size=self._page_size or fmt.DEFAULT_PAGE_SIZE,
            configuration=self._configuration,
            blocks=tuple(self._collector.blocks),
            sections=tuple(self._sections),
            commands=tuple(self._commands),
            duplicates=self._collector.duplicates(),
            mapped=dict(self._list.mapped) if self._list else {},
            end_marker=self._end_marker,
            vmdesc=self._vmdesc,
            anomalies=tuple(self._collector.anomalies),
            anomaly_counts=dict(self._collector.counts),
            damage=damage,
            footers=bool(self._footers),
            records=dict(self._collector.records),
            ends_file=self._ends_file,
            padding=padding,
        )

    def _padding(self, damage: Anomaly | None) -> int:
        """Return how many zeros follow the whole stream to the end of a padded file."""
        if isinstance(self._source, PipeSource):
            return self._padding_of_pipe(self._source, damage)
        size = self._source.size
        if self._behind is None or damage is not None or self._cursor.position < self._behind or size is None:
            return 0
        return size - self._cursor.position

    def _padding_of_pipe(self, source: PipeSource, damage: Anomaly | None) -> int:
        """Read a pipe to its end, and return how many zeros follow the whole stream, as behind a volume's."""
        if damage is not None or self._end_marker is None:
            return 0
        zeros = source.ends_in_zeros(self._cursor.position)
        size = source.size or 0
        return size - self._cursor.position if zeros and size % _PADDED_TO == 0 else 0
