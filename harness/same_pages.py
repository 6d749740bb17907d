"""KSM, the kernel's merging of equal pages: whether we can have it, and for a while."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken
from harness.mappings import MERGED_PAGES

# Linux Documentation/admin-guide/mm/ksm.rst.
_KSM = Path("/sys/kernel/mm/ksm")
# Fast enough for 256 MiB within seconds; what was there before is put back.
# The first scan takes a page's checksum, the second merges it if it has not changed since (Linux mm/ksm.c,
# cmp_and_merge_page()); one more, since the first may have been under way.
_SCANS = 3
_WHILE_MERGING = {"sleep_millisecs": "10", "pages_to_scan": "20000", "run": "1"}


def require_merging() -> None:
    """Raise NotApplicable, with the reason, where we cannot have this host merge pages and count them."""
    if not _KSM.is_dir():
        raise NotApplicable(f"This host's kernel does not merge equal pages: it has no {_KSM}.")
    if f"\n{MERGED_PAGES}:" not in Path("/proc/self/smaps").read_text(errors="replace"):
        raise NotApplicable("This host's kernel does not say which memory it has merged (Linux 6.6 does).")
    try:
        for name in _WHILE_MERGING:
            # Only whether it may be written: writing what was read could undo another test's setting.
            (_KSM / name).open("r+").close()
    except OSError as error:
        raise NotApplicable(
            f"This user cannot have the host merge equal pages ({_KSM}/run): {error.strerror}."
        ) from error


def merge_all(deadline: Deadline) -> None:
    """Have the host merge all equal pages there are; its settings are put back, and what was merged stays so.

    Raises:
        SetupBroken: its settings cannot be changed, or it does not get round in time.
    """
    with _merging():
        wanted = _full_scans() + _SCANS
        try:
            deadline.wait_for(
                lambda: _full_scans() >= wanted, "The merging of all equal pages", interval=0.05
            )
        except DeadlineExpired as error:
            raise SetupBroken(
                f"The host did not look at all pages {_SCANS} times within {deadline.seconds:.0f} s."
            ) from error


def _full_scans() -> int:
    return int((_KSM / "full_scans").read_text())


@contextmanager
def _merging() -> Iterator[None]:
    try:
        with (_KSM / "run").open() as lock:
            # Whoever came second would else put back what the first had set, for good.
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
