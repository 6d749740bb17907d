"""Turns lines of a kernel trace into page faults: part of the watcher (Python 3.9, standard library)."""

from __future__ import annotations

import re
from typing import Any

ENTER, LEAVE = "uffd_in", "uffd_out"
"""Names of the events in the trace: at the entry of handle_userfault(), and at its return."""

_MAX_THREADS = 4 << 10

# Linux kernel/trace/trace_output.c, trace_print_context(). A thread chooses its own name, of at most 15
# bytes. The bound keeps a name from passing for the rest of a line.
_LINE = re.compile(
    r"\s*(?P<name>.{1,16}?)-(?P<tid>\d{1,10})\s+(?:\(\s*[-\d]+\)\s+)?\[\d{3,6}\]\s+(?:\S{4,6}\s+)?"
    r"(?P<seconds>\d{1,12})\.(?P<us>\d{6}):\s(?P<what>\w+):\s\("
)
_LOST = re.compile(r"CPU:\d+ \[LOST (\d{1,12}) EVENTS\]")


def bucket_of(number: int) -> int:
    """Return the bucket of a number: one for each number up to 15, then eight for each power of two."""
    if number < 16:
        return max(0, number)
    shift = number.bit_length() - 4
    return 8 * shift + (number >> shift)


class Faults:
    """Pairs the entries and returns of each thread, line by line of a trace."""

    def __init__(self) -> None:
        self.threads: dict[int, dict[str, Any]] = {}
        """For each thread id its name, its longest fault in us, and its faults by bucket of us."""
        self.lost = 0
        """Events that the kernel dropped because this program read too slowly."""
        self.unpaired = 0
        """Returns without an entry, and entries without a return."""
        self.unread = 0
        """Lines that are neither of these events."""
        self._entered: dict[int, int] = {}

    def line(self, text: str) -> None:
        """Count one line of the trace. A line that cannot be read is counted too and raises no error."""
        lost = _LOST.match(text)
        if lost:
            self.lost += int(lost.group(1))
            return
        match = _LINE.match(text)
        if not match:
            self.unread += bool(text.strip()) and not text.startswith("#")
            return
        tid, what = int(match.group("tid")), match.group("what")
        now = int(match.group("seconds")) * 1000000 + int(match.group("us"))
        if what == ENTER:
            self.unpaired += tid in self._entered
            if len(self._entered) < _MAX_THREADS:
                self._entered[tid] = now
        elif what == LEAVE:
            begun = self._entered.pop(tid, None)
            if begun is not None and now >= begun:
                self._count(tid, match.group("name"), now - begun)
            else:
                self.unpaired += 1
        else:
            self.unread += 1

    def end(self) -> None:
        """Count the entries that have not returned."""
        self.unpaired += len(self._entered)
        self._entered.clear()

    def _count(self, tid: int, name: str, us: int) -> None:
        if tid not in self.threads and len(self.threads) >= _MAX_THREADS:
            return
        thread = self.threads.setdefault(tid, {"name": name, "max_us": 0, "buckets": {}})
        thread["max_us"] = max(thread["max_us"], us)
        bucket = bucket_of(us)
        thread["buckets"][bucket] = thread["buckets"].get(bucket, 0) + 1
