"""What snapshots on kernels of the catalogue are known to get wrong, each with what mended it later.

By host and not by version: a kernel of one's own, or a newer one, gets no pardon. A failure that says
something else than expected here stays a failure. The feature tests know their own issues.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownFailure:
    """One defect of Linux that old kernels of the catalogue still have.

    Attributes:
        hosts: names of the hosts on which it was seen.
        step: name of the check that shows it.
        words: regular expression for what that says then.
        issue: its id in the baseline.
        what: the defect, and what mended it.
    """

    hosts: tuple[str, ...]
    step: str
    words: str
    issue: str
    what: str


KNOWN = (
    KnownFailure(
        ("debian-11",),
        "balanced",
        "is newer than T0",
        "F17",
        "NUMA balancing maps a huge page that it has moved as writable, protected or not (F17)",
    ),
)


def known_as(host: str, step: str, words: str) -> KnownFailure | None:
    """What a failure is known as on a host, None where it is not."""
    for known in KNOWN:
        if host in known.hosts and step == known.step and re.search(known.words, words):
            return known
    return None
