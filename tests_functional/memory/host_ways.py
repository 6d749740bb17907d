"""Lists the ways in which the host's kernel makes the page table entries of guest RAM anew.

QEMU's write protection is a bit in each entry. A kernel that forgets it in a new entry lets the guest write
to a page before QEMU has saved it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from harness.errors import NotApplicable
from harness.linux.huge_pages import huge_pages_disabled, huge_pages_setting
from harness.linux.process_memory import advise, move_pages, require_advice
from harness.qemu.page_states import Flags, PageStates
from harness.userfaultfd import libc
from tests_functional.kernel.prepare import Preparation

PIECE_BYTES = 2 << 20
"""The host is asked for one piece of RAM at a time: a huge page of x86_64."""

_NODES = Path("/sys/devices/system/node")
_COMPACT = _NODES / "node0" / "compact"
_SWAP = "own-swap"


@dataclass(frozen=True)
class HostWay:
    """A way in which the kernel makes entries anew.

    Attributes:
        reason: why it is tested.
        words: what the kernel does to a page, to end a sentence with.
        require: raises NotApplicable if this host cannot do it.
        act: has the kernel do it to a piece of a process: process id, address, length in bytes.
        met: which pages it was done to, by their states before and after.
        around: context of the whole test.
        huge: whether RAM must be in huge pages at first.
        zero_filled: whether the guest leaves every other page alone until the kernel has acted, and then
            writes to some: a kernel may map the zero page in place of a page of zeros.
        protected: whether the kernel does it to protected pages; it collapses none (Linux 6.3, dd47ac428c3f).
        everywhere: whether one act is for all memory of the host.
    """

    reason: str
    words: str
    require: Callable[[], None]
    act: Callable[[int, int, int], None]
    met: Callable[[PageStates, PageStates], Flags]
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    huge: bool = False
    zero_filled: bool = False
    protected: bool = True
    everywhere: bool = False


def _require_huge() -> None:
    require_advice(libc.MADV_COLD, "MADV_COLD")
    if huge_pages_setting() not in ("always", "madvise"):
        raise NotApplicable(
            "This host gives no transparent huge pages, which could be split: "
            "/sys/kernel/mm/transparent_hugepage/enabled must be 'madvise' or 'always'."
        )


def _require_collapse() -> None:
    _require_huge()
    require_advice(libc.MADV_COLLAPSE, "MADV_COLLAPSE")


def _require_nodes() -> None:
    require_advice(libc.MADV_COLD, "MADV_COLD")
    if not (_NODES / "node1").is_dir():
        raise NotApplicable("This host has one NUMA node, so its pages cannot be moved to another.")


def _require_compaction() -> None:
    if not os.access(_COMPACT, os.W_OK):
        raise NotApplicable(f"This user may not have the host compact its memory ({_COMPACT}).")


def _split(pid: int, address: int, length: int) -> None:
    # Advice about a part of a large page splits it (mm/madvise.c, madvise_cold_or_pageout_pte_range()).
    advise(pid, address + length // 2, libc.PAGE_BYTES, libc.MADV_COLD)


def _collapse(pid: int, address: int, length: int) -> None:
    _split(pid, address, length)
    # The kernel refuses it as long as a page of the piece is protected.
    try:
        advise(pid, address, length, libc.MADV_COLLAPSE)
    except OSError:
        return


def _page_out(pid: int, address: int, length: int) -> None:
    advise(pid, address, length, libc.MADV_PAGEOUT)


def _move(pid: int, address: int, length: int) -> None:
    for node in (1, 0):
        move_pages(pid, range(address, address + length, libc.PAGE_BYTES), node)


def _compact(_pid: int, _address: int, _length: int) -> None:
    _COMPACT.write_text("1")


@contextmanager
def _own_swap() -> Iterator[None]:
    """Have the host swap to a small device in memory of its own during the `with`."""
    complaints: list[str] = []
    with Preparation((_SWAP,), complaints.append):
        if complaints:
            raise NotApplicable(f"This host can have no swap space for the test. {complaints[0]}")
        yield


HOST_WAYS: Mapping[str, HostWay] = {
    "split": HostWay(
        "a split makes 512 entries of one, and may map the zero page for pages of zeros (9658d698a8a8)",
        "split its large page",
        _require_huge,
        _split,
        lambda before, after: before.large & ~after.large,
        huge=True,
        zero_filled=True,
    ),
    "collapsed": HostWay(
        "a collapse makes one entry of 512, and must not do so with protected ones (dd47ac428c3f)",
        "collapsed it with others into a huge page",
        _require_collapse,
        _collapse,
        lambda before, after: before.moved(after) & after.large,
        huge=True,
        protected=False,
    ),
    "swapped": HostWay(
        "an entry of swap space has its own bit for protection, which must be in the entry made of it too",
        "moved it to swap space",
        lambda: require_advice(libc.MADV_PAGEOUT, "MADV_PAGEOUT"),
        _page_out,
        # Shared memory has a marker in place of an entry then, or none.
        lambda before, after: before.present & ~after.present,
        around=_own_swap,
    ),
    "moved": HostWay(
        "a page that gets another frame gets a new entry (624a2c94f5b7)",
        "moved it to another NUMA node and back",
        _require_nodes,
        _move,
        lambda before, after: before.moved(after),
    ),
    "compacted": HostWay(
        "compaction moves pages that nobody has asked for, of all memory",
        "moved it to make room for large pages",
        _require_compaction,
        _compact,
        lambda before, after: before.moved(after),
        around=huge_pages_disabled,
        everywhere=True,
    ),
}
"""By name; `merged`, by KSM, has a test of its own (merged_late.py)."""
