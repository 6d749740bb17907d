"""Oracle 4, structure: the rules that every vmstate stream has to keep, each a named check.

The reader has noted broken rules (anomalies) and what ended the reading (damage). Here every rule gets its
result. Rules that need the whole stream (missing pages, order, vmdesc) are judged here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from validators.verdict import CheckResult, Tally, Violation
from validators.vmstate.devices import judge_devices
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.format import END, FULL, START
from validators.vmstate.stream.index import Anomaly, Block, SnapshotIndex
from validators.vmstate.virtio_mem import Unplugged, is_early_state

Pages = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_PIECE = 1 << 20
# Main RAM from this size on cannot be all zero in a guest that has booted a kernel.
_LEAST_USED_BYTES = 1 << 20
# The most that an iterable section without content has (QEMU 10.0): VFIO starts with two flags of 64 bits,
# spapr/htab has a part of three 32-bit words for a page table without an entry, dirty-bitmap has one byte.
_MOST_START_BYTES = 16
_MOST_PART_BYTES = 12


def check_structure(index: SnapshotIndex, unplugged: Unplugged = MappingProxyType({})) -> list[CheckResult]:
    """Judge the structure of a stream: one result for every rule, in a fixed order.

    Args:
        index: the stream's index.
        unplugged: pages that the guest does not have, and that must not be in the stream.
    """
    rules = [judge(index) for judge in _RULES]
    return [*rules, _pages_missing(index, unplugged), _pages_unplugged(index, unplugged)]


def _noted(index: SnapshotIndex, tally: Tally) -> Tally:
    """Add the anomalies and the damage that belong to the tally's check."""
    for anomaly in index.anomalies:
        if anomaly.check == tally.name:
            tally.add(_violation(anomaly))
    tally.total = max(tally.total, index.anomaly_counts.get(tally.name, 0))
    if index.damage and index.damage.check == tally.name:
        tally.add(_violation(index.damage))
    return tally


def _violation(anomaly: Anomaly) -> Violation:
    return Violation(
        anomaly.check,
        anomaly.code,
        anomaly.sentence,
        anomaly.block,
        anomaly.page_offset,
        file_offset=anomaly.offset,
    )


def _by_reader(name: str, explanation: str, index: SnapshotIndex) -> CheckResult:
    """Give the result of a rule that the reader has judged."""
    return _noted(index, Tally(name, explanation)).result()


def _configuration(index: SnapshotIndex) -> CheckResult:
    tally = Tally(
        "configuration", "One configuration is right behind the header, with only what QEMU writes."
    )
    if not index.configuration.present and index.footers:
        # Machine types up to pc-2.3 have neither a configuration nor footers (QEMU hw_compat_2_3).
        tally.report(
            Code.CONFIGURATION_ABSENT,
            "The stream has no configuration, without which QEMU does not load it.",
            file_offset=index.start,
        )
    return _noted(index, tally).result()


def _sections(index: SnapshotIndex) -> CheckResult:
    tally = Tally("sections", "Sections have known types and numbers that fit together, commands fit a file.")
    _noted(index, tally)
    opened = False
    advised = 0
    for command in index.commands:
        opened |= command.number == fmt.COMMAND_OPEN_RETURN_PATH
        advised += command.number == fmt.COMMAND_POSTCOPY_ADVISE
        lengths = fmt.COMMAND_LENGTHS.get(command.number)
        misplaced = (
            lengths is None
            or (command.number == fmt.COMMAND_PING and not opened)
            or (command.number == fmt.COMMAND_POSTCOPY_ADVISE and advised > 1)
            or (command.number in fmt.NOT_IN_BACKGROUND and index.flow == "background")
        )
        if misplaced:
            tally.report(
                Code.SECTIONS_COMMAND_PLACE,
                f"The command {command.name} is at offset {command.offset}, and cannot be there in a file.",
                file_offset=command.offset,
            )
        elif lengths is not None and command.length not in lengths:
            tally.report(
                Code.SECTIONS_COMMAND_LENGTH,
                f"The command {command.name} at offset {command.offset} has {command.length} bytes; "
                f"QEMU takes {' or '.join(map(str, lengths))}.",
                file_offset=command.offset,
            )
    return tally.result()


def _pages_twice(index: SnapshotIndex) -> CheckResult:
    tally = Tally(
        "page-twice",
        "No page is sent twice: never in a background snapshot, never within a section otherwise.",
    )
    found = index.duplicates
    wrong = found.same_section if index.flow != "background" else np.ones(len(found.page), np.bool_)
    numbers = np.flatnonzero(wrong)
    named, rest = numbers[: tally.room], numbers[tally.room :]
    for number in named.tolist():
        block = index.blocks[int(found.block[number])]
        offset = int(found.page[number]) * block.page_size
        earlier, later = abs(int(found.earlier[number])), abs(int(found.later[number]))
        tally.report(
            Code.PAGE_TWICE_SENT_AGAIN,
            f"Page 0x{offset:x} of RAMBlock '{block.idstr}' is in the stream twice, "
            f"at file offsets {earlier} and {later}.",
            block.idstr,
            offset,
            later,
        )
    for number, block in enumerate(index.blocks):
        tally.count(block.idstr, found.page[rest[found.block[rest] == number]] * block.page_size)
    tally.facts["pages sent again"] = index.anomaly_counts.get("duplicate", 0)
    return tally.result()


