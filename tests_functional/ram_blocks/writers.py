"""Writes to one page of each piece of RAM, in the way that RAM of its kind is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import FoundRam, RamKind, main_ram
from harness.qemu.monitor_memory import MonitorMemory
from tests_functional.ram_blocks.kinds import Writer, known_kind

# Not at the very front, where devices have their tables and firmware its first data.
_OFFSET = 16 * TARGET_PAGE_BYTES
_WORD = 4
# Intel flash (CFI 01): program a word, and back to reading; for one device, and for two beside each other
# (QEMU 10.0 hw/block/pflash_cfi01.c).
_PROGRAM, _READ_ARRAY = bytes.fromhex("40004000"), bytes.fromhex("ff00ff00")


@dataclass(frozen=True)
class Target:
    """A word of a piece of RAM.

    Attributes:
        ram: the RAM.
        offset: of the word in it, in bytes.
        address: guest-physical.
    """

    ram: FoundRam
    offset: int
    address: int

    @property
    def page(self) -> int:
        """Return the offset of its page, in bytes."""
        return self.offset // TARGET_PAGE_BYTES * TARGET_PAGE_BYTES


def find_targets(found: Sequence[FoundRam], writer: Writer) -> tuple[Target, ...]:
    """Return a word of each piece of RAM that a writer writes; the main RAM is the agent's."""
    main = main_ram(found)
    targets = []
    for ram in found:
        entry = known_kind(ram.kind)
        if ram is main or entry is None or entry.writer is not writer:
            continue
        offset = min(_OFFSET, ram.used_bytes // 2) // TARGET_PAGE_BYTES * TARGET_PAGE_BYTES
        address = ram.address_of(offset, _WORD)
        if address is not None:
            targets.append(Target(ram, offset, address))
    return tuple(targets)


def unreached_kinds(found: Sequence[FoundRam]) -> list[RamKind]:
    """Return the kinds that have a writer, and of which no RAM has an address that it can write to."""
    reached = {target.ram.kind for writer in Writer for target in find_targets(found, writer)}
    # The agent writes to it.
    reached.add(main_ram(found).kind)
    written = [ram.kind for ram in found if (entry := known_kind(ram.kind)) and entry.writer]
    return [kind for kind in dict.fromkeys(written) if kind not in reached]


def write_words(machine: Machine, writer: Writer, targets: Sequence[Target], number: int) -> None:
    """Write a number into the word of each target.

    Raises:
        SetupBroken: QEMU's debugger cannot be used. SubjectFailed: QEMU has ended.
    """
    if not targets:
        return
    word = number.to_bytes(_WORD, "little")
    words = [_PROGRAM, word, _READ_ARRAY] if writer is Writer.FLASH else [word]
    pieces = [(target.address, data) for target in targets for data in words]
    MonitorMemory(machine).write_all(pieces, read_only=writer is Writer.DEBUGGER)


def written(machine: Machine, targets: Sequence[Target], number: int) -> tuple[Target, ...]:
    """Return the targets whose word is that number."""
    memory = MonitorMemory(machine)
    word = number.to_bytes(_WORD, "little")
    return tuple(target for target in targets if memory.read(target.address, _WORD) == word)


def unwritten_kinds(targets: Sequence[Target], done: Sequence[Target]) -> list[RamKind]:
    """Return the kinds of which no target was written."""
    reached = {target.ram.kind for target in done}
    return [kind for kind in dict.fromkeys(target.ram.kind for target in targets) if kind not in reached]
