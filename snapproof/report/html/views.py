"""The values that the templates of report.html show: ready to print, all checked and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class FileLink:
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
        status: as in the results.
        explanation: what the check demands.
        reason: why it was skipped, or which known issue explains it.
        total: number of violations.
        violations: the first violations.
        issue: id of the known issue, "" if there is none.
        ranges: the first ranges of bad pages, in words.
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
        """Number of violations that are not shown."""
        return max(0, self.total - len(self.violations))


@dataclass(eq=False)
class TestView:
    """One test.

    Attributes:
        number: its number in the run, which its anchor is made from.
        name: its unique name.
        column: index of its column in the matrix.
        leg: label of its leg, "" if there is only one.
        short: its name without the label.
        group: its row in the matrix.
        status: as in the results.
        sentence: the result in a sentence.
        time: wall time in words.
        passed: number of checks that passed.
        checks: the checks that did not pass.
        hidden_checks: number of these that are not shown.
        snapshots: figures by snapshot.
        figures: name and value of the other figures.
        environment: name and value of what differs from the whole run.
        evidence: name and text of the evidence of a test that broke.
        links: its files.
        command: the command that repeats it.
        pictures: timelines of its snapshots.
    """

    __test__ = False  # pytest would take it for a test by its name.

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
    links: Sequence[FileLink] = ()
    command: str = ""
    pictures: Sequence[Markup] = ()

    @property
    def bad(self) -> bool:
        """Whether it failed or broke."""
        return self.status in BAD


BAD = ("FAIL", "ERROR", "MISS")


@dataclass(frozen=True)
class Column:
    """A host stack: a column of the matrix."""

    label: str
    qemu: str
    host_kernel: str


@dataclass(frozen=True)
class GroupView:
    """A group of tests on one host stack, to which a cell of the matrix leads."""

    name: str
    anchor: str
    counts: Sequence[tuple[str, int]]
    tests: Sequence[TestView]


@dataclass(frozen=True)
class Matrix:
    """Host stacks across, test groups down.

    Attributes:
        columns: the stacks.
        rows: for each group its name and its cells, None in a column where it has no test.
        kernels: whether the stacks differ in the host's kernel.
    """

    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[GroupView | None]]]
    kernels: bool


@dataclass(frozen=True)
class IssueView:
    """A known issue that checks of the run name.

    Attributes:
        id: as in docs/findings.md.
        title: its title, "" if the baseline does not have it any more.
        reproduce: the command that shows the issue alone.
        upstream: its state upstream, in words.
        href: a link to upstream, "" if there is none.
        seen: tests in which it showed.
        unseen: tests in which it should have shown and did not.
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
        title: name of the bench.
        about: how it was made, in a sentence.
        problem: why there is nothing to show, "" if there is something.
        pictures: the charts.
        table: the medians.
        errors: sentences of errors, each with its number.
        left_out: what was not measured, and why.
        facts: the environment.
        details: the part of the environment that few readers look for.
        command: the command that repeats it.
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


# Times from which a cell is darker.
_SHADES = (1, 3, 10, 30, 100)


@dataclass(frozen=True)
class Cell:
    """How often a kind of step was taken in a state.

    Attributes:
        times: that number.
        shade: from 0 for never to 5.
    """

    times: int

    @property
    def shade(self) -> int:
        """How dark it is."""
        return sum(self.times >= least for least in _SHADES)


@dataclass(frozen=True)
class ExploredView:
    """What the page shows of a campaign.

    Attributes:
        problem: why there is nothing else, "" if there is.
        facts: figures.
        states: the columns.
        rows: kinds of steps, with a cell for each state.
        pairs: how many pairs of a step and a state were taken, and how many there are.
    """

    problem: str = ""
    facts: Sequence[tuple[str, str]] = ()
    states: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[Cell]]] = ()
    pairs: tuple[int, int] = field(default=(0, 0))


@dataclass(frozen=True)
class RunPage:
    """Everything that the page of a run shows; the templates give the order."""

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
    explored: ExploredView | None
    lists: Sequence[tuple[str, Sequence[GroupView]]]
    total: int
    more_tests: int
    links: Sequence[FileLink]
    notes: Sequence[str] = field(default=())
