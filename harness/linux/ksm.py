"""Let the host's kernel merge equal pages (KSM) for a while, and probe whether this user can do that."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken
from harness.linux.mappings import MERGED_PAGES

# Linux Documentation/admin-guide/mm/ksm.rst.
_KSM = Path("/sys/kernel/mm/ksm")
# The first scan takes a page's checksum, the second merges the page if it has not changed since (Linux
# mm/ksm.c, cmp_and_merge_page()). One more, because a scan may have been under way at the start.
_SCANS = 3
# Fast enough for 256 MiB within seconds.
_WHILE_MERGING = {"sleep_millisecs": "10", "pages_to_scan": "20000", "run": "1"}


def require_ksm() -> None:
    """Check that this user can let the host merge pages, and count the merged ones.

    Raises:
        NotApplicable: the kernel has no KSM or does not report merged memory, or the user may not control it.
    """
    if not _KSM.is_dir():
        raise NotApplicable(f"This host's kernel does not merge equal pages: it has no {_KSM}.")
    if f"\n{MERGED_PAGES}:" not in Path("/proc/self/smaps").read_text(errors="replace"):
        raise NotApplicable(
            "This host's kernel does not report merged memory in /proc/PID/smaps, as Linux does since 6.6."
        )
    try:
        for name in _WHILE_MERGING:
            # Open the file for writing, but do not write: that could undo the setting of another test.
            (_KSM / name).open("r+").close()
    except OSError as error:
        raise NotApplicable(
            f"This user may not control the merging of equal pages ({_KSM}/run): {error.strerror}."
        ) from error


def merge_equal_pages(deadline: Deadline) -> None:
    """Let the host merge all equal pages, then restore its settings; merged pages stay merged.

    Raises:
        SetupBroken: the settings cannot be changed, or the scans do not complete in time.
    """
    with _merging():
        wanted = _full_scans() + _SCANS
        try:
            deadline.wait_for(
                lambda: _full_scans() >= wanted, "The merging of all equal pages", interval=0.05
            )
        except DeadlineExpired as error:
            raise SetupBroken(
                f"KSM did not complete {_SCANS} scans of the host's memory within {deadline.seconds:.0f} s."
            ) from error


def _full_scans() -> int:
    return int((_KSM / "full_scans").read_text())


@contextmanager
def _merging() -> Iterator[None]:
    try:
        with (_KSM / "run").open() as lock:
            # Without the lock a second test would take the first one's settings for the host's own.
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = {name: (_KSM / name).read_text() for name in _WHILE_MERGING}
            try:
                _set(_WHILE_MERGING)
                yield
            finally:
                _set(dict(reversed(before.items())))
    except OSError as error:
        raise SetupBroken(f"The settings in {_KSM} cannot be changed: {error.strerror}.") from error


def _set(values: dict[str, str]) -> None:
    for name, value in values.items():
        (_KSM / name).write_text(value)
