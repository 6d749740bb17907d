"""Describe the mapping that an address of another process lies in, from its /proc/PID/smaps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken

# Linux Documentation/filesystems/proc.rst, 6.18: address, perms, offset, dev, inode, and a file's path.
_HEAD = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<perms>[r-][w-][x-][ps]) \S+ \S+ \d+ *(?P<path>.*)$"
)
_FLAGS = "VmFlags:"
# The same document: "ht" is an area of huge pages, "uw" one whose write faults userfaultfd gets.
_HUGE, _UFFD_WP = "ht", "uw"
# Linux mm/memfd.c, mm/shmem.c shmem_zero_setup(), ipc/shm.c: names of files that no file system has.
_NAMELESS = ("/memfd:", "/dev/zero", "/SYSV")


@dataclass(frozen=True)
class HostMapping:
    """One mapping of a process.

    Attributes:
        start: its first address.
        end: the address behind it.
        writable: whether the process may write to it.
        shared: whether it is shared, not private.
        path: of its file, "" for none.
        huge_pages: whether it is of huge pages (hugetlbfs).
        write_protected: whether it is registered with userfaultfd for write protection.
    """

    start: int
    end: int
    writable: bool
    shared: bool
    path: str = ""
    huge_pages: bool = False
    write_protected: bool = False

    @property
    def kind(self) -> str:
        """Return what kind of memory it is, in a word or two, the same on each run."""
        if self.huge_pages:
            return "huge pages"
        sharing = "shared" if self.shared else "private"
        named = bool(self.path) and not self.path.startswith(("[", *_NAMELESS))
        return f"{'' if self.writable else 'read-only '}{sharing}{' file' if named else ''}"


def host_mappings(pid: int) -> tuple[HostMapping, ...]:
    """Return the mappings of a process in ascending order.

    Raises:
        SetupBroken: they cannot be read.
    """
    try:
        text = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SetupBroken(f"QEMU's /proc/PID/smaps cannot be read: {error.strerror}.") from error
    return parse_mappings(text)


def parse_mappings(text: str) -> tuple[HostMapping, ...]:
    """Return the mappings in the text of a smaps file."""
    found: list[HostMapping] = []
    head: re.Match[str] | None = None
    for line in text.splitlines():
        head = _HEAD.match(line) or head
        if head is not None and line.startswith(_FLAGS):
            found.append(_mapping(head, line.removeprefix(_FLAGS).split()))
            head = None
    return tuple(found)


def _mapping(head: re.Match[str], flags: list[str]) -> HostMapping:
    return HostMapping(
        int(head["start"], 16),
        int(head["end"], 16),
        writable=head["perms"][1] == "w",
        shared=head["perms"][3] == "s",
        path=head["path"].strip(),
        huge_pages=_HUGE in flags,
        write_protected=_UFFD_WP in flags,
    )
