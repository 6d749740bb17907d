"""Runs drawn lists one after the other until time or number is over, and reduces what fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.plural import counted

from ..run import host_facts
from ..splats import KernelLog
from .coverage import Reached
from .ddmin import Reduced
from .draw import Drawer
from .executor import Record, Setting
from .known import known_issue
from .limits import Limits
from .reduction import reduce_list
from .session import SPLAT
from .steps import MemoryList
from .worker import Patience, Worker

Event = dict[str, Any]

_SAY_SECONDS, _WRITE_SECONDS = 2.0, 10.0
_MOST_RUNS_FOR_ONE = 400
# Of five lists, those that avoid what leads to known issues that were seen, so that these hide nothing.
_AVOIDING = 4
_MOST_ERRORS = 20
REDUCTION_SECONDS = 90.0
"""Seconds that one reduction may take."""


@dataclass
class Finding:
    """One cause.

    Attributes:
        record: of the short list.
        first: that list.
        reduced: the short list.
        known: name of the known issue that explains it, empty for none.
        seconds: from the beginning of the campaign to the first list that showed it.
        lists: lists that were run until then.
        seed: of that list.
        times: how often it was seen.
    """

    record: Record
    first: MemoryList
    reduced: Reduced[MemoryList]
    known: str
    seconds: float
    lists: int
    seed: str
    times: int = 1

    def to_event(self) -> Event:
        """Return it as an event."""
        return {
            "event": "finding",
            "signature": self.record.signature,
            "record": {**self.record.to_json(), "reached": []},
            "known": self.known,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "lists": self.lists,
            "first": self.first.to_json(),
            "steps": self.reduced.steps.to_json(),
            "runs": self.reduced.runs,
            "failed": self.reduced.failed,
            "tried": self.reduced.tried,
        }


@dataclass
class Campaign:
    """A campaign, while it runs and when it has ended.

    Attributes:
        drawer: draws the lists.
        setting, patience: of the processes that run them.
        seed: of the lists.
        coverage: what was reached.
        findings: the causes, by signature and known issue.
        lists, checked: lists that were run, and pages that were compared.
        errors: lists that say nothing, by reason.
    """

    drawer: Drawer
    setting: Setting
    patience: Patience
    seed: int
    coverage: Reached[MemoryList] = field(default_factory=Reached)
    findings: dict[str, Finding] = field(default_factory=dict)
    lists: int = 0
    checked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)
    _log: KernelLog = field(default_factory=KernelLog)

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.begun

    @property
    def known(self) -> Counter[str]:
        """How often each known issue was seen."""
        found: Counter[str] = Counter()
        for one in self.findings.values():
            if one.known:
                found[one.known] += one.times
        return found

    @property
    def avoided(self) -> set[str]:
        """The known issues that the next list avoids: none, or those that were seen already."""
        return {one.known for one in self.findings.values()} if self.lists % 5 < _AVOIDING else set()

    @property
    def line(self) -> str:
        """The running line."""
        new = sum(not one.known for one in self.findings.values())
        said = ", ".join(f"{name} {times}x" for name, times in sorted(self.known.items()))
        return (
            f"{counted(self.lists, 'list')}, {counted(self.checked, 'page')} compared, "
            f"{counted(len(self.coverage.seen), 'thing')} reached, {counted(new, 'cause')}"
            f"{f', known issues {said}' if said else ''}"
            f"{f', {sum(self.errors.values())} without a verdict' if self.errors else ''}"
        )

    def explore(self, limits: Limits) -> Iterator[Event]:
        """Run lists until a limit is reached, and yield events."""
        yield host_facts()
        said = wrote = time.monotonic()
        with Worker(self.setting, self.patience) as worker:
            while not self._over(limits):
                seed = f"{self.seed}:{self.lists}"
                steps = self.drawer.draw(seed, self.coverage, self.avoided)
                record = self.take(worker, steps)
                if record.code:
                    yield from self._failed(seed, steps, record, limits)
                if time.monotonic() - said > _SAY_SECONDS:
                    said = time.monotonic()
                    yield {"event": "progress", "line": self.line}
                if time.monotonic() - wrote > _WRITE_SECONDS:
                    wrote = time.monotonic()
                    # All that there is so far, for a campaign that is killed.
                    yield {**self.end(), "event": "so-far"}
        yield self.end()

    def take(self, worker: Worker, steps: MemoryList) -> Record:
        """Run a list and count it; the kernel's complaints are its."""
        record = worker.run(steps)
        self.lists += 1
        self.checked += record.checked
        self.coverage.add(steps, record.reached)
        if record.error:
            self.errors[record.sentence[:120]] += 1
        own = self._log.complaints().own
        if own and not record.code:
            record = Record(SPLAT, f"The kernel complained: {own[0]}", at=len(steps.steps))
        return record

    def _failed(self, seed: str, steps: MemoryList, record: Record, limits: Limits) -> Iterator[Event]:
        known = known_issue(steps, record)
        key = f"{known} {record.signature}"
        if key in self.findings:
            self.findings[key].times += 1
            return
        found, lists = self.seconds, self.lists
        yield {"event": "progress", "line": f"{self.line}; reducing {record.signature}"}
        reduced, record = self.reduce(steps, record, known, limits)
        finding = Finding(record, steps, reduced, known, found, lists, seed)
        self.findings[key] = finding
        yield finding.to_event()

    def reduce(
        self, steps: MemoryList, record: Record, known: str, limits: Limits
    ) -> tuple[Reduced[MemoryList], Record]:
        """Reduce a failing list, each run in a process of its own; return also what the short list shows."""
        until = time.monotonic() + limits.reduction_seconds
        records: dict[str, Record] = {}

        def fails(tried: MemoryList) -> bool:
            with Worker(self.setting, self.patience) as worker:
                shown = worker.run(tried)
            own = self._log.complaints().own
            if record.code == SPLAT:
                return bool(own)
            same = shown.signature == record.signature and known_issue(tried, shown) == known
            if same:
                records[tried.words] = shown
            return same

        # The steps after the one that showed it are not needed.
        first = steps.with_steps(steps.steps[: record.at + 1])
        reduced = reduce_list(
            first, fails, lambda count: count < _MOST_RUNS_FOR_ONE and time.monotonic() < until
        )
        return reduced, records.get(reduced.steps.words, record)

    def _over(self, limits: Limits) -> bool:
        late = limits.seconds is not None and self.seconds >= limits.seconds
        return late or (limits.runs is not None and self.lists >= limits.runs)

    def end(self) -> Event:
        """Return the summary, which is the last event."""
        return {
            "event": "end",
            "line": self.line,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "lists": self.lists,
            "checked": self.checked,
            "errors": dict(self.errors.most_common(_MOST_ERRORS)),
            "known": dict(self.known),
            "findings": sum(not one.known for one in self.findings.values()),
            "reached": self.coverage.to_json(),
            "corpus": [steps.to_json() for steps in self.coverage.corpus],
        }
