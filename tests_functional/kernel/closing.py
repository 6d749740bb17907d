"""Names the kernel defects of closing a userfaultfd, and finds writes that fault for ever after it."""

from __future__ import annotations

import time
from pathlib import Path

from .calls import CallThread
from .oracle import PAGEMAP_DIFFERS
from .registry import KernelIssue
from .trial import Trial

STALE_BIT = "stale-protection"
"""Code of a write that waits, or causes an event, for a bit of a userfaultfd that is closed."""

ENDLESS_FAULTS = "endless-faults"
"""Code of a write that faults again and again after the userfaultfd is closed."""

_WHAT = "closing leaves protection bits behind (CVE-2024-36881, c88033efe9a3)"
# hugetlb_wp() of mm/hugetlb.c in 6.3 and stable kernels with 60d5b473d61b returns at once for a page with the
# bit, which hugetlb_fault() passes on to it where the mapping is not registered any more.
_ENDLESS = (
    "a write to a huge page with a bit that closing has left behind faults for ever (60d5b473d61b without "
)
_ENDLESS += "c88033efe9a3)"

CLOSING_ISSUES = (
    *(KernelIssue(_WHAT, code, (6, 9)) for code in (PAGEMAP_DIFFERS, STALE_BIT)),
    KernelIssue(_ENDLESS, ENDLESS_FAULTS, (6, 9), ("hugetlb", "hugetlb-private")),
)
"""Pagemap shows the bits where it can (5.14); before that a write to a page with one waits."""

_LOOK_SECONDS = 0.2
# A write to one page needs one or two; so many in each of several looks are no progress.
_MANY_FAULTS, _LOOKS = 1000, 3


def check_goes_on(trial: Trial, thread: CallThread) -> None:
    """Check that a writer goes on after the userfaultfd is closed, and that it does not fault for ever."""
    end = time.monotonic() + trial.patience
    looks, before = 0, page_faults(thread.thread_id)
    while thread.waits(_LOOK_SECONDS) and time.monotonic() < end:
        now = page_faults(thread.thread_id)
        looks = looks + 1 if now - before > _MANY_FAULTS else 0
        trial.check(
            looks < _LOOKS,
            f"A write to one page has caused {now} page faults, and more since the userfaultfd is closed.",
            ENDLESS_FAULTS,
        )
        before = now


def page_faults(thread_id: int) -> int:
    """Return how many minor page faults a thread of this process has had."""
    try:
        text = Path(f"/proc/self/task/{thread_id}/stat").read_text()
    except OSError:
        return 0
    # proc(5): the name, in parentheses, may hold spaces; the faults are the eighth field behind it.
    return int(text.rpartition(")")[2].split()[7])
