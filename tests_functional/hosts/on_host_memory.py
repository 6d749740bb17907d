"""Part of the program on_host.py (Python 3.9, standard library): has the host's kernel act on guest RAM.

All is done from outside QEMU, as root. harness/linux/process_memory.py and harness/qemu/page_states.py do the
same on a machine that has the rest of the project.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import re
import signal
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests_functional.hosts.on_host_qemu import HostFailure, Qemu

PAGE = os.sysconf("SC_PAGE_SIZE")
# Linux include/uapi/asm-generic/mman-common.h, and unistd.h, where x86_64 has the same number.
_MADV_COLD, _MADV_COLLAPSE, _PROCESS_MADVISE = 20, 25, 440
# Linux Documentation/admin-guide/mm/pagemap.rst: bits of /proc/PID/pagemap, and of /proc/kpageflags.
_PRESENT, _PROTECTED, _FRAME = 1 << 63, 1 << 57, (1 << 55) - 1
_ANON, _COMPOUND, _ZERO_PAGE = 1 << 12, 3 << 15, 1 << 24
_PIECE = 2 << 20
_HUGE = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
_OFFLINE = "/sys/devices/system/memory/{}_offline_page"
_STILL_SECONDS = 10.0
_POLL_SECONDS = 0.002
_TRIED = 9
_OFFLINED_PER_PIECE = 16
_LIBC = ctypes.CDLL(None, use_errno=True)

Act = Callable[[int, int], None]
"""Acts on a piece of QEMU's memory: address and length."""


class Pages:
    """The pages of a piece of QEMU's memory at one moment.

    Attributes:
        entries: of pagemap.
        flags: of the page frames (kpageflags); 0 for a page that is not mapped.
    """

    def __init__(self, entries: list[int], flags: list[int]) -> None:
        self.entries = entries
        self.flags = flags

    @property
    def large(self) -> list[bool]:
        """Which pages are parts of large pages, whether one entry maps all of it or not."""
        return [bool(flags & _COMPOUND) for flags in self.flags]


Met = Callable[[Pages, Pages], int]
"""Counts the pages that an act was done to, by their states before and after."""


class CannotAct(Exception):
    """What was asked for could not be done; the reason as a sentence.

    Attributes:
        blames_host: whether this host's kernel cannot do it at all.
    """

    def __init__(self, sentence: str, blames_host: bool = True) -> None:
        super().__init__(sentence)
        self.blames_host = blames_host


