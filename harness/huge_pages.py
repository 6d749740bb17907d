"""Transparent huge pages under QEMU's RAM: switched off for what we start, and counted."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import MachineryMissing, SetupBroken
from harness.machine import Machine
from harness.ram import RamBlock

# linux/prctl.h (3.15); a process gives it on to its children, through exec as well.
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")


def huge_pages_setting() -> str:
    """What this host does by default: ``always``, ``madvise`` or ``never``; "" where it has none at all."""
    try:
        found = re.search(r"\[(\w+)\]", _SWITCH.read_text(encoding="ascii"))
    except OSError:
        return ""
    return found[1] if found else ""


@contextmanager
def huge_pages_disabled() -> Iterator[None]:
    """No transparent huge pages for processes that are started meanwhile, nor for this one.

    Raises:
        MachineryMissing: the kernel does not switch them off.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = libc.prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0)
    if before < 0 or libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise MachineryMissing(
            "This kernel does not switch transparent huge pages off for a process: "
            f"{os.strerror(ctypes.get_errno())}."
        )
    try:
        yield
    finally:
        libc.prctl(_PR_SET_THP_DISABLE, before, 0, 0, 0)


def huge_page_bytes(machine: Machine, block: RamBlock) -> int:
    """Bytes of transparent huge pages in the mappings that a RAMBlock lies in (AnonHugePages).

    Raises:
        SetupBroken: QEMU's mappings cannot be read.
    """
    try:
        lines = Path(f"/proc/{machine.process.pid}/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SetupBroken(f"QEMU's mappings cannot be read: {error.strerror}.") from error
    return sum_huge_pages(lines, block.host_address, block.host_address + block.used_bytes)


def sum_huge_pages(text: str, start: int, end: int) -> int:
    """Bytes of AnonHugePages over the mappings in a text like /proc/PID/smaps that overlap [start, end)."""
    total, inside = 0, False
    for line in text.splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            inside = int(mapping[1], 16) < end and int(mapping[2], 16) > start
        elif inside and line.startswith("AnonHugePages:"):
            total += int(line.split()[1]) << 10
    return total
