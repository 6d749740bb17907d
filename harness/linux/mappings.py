"""Read from /proc/PID/smaps how much of a range is in huge pages, or in pages merged by KSM."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import SetupBroken

HUGE_PAGES = "AnonHugePages"
"""Field of smaps: memory in transparent huge pages (Linux Documentation/filesystems/proc.rst)."""

MERGED_PAGES = "KSM"
"""Field of smaps: memory in pages that KSM has merged (Linux 6.6)."""

_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")


def mapped_bytes(pid: int, start: int, end: int, field: str) -> int:
    """Return the bytes that a field of smaps counts, summed over the mappings that overlap [start, end).

    Args:
        pid: QEMU's process.
        start: address in it.
        end: address behind the range.
        field: such as `HUGE_PAGES`.

    Raises:
        SetupBroken: QEMU's mappings cannot be read.
    """
    try:
        text = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SetupBroken(f"QEMU's /proc/PID/smaps cannot be read: {error.strerror}.") from error
    return sum_field(text, field, start, end)


def sum_field(text: str, field: str, start: int, end: int) -> int:
    """Return the bytes that a field counts in the text of smaps, for mappings that overlap [start, end)."""
    total, inside = 0, False
    for line in text.splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            inside = int(mapping[1], 16) < end and int(mapping[2], 16) > start
        elif inside and line.startswith(f"{field}:"):
            total += int(line.split()[1]) << 10
    return total