def _pages_missing(index: SnapshotIndex, unplugged: Unplugged) -> CheckResult:
    tally = Tally("page-missing", "Every page of every RAMBlock that is plugged in is in the stream.")
    if not index.blocks:
        return tally.skip("The list of RAMBlocks was not reached.")
    if index.damage is not None:
        return tally.skip(f"The reading stopped at offset {index.damage.offset}.")
    for number, block in enumerate(index.blocks):
        if index.left_out(block):
            tally.facts[f"left out as shared: {block.idstr}"] = block.used_length
            continue
        absent = unplugged.get(number)
        if absent is not None:
            tally.facts[f"not plugged in: {block.idstr}"] = int(absent.sum()) * block.page_size
        code, what = Code.PAGE_MISSING_NOT_IN_STREAM, "is not in the stream"
        _count_pages(block, tally, code, what, lambda source: source == 0, absent, False)
    return tally.result()


def _pages_unplugged(index: SnapshotIndex, unplugged: Unplugged) -> CheckResult:
    tally = Tally("page-unplugged", "No page that is not plugged in is in the stream.")
    # A mapped-ram file has a place for every page, plugged in or not.
    if index.damage is None and not index.mapped:
        for number, absent in unplugged.items():
            code, what = Code.PAGE_UNPLUGGED_IN_STREAM, "is not plugged in, and in the stream"
            _count_pages(index.blocks[number], tally, code, what, lambda source: source != 0, absent, True)
    return tally.result()


def _count_pages(
    block: Block,
    tally: Tally,
    code: Code,
    what: str,
    wrong: Callable[[Pages], Flags],
    unplugged: Flags | None,
    counts: bool,
) -> None:
    """Note the pages of a RAMBlock for which `wrong` holds.

    Args:
        block: the RAMBlock.
        tally: takes them.
        code: of each violation.
        what: completes the sentence "Page 0x1000 of RAMBlock 'pc.ram' ...".
        wrong: takes a part of page_source, and gives bool[k].
        unplugged: bool[pages], None if all pages are plugged in.
        counts: whether it is the unplugged pages that count, or the others.
    """
    for first in range(0, block.pages, _PIECE):
        found = wrong(block.page_source[first : first + _PIECE])
        if unplugged is not None:
            found &= unplugged[first : first + _PIECE] == counts
        if not tally.keeps_places:
            tally.total += int(np.count_nonzero(found))
            continue
        pages = np.flatnonzero(found) + first
        named = min(len(pages), tally.room)
        for page in pages[:named].tolist():
            offset = page * block.page_size
            sentence = f"Page 0x{offset:x} of RAMBlock '{block.idstr}' {what}."
            tally.report(code, sentence, block.idstr, offset)
        tally.count(block.idstr, pages[named:] * block.page_size)


def _order(index: SnapshotIndex) -> CheckResult:
    tally = Tally("section-order", "RAM is started before the devices, and no RAM follows device state.")
    ram = [section for section in index.sections if section.is_ram]
    if not ram:
        if index.damage is None:
            tally.report(Code.SECTION_ORDER_NO_RAM, "The stream has no RAM section.", file_offset=index.end)
        return tally.result() if index.damage is None else tally.skip("No RAM section was reached.")
    # QEMU 8.1 and later write which memory of a virtio-mem device is plugged in before the first page, 11.1
    # even before the list of RAMBlocks. No other device state may be there.
    seen_device = None
    started = paged = ended = False
    for section in index.sections:
        if is_early_state(section) and not paged:
            continue
        if section.kind == FULL and not section.is_ram:
            seen_device = section
        if not section.is_ram:
            continue
        place = f"at offset {section.offset}"
        if seen_device is not None:
            tally.report(
                Code.SECTION_ORDER_AFTER_DEVICE,
                f"A RAM section {place} follows device '{seen_device.idstr}'.",
                file_offset=section.offset,
            )
        if started and section.kind == START:
            tally.report(
                Code.SECTION_ORDER_STARTED_AGAIN,
                f"RAM is started a second time {place}.",
                file_offset=section.offset,
            )
        if ended:
            tally.report(
                Code.SECTION_ORDER_AFTER_END,
                f"RAM continues {place}, behind its END section.",
                file_offset=section.offset,
            )
        started, ended = True, ended or section.kind == END
        paged = paged or section.kind != START
    return tally.result()


