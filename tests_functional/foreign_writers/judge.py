"""Judges the marks that a foreign writer left in a vmstate file and in the restored guest's RAM."""

from __future__ import annotations

from collections.abc import Sequence

from harness.codes import Code
from harness.errors import SnapproofError
from tests_functional.foreign_writers.marks import MarkedPage
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_FILE = "What a foreign writer wrote before T0 is in the file, and what it wrote after T0 is not."
_RESTORED = "The restored guest's foreign writer carries out what it was given before T0."
_MOST_NAMED = 3


def judge_marks(found: Sequence[MarkedPage], before: int, pages: int) -> CheckResult:
    """Check the marked pages of a file.

    Args:
        found: all of them.
        before: the pass of before T0.
        pages: number of pages that the writer writes in each pass.
    """
    newer = [page for page in found if page.newest > before]
    right = [page for page in found if page.oldest == page.newest == before]
    problems = []
    if newer:
        named = ", ".join(f"{page.block} at {page.offset:#x}" for page in newer[:_MOST_NAMED])
        problems.append(
            Problem(
                Code.FOREIGN_WRITER_NEWER,
                f"{len(newer)} of {pages} pages have what a foreign writer wrote after T0: {named}"
                f"{', ...' if len(newer) > _MOST_NAMED else ''}.",
                {"block": newer[0].block, "offset": newer[0].offset},
            )
        )
    lost = pages - len({page.index for page in (*right, *newer)} & set(range(pages)))
    surplus = len(found) - len({page.index for page in found})
    if surplus:
        sentence = f"{surplus} pages have the mark of a page that is in the file already."
        problems.append(Problem(Code.FOREIGN_WRITER_TWICE, sentence))
    if lost:
        problems.append(
            Problem(
                Code.FOREIGN_WRITER_LOST,
                f"{lost} of {pages} pages lack what a foreign writer wrote before T0.",
            )
        )
    facts = {"pages": pages, "pages newer than T0": len(newer), "pages older than T0": lost}
    return judged("foreign-writer", _FILE, problems, facts)


def judge_restored_writer(
    passes: Sequence[int | None], after: int, error: SnapproofError | None = None
) -> CheckResult:
    """Check that a restored guest's writer has written the pass that it was given before T0.

    Args:
        passes: that of each target page.
        after: the pass.
        error: why the writer did not end, None where it did.
    """
    problems = []
    if error is not None:
        problems.append(
            Problem(
                Code.FOREIGN_WRITER_SILENT,
                f"The foreign writer does not go on in the restored guest: {error.sentence}",
            )
        )
    elif (found := passes.count(after)) != len(passes):
        problems.append(
            Problem(
                Code.FOREIGN_WRITER_SILENT,
                f"The restored guest's foreign writer wrote {found} of {len(passes)} pages.",
            )
        )
    return judged("restored-foreign-writer", _RESTORED, problems)
