"""The types of a judgement: violations with their place, results of checks, the verdict."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.codes import Code, Fields
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.status import Status, worst

VIOLATION_LIMIT = 1000
"""How many violations of a check are kept; all are counted."""

BAD_PAGE_LIMIT = 1 << 21
"""How many bad pages of a check are kept, those of 8 GiB of RAM; they take 16 MiB."""

Facts = dict[str, int | float | str]


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong, and where.

    Attributes:
        check: name of the check that found it.
        code: what is wrong; it stays the same when sentences change.
        sentence: one full sentence.
        block: RAMBlock, "" if it is about none.
        offset: byte offset inside that RAMBlock, None if it is about no page.
        gpa: guest-physical address of the page in bytes, None if unknown.
        file_offset: byte offset in the vmstate file, None if unknown.
        expected: what should be there, in words.
        found: what is there, in words.
        thread: agent thread, None if it is about no agent page.
        index: index of the page inside that thread.
        generation: generation that should be there.
        hexdump: a few lines around the first wrong byte.
        fields: values that tell apart what the code stands for.
    """

    check: str
    code: Code
    sentence: str
    block: str = ""
    offset: int | None = None
    gpa: int | None = None
    file_offset: int | None = None
    expected: str = ""
    found: str = ""
    thread: int | None = None
    index: int | None = None
    generation: int | None = None
    hexdump: str = ""
    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class T0:
    """T0 as found from the agent's pages in a file.

    Attributes:
        steps: page writes completed, per thread; 0 for a thread of which it could not be found.
        monotonic_ns: guest CLOCK_MONOTONIC in ns, up to a heartbeat (10 ms) old.
    """

    steps: tuple[int, ...]
    monotonic_ns: int


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: short name, the same in every file.
        explanation: one line: what the check demands.
        status: PASS, FAIL, SKIP or DONE.
        violations: the first VIOLATION_LIMIT of them.
        total: number of all of them.
        facts: figures that it found.
        bad_pages: by RAMBlock the offsets in bytes of bad pages, for maps; the first BAD_PAGE_LIMIT.
        reason: why it was skipped, "" otherwise.
        known_issue: id of the issue that explains its failure, or that did not show; "" for none.
        t0: T0 as the check found it, None for checks that do not look for it.
    """

    name: str
    explanation: str
    status: Status
    violations: tuple[Violation, ...] = ()
    total: int = 0
    facts: Facts = field(default_factory=dict)
    bad_pages: dict[str, Sequence[int]] = field(default_factory=dict, repr=False)
    reason: str = ""
    known_issue: str = ""
    t0: T0 | None = None

    def to_json(self, page_size: int = TARGET_PAGE_BYTES) -> dict[str, Any]:
        """Return its JSON form as plain values.

        Args:
            page_size: bytes of a target page, by which bad pages are grouped into ranges.
        """
        return {
            "name": self.name,
            "explanation": self.explanation,
            "status": self.status.value,
            "reason": self.reason,
            "total": self.total,
            "facts": dict(self.facts),
            "ranges": [dict(vars(found)) for found in group_ranges(self.bad_pages, page_size)],
            "violations": [_violation_json(violation) for violation in self.violations],
            **({"known_issue": self.known_issue} if self.known_issue else {}),
        }


@dataclass(frozen=True)
class Verdict:
    """The judgement on one vmstate file.

    Attributes:
        checks: results in the order in which the checks ran.
        facts: figures about the file.
        lengths: bytes of every RAMBlock, by idstr.
    """

    checks: tuple[CheckResult, ...]
    facts: Facts = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """Return the worst status of all checks, ERROR if there are none."""
        return worst(check.status for check in self.checks) or Status.ERROR

    def check(self, name: str) -> CheckResult | None:
        """Return the result of the check with that name, None if it did not run."""
        return next((check for check in self.checks if check.name == name), None)

    @property
    def t0(self) -> T0 | None:
        """Return T0 as one of the checks found it, None if none did."""
        return next((check.t0 for check in self.checks if check.t0), None)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Return the kept violations of all checks."""
        return tuple(violation for check in self.checks for violation in check.violations)

    @property
    def page_size(self) -> int:
        """Return the bytes of a target page; if no file was read, those of a usual one."""
        return int(self.facts.get("page size", TARGET_PAGE_BYTES))

    def to_json(self) -> str:
        """Return the verdict as JSON text, version 1 of its format."""
        checks = [check.to_json(self.page_size) for check in self.checks]
        content = {"version": 1, "status": self.status.value, "facts": self.facts, "checks": checks}
        return json.dumps(content, indent=1)


