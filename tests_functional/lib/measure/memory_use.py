"""Reads how much of the host's memory a QEMU uses, from /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken


@dataclass(frozen=True)
class MemoryUse:
    """Memory of a process in KiB (Linux Documentation/filesystems/proc.rst).

    Attributes:
        resident: VmRSS.
        page_tables: VmPTE.
        huge: AnonHugePages, the part in transparent huge pages; None where the kernel does not report it.
    """

    resident: int
    page_tables: int
    huge: int | None


def memory_use(pid: int) -> MemoryUse:
    """Read the memory use of a process.

    Raises:
        SetupBroken: the process is gone, or belongs to another user.
    """
    folder = Path(f"/proc/{pid}")
    try:
        status = (folder / "status").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SetupBroken(f"The memory use of QEMU cannot be read: {error.strerror}.") from error
    try:
        rollup = (folder / "smaps_rollup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        rollup = ""
    return MemoryUse(kib(status, "VmRSS") or 0, kib(status, "VmPTE") or 0, kib(rollup, "AnonHugePages"))


def kib(text: str, field: str) -> int | None:
    """Return the number of a line such as ``VmRSS:   1234 kB``, None where there is no such line."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name.strip() == field and words and words[0].isdigit():
            return int(words[0])
    return None
