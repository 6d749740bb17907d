"""Feature tests that are known to fail on kernels of the catalogue, each with what mended it later.

By host and not by version: a kernel of one's own, or a newer one, gets no pardon. A failure that says
something else than expected here stays a failure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class KnownFailure:
    """One defect of Linux that old kernels of the catalogue still have.

    Attributes:
        hosts: names of the hosts on which it was seen.
        tests: shell pattern for the tests that show it.
        words: regular expression for what they say then.
        what: the defect, and what mended it.
    """

    hosts: tuple[str, ...]
    tests: str
    words: str
    what: str


KNOWN = (
    KnownFailure(
        ("debian-11",),
        "swap.anon.switching-swap-off-keeps-protection",
        "went through and was told to nobody",
        "swapoff loses the protection of pages that were swapped out (mended in 5.19, 14a762dd1977)",
    ),
    KnownFailure(
        ("debian-11",),
        "lifetime.*.closing-releases-all",
        "was not protected by the new userfaultfd",
        "closing a userfaultfd leaves pages marked as protected (mended in 6.9, c88033efe9a3)",
    ),
    KnownFailure(
        ("debian-11",),
        "snapshot.balanced",
        "is newer than T0",
        "NUMA balancing maps a huge page that it has moved as writable, protected or not (docs/findings.md, "
        "F16; until 5.13, mm/migrate.c migrate_misplaced_transhuge_page())",
    ),
    KnownFailure(
        ("debian-12",),
        "preserved.hugetlb-private.a-child-is-not-protected",
        "does not end: it still waits",
        "a child inherits the protection of private huge pages (mended in 6.4, 5a2f8d22ace4)",
    ),
)


def known_as(host: str, name: str, words: str) -> str:
    """What a failure is known as on a host, empty where it is not.

    Args:
        host: of the catalogue.
        name: suite.memory.test, or snapshot.STEP.
        words: of the failure.
    """
    for known in KNOWN:
        fits = host in known.hosts and fnmatchcase(name, known.tests)
        if fits and re.search(known.words, words):
            return known.what
    return ""


def with_known(host: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """A result of a feature test, XFAIL instead of FAIL where it fails as is known of that host."""
    if event.get("event") != "result" or event["status"] != "FAIL":
        return dict(event)
    slug = f"{event['suite']}.{event['memory']}.{event['test']}"
    known = known_as(host, slug, event["reason"])
    return (
        {**event, "status": "XFAIL", "reason": f"{event['reason']} Known: {known}."} if known else dict(event)
    )
