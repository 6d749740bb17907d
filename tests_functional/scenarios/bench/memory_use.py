"""What a QEMU takes of the host's memory, by /proc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken


@dataclass(frozen=True)
class MemoryUse:
    """In KiB (Linux Documentation/filesystems/proc.rst).

    Attributes:
        resident: VmRSS.
        page_tables: VmPTE.
        huge: AnonHugePages, the part that is in transparent huge pages; None where the kernel does not say.
    """

    resident: int
    page_tables: int
    huge: int | None


def memory_use(pid: int) -> MemoryUse:
    """Look at a process now.

    Raises:
        SetupBroken: it is gone, or belongs to somebody else.
    """
    folder = Path(f"/proc/{pid}")
    try:
        status = (folder / "status").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SetupBroken(f"QEMU's memory cannot be looked at: {error.strerror}.") from error
    try:
        rollup = (folder / "smaps_rollup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        rollup = ""
    return MemoryUse(kib(status, "VmRSS") or 0, kib(status, "VmPTE") or 0, kib(rollup, "AnonHugePages"))


def kib(text: str, field: str) -> int | None:
    """The kB of a line such as ``VmRSS:   1234 kB``, None where there is none."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name.strip() == field and words and words[0].isdigit():
            return int(words[0])
    return None
