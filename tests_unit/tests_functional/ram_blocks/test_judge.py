"""Contract: RAM of a kind without a test, RAM in no stream, and unprotected RAM turn a check red."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.codes import Code
from harness.qemu.memory_tree import FoundRam, RamKind, bytes_behind_main
from harness.qemu.monitor_tables import Place
from harness.status import Status
from tests_functional.ram_blocks.judge import judge_kinds, judge_protected, judge_saved
from tests_functional.ram_blocks.kinds import KNOWN_KINDS, Writer, known_kind
from tests_functional.ram_blocks.writers import (
    find_targets,
    unreached_kinds,
    unwritten_kinds,
)

_PLACE = Place(0x100000, 0x40000, 0, "ram")
_MAIN = FoundRam("pc.ram", "pc.ram", 1 << 26, 1, RamKind("ram", "backend", "private"), (_PLACE,))
_VIDEO = FoundRam("x/vga.vram", "vga.vram", 1 << 17, 2, RamKind("ram", "device", "private"), (_PLACE,))
_PMEM = FoundRam("", "pm", 1 << 17, 3, RamKind("ram", "backend", "private", saved=False), (_PLACE,))
_ROM = FoundRam("pc.rom", "pc.rom", 1 << 17, 4, RamKind("rom", "board", "private"))


@pytest.mark.parametrize(
    "kind",
    [
        RamKind("ramd", "device", "private"),
        RamKind("ram", "board", "of a new sort"),
        RamKind("a new type", "board", "private"),
        RamKind("rom", "board", "private", saved=False),
        RamKind("romd", "backend", "private"),
    ],
)
def test_new_kind_is_red(kind: RamKind) -> None:
    """RAM with a property, or properties together, that the table does not have is a violation."""
    check = judge_kinds([_MAIN, replace(_VIDEO, kind=kind)])
    assert check.status is Status.FAIL
    assert [(one.code, one.fields) for one in check.violations] == [
        (Code.RAM_BLOCKS_UNKNOWN_KIND, {"kind": str(kind)})
    ]


def test_kind_that_lost_its_entry_is_red() -> None:
    """Without its entry in the table a kind that is tested today is a violation."""
    assert judge_kinds([_MAIN, _ROM]).status is Status.PASS
    table = [entry for entry in KNOWN_KINDS if entry.access != "rom"]
    assert judge_kinds([_MAIN, _ROM], table).status is Status.FAIL


def test_facts_name_the_kinds() -> None:
    """The facts have each kind with its RAM, and the reason where nothing writes to it."""
    tables = replace(_ROM, idstr="/rom@x", kind=RamKind("unmapped, ro", "device", "private"))
    facts = judge_kinds([_MAIN, _VIDEO, tables]).facts
    assert facts["kind ram, of device, private"] == "x/vga.vram: bus"
    assert str(facts["kind unmapped, ro, of device, private"]).startswith("/rom@x: without a test: only QEMU")


def test_each_entry_has_a_writer_or_a_reason() -> None:
    """An entry says what writes to the kind, or why nothing does, and not both."""
    assert all((entry.writer is None) == bool(entry.reason) for entry in KNOWN_KINDS)


def test_ram_in_no_stream_is_red() -> None:
    """RAM of the guest without a name in the stream is a violation; unless the guest does not have it."""
    check = judge_saved([_MAIN, _PMEM])
    assert [one.code for one in check.violations] == [Code.RAM_BLOCKS_NOT_SAVED]
    assert judge_saved([_MAIN, replace(_PMEM, places=())]).status is Status.PASS


def test_unprotected_ram_is_red() -> None:
    """RAM that is written directly must be protected; ROM need not be, and is named in the facts."""
    check = judge_protected({_MAIN: True, _VIDEO: False, _ROM: False, _PMEM: False})
    assert [one.code for one in check.violations] == [Code.RAM_BLOCKS_UNPROTECTED]
    assert "vga.vram" in check.violations[0].sentence
    assert check.facts == {"protected": "pc.ram", "not protected": "x/vga.vram, pc.rom"}
    persistent = replace(_VIDEO, kind=RamKind("nv-ram", "backend", "private"))
    assert judge_protected({_MAIN: True, persistent: False}).status is Status.FAIL
    unknown = judge_protected({_MAIN: True, _VIDEO: None})
    assert (unknown.status, unknown.facts["not known"]) == (Status.PASS, "x/vga.vram")


def test_unknown_protection_proves_nothing() -> None:
    """Where QEMU says of no RAM where it is, the check is skipped, and not passed."""
    assert judge_protected({_MAIN: None, _ROM: False}).status is Status.SKIP


def test_targets() -> None:
    """A writer gets a word of each piece of RAM of its kinds, beside the main RAM, that has an address."""
    found = [_MAIN, _VIDEO, replace(_VIDEO, idstr="y", places=()), _ROM, _PMEM]
    targets = find_targets(found, Writer.BUS)
    assert [(target.ram, target.offset, target.address) for target in targets] == [
        (_VIDEO, 0x10000, 0x110000)
    ]
    assert unwritten_kinds(targets, []) == [_VIDEO.kind]
    assert unwritten_kinds(targets, targets) == []


def test_kind_without_address_is_unreached() -> None:
    """A kind with a writer of which no RAM can be written is named; one of the main RAM's kind is not."""
    assert unreached_kinds([_MAIN, _VIDEO]) == []
    assert unreached_kinds([_MAIN, replace(_VIDEO, places=()), _ROM]) == [_VIDEO.kind, _ROM.kind]
    assert unreached_kinds([_MAIN, replace(_MAIN, idstr="dimm", used_bytes=1, places=()), _PMEM]) == []


def test_bytes_behind_main() -> None:
    """All blocks of the stream but the largest are saved behind it."""
    assert bytes_behind_main([_VIDEO, _MAIN, _PMEM, _ROM]) == 2 << 17


def test_read_only_host_memory_has_no_writer() -> None:
    """ROM whose host mapping is read-only too is known, and has a reason."""
    entry = known_kind(RamKind("rom", "backend", "read-only private file"))
    assert entry is not None and entry.writer is None
