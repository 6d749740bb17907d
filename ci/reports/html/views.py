"""What the templates show: values ready to be printed, all of them checked and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Link:
    """A file beside the page: its name, its relative URL, its size in words."""

    text: str
    href: str
    size: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of each row names it."""

    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    more: int = 0


@dataclass(frozen=True)
class ViolationView:
    """One violation: its sentence, where it is, what should be there, and bytes of it."""

    sentence: str
    place: str = ""
    expected: str = ""
    found: str = ""
    hexdump: str = ""


@dataclass(frozen=True)
class CheckView:
    """A check that did not pass.

    Attributes:
        name: as in the results.
        status: as there.
        explanation: what it demands.
        reason: why it was skipped, or which issue explains it.
        total: number of violations.
        violations: the first of them.
        issue: id of the known issue, "" where there is none.
        ranges: the first stretches of bad pages, in words.
        picture: the map of bad pages.
    """

    name: str
    status: str
    explanation: str
    reason: str = ""
    total: int = 0
    violations: Sequence[ViolationView] = ()
    issue: str = ""
    ranges: Sequence[str] = ()
    picture: str | Markup = ""

    @property
    def hidden(self) -> int:
        """How many violations are not shown."""
        return max(0, self.total - len(self.violations))


@dataclass(eq=False)
class TestView:
    """One test.

    Attributes:
        number: its place in the run; its anchor is made of it.
        name: unique.
        column: index of its column in the matrix.
        leg: label of its leg, "" where there is only one.
        short: its name without that.
        group: its row in the matrix.
        status: as in the results.
        sentence: the result in a sentence.
        time: wall time in words.
        passed: number of checks that passed.
        checks: those that did not.
        hidden_checks: how many of these are not shown.
        snapshots: figures by snapshot.
        figures: the others, name and value.
        environment: what it ran with, beyond what the whole run has.
        evidence: of a test that broke: name and text.
        links: its files.
        command: runs it again.
        pictures: timelines of its snapshots.
    """

    __test__ = False  # It is no test of pytest's, whatever it is called.

    number: int
    name: str
    column: int
    leg: str
    short: str
    group: str
    status: str
    sentence: str
    time: str
    passed: int = 0
    checks: Sequence[CheckView] = ()
    hidden_checks: int = 0
    snapshots: Table = Table()
    figures: Sequence[tuple[str, str]] = ()
    environment: Sequence[tuple[str, str]] = ()
    evidence: Sequence[tuple[str, str]] = ()
    links: Sequence[Link] = ()
    command: str = ""
    pictures: Sequence[Markup] = ()

    @property
    def bad(self) -> bool:
        """Whether someone has to look at it."""
        return self.status in BAD


BAD = ("FAIL", "ERROR", "MISS")


@dataclass(frozen=True)
class Column:
    """A host stack: a column of the matrix."""

    label: str
    qemu: str
    host_kernel: str


@dataclass(frozen=True)
class Group:
    """A group of tests on one host stack: what a cell of the matrix leads to."""

    name: str
    anchor: str
    counts: Sequence[tuple[str, int]]
    tests: Sequence[TestView]


@dataclass(frozen=True)
class Matrix:
    """Host stacks across, test groups down.

    Attributes:
        columns: the stacks.
        rows: the name of each group, and its cell in each column, None where it has no test.
        kernels: whether the stacks differ in the host's kernel.
    """

    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Group | None]]]
    kernels: bool


@dataclass(frozen=True)
class IssueView:
    """A known issue that the run met.

    Attributes:
        id: as in docs/findings.md.
        title: one line, "" where the baseline does not have it any more.
        reproduce: the command that shows it alone.
        upstream: what is known upstream, in words.
        href: a link to upstream, "" where there is none.
        seen: tests in which it showed.
        unseen: tests in which it had to show and did not.
    """

    id: str
    title: str
    reproduce: str
    upstream: str
    href: str
    seen: Sequence[TestView] = ()
    unseen: Sequence[TestView] = ()


@dataclass(frozen=True)
class BenchView:
    """The figures of a bench.json.

    Attributes:
        title: which bench.
        about: how it was made, in a sentence.
        problem: why there is nothing to show, "" where there is.
        pictures: the charts.
        table: medians.
        errors: what went wrong, by sentence with its number.
        left_out: what was not measured, and why.
        facts: what it ran on.
        details: what few readers look for of that.
        command: does it again.
    """

    title: str
    about: str = ""
    problem: str = ""
    pictures: Sequence[Markup] = ()
    table: Table = Table()
    errors: Sequence[tuple[str, int]] = ()
    left_out: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    details: Sequence[tuple[str, str]] = ()
    command: str = ""


@dataclass(frozen=True)
class Page:
    """Everything the page shows; see the templates for the order."""

    title: str
    status: str
    headline: str
    meaning: str
    exit_code: str
    started: str
    time: str
    command: str
    counts: Sequence[tuple[str, int]]
    environment: Sequence[tuple[str, str]]
    details: Sequence[tuple[str, str]]
    stacks: Table
    matrix: Matrix | None
    failures: Sequence[TestView]
    more_failures: Sequence[TestView]
    issues: Sequence[IssueView]
    findings: str
    skips: Sequence[tuple[str, Sequence[TestView]]]
    bench: BenchView | None
    lists: Sequence[tuple[str, Sequence[Group]]]
    total: int
    more_tests: int
    links: Sequence[Link]
    notes: Sequence[str] = field(default=())
