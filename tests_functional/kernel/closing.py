"""Names the kernel defect by which a closed userfaultfd leaves protection behind."""

from __future__ import annotations

from .oracle import PAGEMAP_DIFFERS
from .registry import KernelIssue

STALE_BIT = "stale-protection"
"""Code of a write that waits, or causes an event, for a bit of a userfaultfd that is closed."""

_WHAT = "closing leaves protection bits behind (CVE-2024-36881, c88033efe9a3)"

CLOSING_ISSUES = tuple(KernelIssue(_WHAT, code, (6, 9)) for code in (PAGEMAP_DIFFERS, STALE_BIT))
"""Pagemap shows the bits where it can (5.14); before that a write to a page with one waits."""
