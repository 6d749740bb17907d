"""Contract: huge and merged pages are counted where they are, and the host's settings are put back."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.linux import huge_pages
from harness.linux import ksm as same_pages
from harness.linux.huge_pages import huge_pages_disabled
from harness.linux.ksm import merge_equal_pages, require_ksm
from harness.linux.mappings import HUGE_PAGES, MERGED_PAGES, mapped_bytes, sum_field
from harness.qemu.machine import Machine
from harness.qemu.ram import RamBlock, populated_bytes, populated_pages, read_block, read_populated

_SMAPS = """7f8b9fe00000-7f8bafe00000 rw-p 00000000 00:00 0
Size:             262144 kB
KSM:                  12 kB
AnonHugePages:    129024 kB
7f8bafe00000-7f8bb0000000 rw-p 00000000 00:00 0
KSM:                   4 kB
AnonHugePages:      2048 kB
"""


def test_only_the_mappings_of_a_block_count() -> None:
    """The field of the mappings that overlap it, each once."""
    start, end = 0x7F8B9FE00000, 0x7F8BAFE00000
    assert sum_field(_SMAPS, HUGE_PAGES, start, end) == 129024 << 10
    assert sum_field(_SMAPS, MERGED_PAGES, start, end + 1) == 16 << 10
    assert sum_field(_SMAPS, HUGE_PAGES, 0, start) == 0
    # The first mapping ends where the second begins.
    assert sum_field(_SMAPS, HUGE_PAGES, end, end + 1) == 2048 << 10


def test_field_before_the_first_mapping_is_of_none() -> None:
    """A field belongs to the mapping above it."""
    assert sum_field("KSM: 4 kB\n", MERGED_PAGES, 0, 1 << 60) == 0


def test_mapping_of_this_process(tmp_path: Path) -> None:
    """It is counted as the kernel shows it, also where the name of another file is no text."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    odd.write_bytes(bytes(5 << 12))
    with odd.open("r+b") as file, mmap.mmap(file.fileno(), 5 << 12) as area:
        view = ctypes.c_char.from_buffer(area)
        start = ctypes.addressof(view)
        assert mapped_bytes(os.getpid(), start, start + 1, "Size") == 5 << 12
        del view


def test_mappings_of_a_process_that_is_gone() -> None:
    """Nothing is known of them, which is not that there are none."""
    with pytest.raises(SetupBroken, match="smaps cannot be read"):
        mapped_bytes(2**22 + 1, 0, 1, HUGE_PAGES)


def test_huge_pages_are_switched_off_for_a_while() -> None:
    """For this process, and as before afterwards."""
    libc = ctypes.CDLL(None)
    before = libc.prctl(42, 0, 0, 0, 0)
    with huge_pages_disabled():
        assert libc.prctl(42, 0, 0, 0, 0) == 1
    assert libc.prctl(42, 0, 0, 0, 0) == before


@pytest.mark.parametrize(("text", "setting"), [("always [madvise] never\n", "madvise"), (None, "")])
def test_the_hosts_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, setting: str
) -> None:
    """The one in brackets, nothing where there is none."""
    switch = tmp_path / "enabled"
    if text is not None:
        switch.write_text(text)
    monkeypatch.setattr(huge_pages, "_SWITCH", switch)
    assert huge_pages.huge_pages_setting() == setting


@pytest.fixture(name="ksm")
def _ksm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("run", "0\n"), ("pages_to_scan", "100\n"), ("sleep_millisecs", "20\n")):
        (tmp_path / name).write_text(value)
    monkeypatch.setattr(same_pages, "_KSM", tmp_path)
    return tmp_path


def test_settings_are_put_back(ksm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KSM's settings are restored if the scans complete, and if they do not complete in time."""
    before = {path.name: path.read_text() for path in ksm.iterdir()}
    scans = iter((7, 7, 9, 10))

    def scanned() -> int:
        assert (ksm / "run").read_text() == "1"
        return next(scans)

    monkeypatch.setattr(same_pages, "_full_scans", scanned)
    merge_equal_pages(Deadline(10))
    assert next(scans, None) is None
    monkeypatch.setattr(same_pages, "_full_scans", lambda: 7)
    with pytest.raises(SetupBroken, match="did not complete 3 scans"):
        merge_equal_pages(Deadline(0.1))
    assert {path.name: path.read_text() for path in ksm.iterdir()} == before


def test_host_that_cannot_merge_is_a_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without KSM gives a skip that says so."""
    monkeypatch.setattr(same_pages, "_KSM", tmp_path / "none")
    with pytest.raises(NotApplicable, match="does not merge equal pages"):
        require_ksm()


def test_pages_that_are_not_in_place_are_neither_read_nor_put_there() -> None:
    """Reading /proc/PID/mem at an untouched page puts one in place, so only those asked for are read."""
    machine = cast(Machine, SimpleNamespace(pid=os.getpid()))
    with mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for page in (5, 6, 60):
            area[page * 4096] = page
        view = ctypes.c_char.from_buffer(area)
        block = RamBlock("x", 64 * 4096, ctypes.addressof(view))
        assert np.flatnonzero(populated_pages(machine, block)).tolist() == [5, 6, 60]
        pieces = [
            ((at - block.host_address) // 4096, len(data), data[0])
            for at, data in read_populated(machine, block)
        ]
        assert pieces == [(5, 2 * 4096, 5), (60, 4096, 60)]
        assert populated_bytes(machine, block) == 3 * 4096
        assert sum(len(data) for data in read_block(machine, block)) == 64 * 4096
        assert populated_bytes(machine, block) == 64 * 4096
        del view