class HostMemory:
    """The main RAM of a guest in QEMU's address space, and the kernel's view of its pages.

    Attributes:
        address: of guest-physical address 0.
        length: bytes of RAM, which the guest has in one piece.
    """

    def __init__(self, qemu: Qemu, length: int) -> None:
        self._qemu = qemu
        self._pid = qemu.process.pid
        self.length = length
        text = str(qemu.execute("human-monitor-command", **{"command-line": "gpa2hva 0"}))
        found = re.search(r"is 0x([0-9a-f]+)", text)
        if not found:
            raise HostFailure(f"QEMU does not say where guest RAM is: {text.strip()}.", False)
        self.address = int(found[1], 16)
        self._memory = os.open(f"/proc/{self._pid}/mem", os.O_RDWR)
        self._pagemap = os.open(f"/proc/{self._pid}/pagemap", os.O_RDONLY)
        self._flags = os.open("/proc/kpageflags", os.O_RDONLY)

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._memory, self._pagemap, self._flags):
            os.close(descriptor)

    def copy(self, path: str) -> None:
        """Copy all of RAM to the start of a file or disk."""
        with open(path, "r+b" if os.path.exists(path) else "wb", buffering=0) as file:
            for at in range(0, self.length, 1 << 20):
                file.write(os.pread(self._memory, min(1 << 20, self.length - at), self.address + at))
            os.fsync(file.fileno())

    def read(self, at: int) -> int:
        """Return the word at a guest-physical address."""
        return int(struct.unpack("<Q", os.pread(self._memory, 8, self.address + at))[0])

    def write(self, at: int, words: list[int]) -> bool:
        """Store words at a guest-physical address; return False if userfaultfd protects the page."""
        try:
            os.pwrite(self._memory, struct.pack(f"<{len(words)}Q", *words), self.address + at)
        except OSError:
            return False
        return True

    def entries(self, address: int, length: int) -> list[int]:
        """Return the entries of QEMU's pagemap for a range of its addresses."""
        found = array.array("Q")
        found.frombytes(os.pread(self._pagemap, length // PAGE * 8, address // PAGE * 8))
        return found.tolist()

    def pages(self, address: int, length: int) -> Pages:
        """Return the state of the pages in a range of QEMU's addresses."""
        entries = self.entries(address, length)
        found, known = [], dict[int, int]()
        for number, entry in enumerate(entries):
            frame = entry & _FRAME if entry & _PRESENT else 0
            if frame and frame not in known:
                # Frames of a large page are neighbours.
                ahead = os.pread(self._flags, 8 * min(len(entries) - number, 512), 8 * frame)
                for behind, (flags,) in enumerate(struct.iter_unpack("<Q", ahead)):
                    known[frame + behind] = flags
            found.append(known.get(frame, 0))
        return Pages(entries, found)

    def pieces(self) -> list[tuple[int, int]]:
        """Return address and length of the places of huge pages in RAM, last first."""
        try:
            with open(_HUGE) as file:
                length = int(file.read())
        except OSError:
            # A kernel without transparent huge pages.
            length = _PIECE
        first = -(-self.address // length) * length
        ends = range(first, self.address + self.length - length + 1, length)
        return [(at, length) for at in reversed(ends)]

    def require_large(self, least: int) -> None:
        """Have the kernel put RAM into huge pages where it can (Linux 6.1), and check that there are enough.

        Raises:
            CannotAct: there are fewer than `least` bytes in large pages.
        """
        for address, length in self.pieces():
            with contextlib.suppress(OSError):
                self.advise(address, length, _MADV_COLLAPSE)
        found = sum(self.pages(self.address, self.length).large) * PAGE
        if found < least:
            raise CannotAct(
                f"The kernel of this host put {found >> 20} MiB of guest RAM into large pages only."
            )

    def advise(self, address: int, length: int, advice: int) -> None:
        """Give advice about QEMU's memory; raise OSError if the kernel does not take it."""

        class Piece(ctypes.Structure):
            _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

        piece, process = Piece(address, length), os.pidfd_open(self._pid)
        try:
            done = _LIBC.syscall(_PROCESS_MADVISE, process, ctypes.byref(piece), ctypes.c_ulong(1), advice, 0)
            if done < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(process)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stop QEMU during the `with`, so that the kernel alone changes its entries."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + _STILL_SECONDS
            while not all(map(self._still, os.listdir(f"/proc/{self._pid}/task"))):
                if time.monotonic() > end:
                    raise HostFailure("A thread of QEMU did not stop.", False, expired=True)
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def _still(self, thread: str) -> bool:
        try:
            with open(f"/proc/{self._pid}/task/{thread}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] in "TD"
        except OSError:
            return True


class Mailbox:
    """The agent of a bare guest (guest_images/agent/bare_agent.py), by the numbers that the order has."""

    def __init__(self, qemu: Qemu, memory: HostMemory, numbers: dict[str, int]) -> None:
        self._qemu = qemu
        self._memory = memory
        self._numbers = numbers

    def flip_holes(self, indices: list[int]) -> None:
        """Have the guest flip a bit of the page behind each data page; the second time it is as at first."""
        self._ask(self._numbers["pause"], [])
        for index in indices:
            self._ask(self._numbers["hole"], [0, index, 1])
        self._ask(self._numbers["resume"], [])

    def _ask(self, command: int, arguments: list[int]) -> None:
        at, memory = self._numbers, self._memory
        number = memory.read(at["answer"]) + 1
        for place, words in (("arguments", arguments), ("command", [command]), ("request", [number])):
            self._put(at[place], words)
        self._qemu.wait(lambda: memory.read(at["answer"]) == number, "The agent's answer")
        if memory.read(at["result"]):
            raise HostFailure(f"The agent refused the command {command}.", False)

    def _put(self, at: int, words: list[int]) -> None:
        self._qemu.wait(lambda: self._memory.write(at, words), "The release of the mailbox")


class Disturbance:
    """What the kernel does to pages of a guest while they are saved, and what came of it.

    Attributes:
        lost: guest-physical addresses of pages that were protected before an act and not after it, with QEMU
            stopped.
        met: how many pages the acts were done to while QEMU was stopped, and while it ran.
        holes: how many pages of zeros the guest wrote to afterwards.
    """

    def __init__(self, memory: HostMemory, mailbox: Mailbox, saves: Callable[[], bool]) -> None:
        self._memory = memory
        self._mailbox = mailbox
        self._saves = saves
        self.lost: list[int] = []
        self.met = {"stopped": 0, "running": 0}
        self.holes = 0
        self._refused = ""

    def do(self, flow: str, indices: list[int]) -> None:
        """Do what a flow is named after: "split" (with holes to write to), "soft-offline" or "poisoned"."""
        if flow == "split":
            self.split(indices)
        elif flow == "soft-offline":
            self.soft_offline(_OFFLINED_PER_PIECE)
        else:
            self.poison()

    def split(self, indices: list[int]) -> None:
        """Split the large pages by advice about a part of each; then the guest writes to pages of zeros."""

        def act(address: int, length: int) -> None:
            self._memory.advise(address + length // 2, PAGE, _MADV_COLD)

        def met(before: Pages, after: Pages) -> int:
            return sum(then and not now for then, now in zip(before.large, after.large))

        self._act_on_all(act, met)
        self._mailbox.flip_holes(indices)
        self._require_saving()
        self.holes = len(indices)

    def soft_offline(self, per_piece: int) -> None:
        """Have the kernel take frames out of use, which moves their pages to others.

        Raises:
            CannotAct: the kernel refused each of them.
        """
        taken: list[bool] = []

        def act(address: int, length: int) -> None:
            places = range(address, address + length, length // per_piece)
            taken.extend(self.offline("soft", at) for at in places)

        def met(before: Pages, after: Pages) -> int:
            return sum(
                bool(then & now & _PRESENT) and then & _FRAME != now & _FRAME
                for then, now in zip(before.entries, after.entries)
            )

        self._act_on_all(act, met)
        if self._refused and not any(taken):
            raise CannotAct(f"The kernel took no frame out of use: {self._refused}.")

    def offline(self, how: str, address: int) -> bool:
        """Have the kernel take the frame of a page out of use, "soft" or "hard"; return whether it did."""
        (entry,) = self._memory.entries(address, PAGE)
        if not entry & _PRESENT:
            return False
        try:
            with open(_OFFLINE.format(how), "w") as file:
                file.write(f"{(entry & _FRAME) * PAGE:#x}")
        except FileNotFoundError:
            raise CannotAct("The kernel of this host cannot take memory offline.") from None
        except OSError as error:
            # A page that the kernel cannot isolate now, for example one that another thread pins.
            self._refused = os.strerror(error.errno or 0)
            return False
        return True

    def poison(self) -> None:
        """Have the kernel take the frame of the last page that is not saved yet for broken.

        Raises:
            CannotAct: no page was protected, or the kernel did not do it.
        """
        memory = self._memory
        pages = memory.pages(memory.address, memory.length)
        # The zero page and parts of large pages are not poisoned like others.
        found = [
            number
            for number, (entry, flags) in enumerate(zip(pages.entries, pages.flags))
            if entry & _PROTECTED and flags & _ANON and not flags & (_ZERO_PAGE | _COMPOUND)
        ]
        if not found:
            raise CannotAct("No page was protected when one was to be poisoned.", False)
        if not any(self.offline("hard", memory.address + number * PAGE) for number in found[:-_TRIED:-1]):
            raise CannotAct("The kernel did not poison a page.")

    def _act_on_all(self, act: Callable[[int, int], None], met: Met) -> None:
        for number, (address, length) in enumerate(self._memory.pieces()):
            self._require_saving()
            stopped = number % 2 == 0
            with self._memory.held() if stopped else contextlib.nullcontext():
                before = self._memory.pages(address, length)
                act(address, length)
                after = self._memory.pages(address, length)
            self.met["stopped" if stopped else "running"] += met(before, after)
            if stopped:
                self.lost += [
                    address + place * PAGE - self._memory.address
                    for place, (then, now) in enumerate(zip(before.entries, after.entries))
                    if then & _PROTECTED and not now & _PROTECTED
                ]

    def _require_saving(self) -> None:
        if not self._saves():
            raise CannotAct("The save ended before the kernel had acted on all pages.", False)

    def facts(self) -> dict[str, Any]:
        """Return the findings for a report."""
        return {"lost": self.lost[:64], "lost_pages": len(self.lost), "met": self.met, "holes": self.holes}
