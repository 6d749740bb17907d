"""A comparison as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from ci.reports.compare import KINDS, Change, Comparison
from ci.reports.text import one_line

_MOST_LETTERS = 300
# Of these the sentence is of no use: it is the old one, or says that all is well.
_NAME_ONLY = ("fixed", "known issues gone", "no longer skipped", "gone", "new tests")


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """What differs, the worst first, and a last line with the counts."""
    for name, (old, new) in comparison.environment.items():
        yield f"{one_line(name)}: {one_line(old)} -> {one_line(new)}"
    for kind in KINDS:
        changes = comparison.changes[kind]
        if changes:
            yield f"{kind}:"
            yield from (f"  {_line(kind, change)}" for change in changes)
    if comparison.slower:
        yield "slower:"
    for found in comparison.slower:
        # Of a time of nothing there is no multiple.
        times = f", {found.new / found.old:.1f} times" if found.old else ""
        yield f"  {one_line(found.test)} {one_line(found.figure)}: {found.old:,} -> {found.new:,}{times}"
    yield from comparison.notes
    counts = [f"{len(comparison.changes[kind])} {kind}" for kind in KINDS if comparison.changes[kind]]
    counts += [f"{len(comparison.slower)} slower"] if comparison.slower else []
    yield f"{comparison.compared} tests compared: {', '.join(counts) or 'no difference'}"


def _line(kind: str, change: Change) -> str:
    statuses = " -> ".join(filter(None, (change.old, change.new)))
    line = f"{one_line(change.test)} ({statuses})"
    return line if kind in _NAME_ONLY else f"{line}: {one_line(change.sentence, _MOST_LETTERS)}"