def _saved_after_t0(index: SnapshotIndex) -> CheckResult:
    """Check that no iterable state but RAM has content in a background snapshot.

    At T0 QEMU keeps only the state that is not iterable. Its thread then calls the save_live_iterate of all
    handlers while the vCPUs run, RAM first, and writes no END (migration/migration.c
    bg_migration_thread() and bg_migration_completion(), 6.0 to 10.0). Only RAM is protected: what
    hw/ppc/spapr.c htab_save_iterate() writes is the hash page table of after T0: all entries once, then those
    that have changed, as long as RAM is being saved.
    """
    tally = Tally("saved-after-t0", "A background snapshot has no state besides RAM that was saved after T0.")
    if index.damage is not None:
        return tally.skip(f"The reading stopped at offset {index.damage.offset}.")
    if index.flow != "background":
        return tally.skip("This is an ordinary save, of one moment.")
    ended = {section.section_id for section in index.iterables if section.kind == END}
    reported: set[int] = set()
    for section in index.iterables:
        most = _MOST_START_BYTES if section.kind == START else _MOST_PART_BYTES
        if section.section_id in ended | reported or section.data_end - section.data_offset <= most:
            continue
        reported.add(section.section_id)
        sentence = (
            f"State of '{section.idstr}' ({section.instance}) at offset {section.offset} was saved while the "
            "guest ran, and has no END: it is not the state at T0. QEMU keeps only RAM as it was; save this "
            "guest without background-snapshot."
        )
        code, where = Code.SAVED_AFTER_T0_ITERABLE, section.offset
        fields = {"section": section.idstr}
        tally.add(Violation(tally.name, code, sentence, file_offset=where, fields=fields))
    return tally.result()


def _footers(index: SnapshotIndex) -> CheckResult:
    tally = _noted(index, Tally("footer", "Every section ends with its own footer."))
    if index.damage is None and index.sections and index.configuration.present and not index.footers:
        # The converse of `_configuration`: a machine type has both or neither.
        tally.report(
            Code.FOOTER_ABSENT,
            "The stream has a configuration and no footers, without which QEMU does not load it.",
            file_offset=index.sections[0].data_end,
        )
    return tally.result()


def _truncated(index: SnapshotIndex) -> CheckResult:
    tally = _noted(index, Tally("truncated", "The file does not end before the end marker of the stream."))
    tally.facts["bytes"] = (index.file_size or index.end) - index.start
    return tally.result()


def _end(index: SnapshotIndex) -> CheckResult:
    tally = Tally("trailing-bytes", "Nothing follows the end of the stream, but the padding of a volume.")
    if index.damage is not None or index.end_marker is None:
        return tally.skip("The end of the stream was not reached.")
    left = 0 if index.file_size is None else index.file_size - index.end
    if index.padding:
        tally.facts["bytes of padding"] = index.padding
        return tally.result()
    if left and not index.ends_file:
        # QEMU's "file:...,offset=" writes into a larger file and does not truncate it.
        return tally.skip(f"The stream lies inside a larger file; {left} bytes follow it.")
    if left:
        tally.report(
            Code.TRAILING_BYTES_FOUND,
            f"{left} bytes follow the end of the stream at offset {index.end}.",
            file_offset=index.end,
        )
    return tally.result()


def _ram_used(index: SnapshotIndex) -> CheckResult:
    tally = Tally("ram-not-empty", "RAM is not all zero, as it cannot be in a guest that was running.")
    if index.damage is not None or not index.blocks:
        return tally.skip("RAM was not read to its end.")
    main = max(index.blocks, key=lambda block: block.used_length)
    used = sum(
        int((main.page_source[first : first + _PIECE] > 0).sum()) for first in range(0, main.pages, _PIECE)
    )
    tally.facts["pages with data in the largest block"] = used
    if used == 0 and main.used_length >= _LEAST_USED_BYTES and not index.left_out(main):
        tally.report(
            Code.RAM_NOT_EMPTY_ALL_ZERO,
            f"All of RAMBlock '{main.idstr}' is zero pages.",
            main.idstr,
            0,
            main.list_offset,
        )
    return tally.result()


_RULES: tuple[Callable[[SnapshotIndex], CheckResult], ...] = (
    partial(_by_reader, "header", "The stream has version 3."),
    _configuration,
    partial(
        _by_reader,
        "block-list",
        "There is one list of RAMBlocks, each named once, adding up to the announced RAM.",
    ),
    partial(
        _by_reader, "block-size", "Every RAMBlock is a whole number of pages and fits in the announced RAM."
    ),
    partial(_by_reader, "unknown-block", "Every page record names a RAMBlock of the list."),
    partial(_by_reader, "page-outside-block", "Every page record lies inside its RAMBlock."),
    partial(_by_reader, "page-flags", "Every RAM record has flags that mean something in a file."),
    partial(_by_reader, "zero-fill", "A zero-page record carries the fill byte 0."),
    partial(_by_reader, "mapped-ram", "Bitmaps and pages of a mapped-ram file lie where they can."),
    _pages_twice,
    _sections,
    _order,
    _saved_after_t0,
    _footers,
    _truncated,
    _end,
    judge_devices,
    partial(_by_reader, "run-state", "The guest is in a run state that QEMU knows."),
    _ram_used,
)