class Tally:
    """Collects the violations of one check: keeps the first VIOLATION_LIMIT, counts all."""

    def __init__(self, name: str, explanation: str) -> None:
        self.name = name
        self.explanation = explanation
        self.violations: list[Violation] = []
        self.total = 0
        self.facts: Facts = {}
        self.bad_pages: dict[str, array[int]] = {}
        self._marked = 0

    def add(self, violation: Violation, count: int = 1) -> None:
        """Note a violation that stands for `count` violations."""
        self.total += count
        if len(self.violations) < VIOLATION_LIMIT:
            self.violations.append(violation)
        if violation.block and violation.offset is not None and count == 1:
            self._mark(violation.block, [violation.offset])

    def report(
        self,
        code: Code,
        sentence: str,
        block: str = "",
        offset: int | None = None,
        file_offset: int | None = None,
    ) -> None:
        """Note a violation of this check; the arguments are those of Violation."""
        self.add(Violation(self.name, code, sentence, block, offset, file_offset=file_offset))

    def count(self, block: str, offsets: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Count bad pages without a violation for each; `offsets` are in bytes inside the RAMBlock."""
        if len(offsets):
            self.total += len(offsets)
            self._mark(block, offsets)

    def _mark(self, block: str, offsets: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Keep the places of bad pages for maps and ranges, up to BAD_PAGE_LIMIT."""
        some = np.asarray(offsets[: BAD_PAGE_LIMIT - self._marked], np.uint64)
        self._marked += len(some)
        self.bad_pages.setdefault(block, array("Q")).frombytes(some.tobytes())

    @property
    def keeps_places(self) -> bool:
        """Return whether the place of a further bad page would be kept, and it is not only counted."""
        return self._marked < BAD_PAGE_LIMIT or not self.full

    @property
    def room(self) -> int:
        """Return how many more violations would be kept."""
        return VIOLATION_LIMIT - len(self.violations)

    @property
    def full(self) -> bool:
        """Whether further violations are only counted."""
        return not self.room

    def result(self) -> CheckResult:
        """Return PASS if nothing was noted, else FAIL."""
        status = Status.FAIL if self.total else Status.PASS
        return CheckResult(
            self.name, self.explanation, status, tuple(self.violations), self.total, self.facts,
            dict(self.bad_pages),
        )  # fmt: skip

    def skip(self, reason: str) -> CheckResult:
        """Return SKIP with its reason, or FAIL if violations were noted before."""
        if self.total:
            return self.result()
        return CheckResult(self.name, self.explanation, Status.SKIP, facts=self.facts, reason=reason)


@dataclass(frozen=True)
class PageRange:
    """Bad pages that follow one another.

    Attributes:
        block: RAMBlock.
        start: byte offset of the first.
        end: byte offset behind the last.
        pages: number of them.
    """

    block: str
    start: int
    end: int
    pages: int


def group_ranges(
    bad_pages: Mapping[str, Sequence[int]], page_size: int = TARGET_PAGE_BYTES
) -> list[PageRange]:
    """Group bad pages (byte offsets by RAMBlock) into ranges of neighbours, in ascending order."""
    ranges = []
    for block, offsets in bad_pages.items():
        # A damaged record may name any 64-bit offset. As a page number it can be added to without overflow.
        pages = np.sort(np.asarray(offsets, np.uint64) // np.uint64(page_size)).astype(np.int64)
        if not len(pages):
            continue
        pages = pages[np.append(True, pages[1:] != pages[:-1])]
        gaps = np.flatnonzero(np.diff(pages) != 1)
        starts, ends = pages[np.append(0, gaps + 1)], pages[np.append(gaps, -1)] + 1
        ranges += [
            PageRange(block, start * page_size, end * page_size, end - start)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
    return ranges


def hexdump(data: bytes, start: int, label: str, length: int = 32) -> str:
    """Format `data` around byte `start` in lines of 16 bytes, each with `label` and the byte offset."""
    first = start // 16 * 16
    lines = [
        f"{label} +0x{at:03x}: {data[at : at + 16].hex(' ')}"
        for at in range(first, min(len(data), first + length), 16)
    ]
    return "\n".join(lines)


def _violation_json(violation: Violation) -> dict[str, object]:
    """Return a violation's JSON form: what it has, as plain values."""
    values = {**vars(violation), "code": violation.code.value, "fields": dict(violation.fields)}
    return {key: value for key, value in values.items() if value not in (None, "", {})}
