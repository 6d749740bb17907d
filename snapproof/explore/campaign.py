"""Runs drawn lists of steps one after the other until time or number is over, and reduces what fails."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.qemu.qapi_schema import QapiSchema, read_schema
from harness.qemu.spawned_machine import SpawnedMachine
from snapproof.explore.coverage import Coverage
from snapproof.explore.draw import Drawer
from snapproof.explore.findings import Finding, Findings, same_failure, signature, write_finding
from snapproof.explore.reduction import reduce_steps
from tests_functional.explore.executor import Record, run_steps
from tests_functional.explore.known import known_issue, leads_to_known
from tests_functional.explore.steps import StepList
from tests_functional.kernel.explore.limits import Limits
from tests_functional.lib.known_issues import KnownIssue, load_known_issues
from tests_functional.lib.run import Run, remove_heavy

LISTS_FILE, CORPUS_FILE, SUMMARY_FILE = "lists.jsonl", "corpus.json", "explore.json"
"""Files of a results folder: each list that was run, those that reached something new, and the summary."""

_LIST_SECONDS = 180.0
_MOST_RUNS_FOR_ONE = 80
# Of the lists, those that avoid what leads to known issues, so that these hide nothing.
_AVOIDING_SHARE = 4 / 5
REDUCTION_SECONDS = 150.0
"""Seconds that one reduction may take."""


@dataclass
class Campaign:
    """A campaign, while it runs and when it has ended.

    Attributes:
        run: QEMU, guest, host and the results folder.
        seed: of the lists.
        say: shows the running line.
        coverage: what was reached.
        findings: the causes.
        lists: lists that were run.
        proofs: snapshots that were judged as a whole.
        pages: pages that oracles have compared.
        written_pages: pages that the guest has written during saves that were judged.
        errors: lists that say nothing, with the reasons.
        growth: seconds, lists and things reached, each time that it grew.
    """

    run: Run
    seed: int
    say: Callable[[str], None]
    coverage: Coverage = field(default_factory=Coverage)
    findings: Findings = field(default_factory=Findings)
    lists: int = 0
    proofs: int = 0
    pages: int = 0
    written_pages: int = 0
    errors: list[str] = field(default_factory=list)
    growth: list[tuple[float, int, int]] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @property
    def version(self) -> str:
        """QEMU's version."""
        return str(self.run.host_environment["qemu"])

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.begun

    @property
    def line(self) -> str:
        """The running line."""
        known = ", ".join(f"{name} {times}x" for name, times in sorted(self.findings.known.items()))
        return (
            f"{self.lists} lists, {self.proofs} proofs, {self.pages:,} pages compared, "
            f"{self.written_pages:,} written during saves, "
            f"{len(self.coverage.seen)} things reached, {len(self.findings.found)} causes"
            f"{f', known issues {known}' if known else ''}"
            f"{f', {len(self.errors)} without a verdict' if self.errors else ''}"
        )

    def explore(self, drawer: Drawer, limits: Limits, issues: Sequence[KnownIssue]) -> None:
        """Run lists until a limit is reached."""
        while not self._over(limits):
            steps = drawer.draw(f"{self.seed}:{self.lists}", self.coverage, self._avoids())
            record = self.take(steps)
            if record.failed:
                self._failed(record, limits, issues)
            self.say(self.line)

    def take(self, steps: StepList) -> Record:
        """Run a list in a folder of its own, which stays if it failed, and count it."""
        self.lists += 1
        record = self.tried(steps, self.run.folder / "lists" / f"{self.lists:05d}")
        self.proofs += record.proofs
        self.pages += record.pages
        self.written_pages += record.written_pages
        if record.error and not record.failed:
            self.errors.append(record.error)
        if self.coverage.add(steps, record.reached):
            self.growth.append((round(self.seconds, 1), self.lists, len(self.coverage.seen)))
        self._log(record)
        return record

    def tried(self, steps: StepList, folder: Path) -> Record:
        """Run a list in a folder, which stays if it failed."""
        folder.mkdir(parents=True)
        run = replace(self.run, folder=folder, seed=self.seed, deadline=Deadline(_LIST_SECONDS))
        record = run_steps(run, steps)
        if record.failed:
            remove_heavy(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return record

    def reduce(self, record: Record, limits: Limits, issues: Sequence[KnownIssue]) -> Finding:
        """Reduce a failing list and write what was found."""
        number = len(self.findings.found) + 1
        place = self.run.folder / "findings" / f"{number:02d}-{record.violations[0].code.value}"
        until = time.monotonic() + limits.reduction_seconds
        runs = 0

        def fails(steps: StepList) -> bool:
            nonlocal runs
            runs += 1
            self.say(f"{self.line}; reducing cause {number}, run {runs}, {len(steps.steps)} steps")
            tried = self.tried(steps, place / "runs" / f"{runs:03d}")
            return tried.failed and same_failure(tried.violations, record.violations)

        def may_go_on(count: int) -> bool:
            return count < _MOST_RUNS_FOR_ONE and time.monotonic() < until

        reduced = reduce_steps(record.steps, fails, may_go_on)
        known = known_issue(reduced.steps, record.violations, issues, self.version)
        finding = Finding(signature(record.violations), record, reduced, known)
        write_finding(finding, place, self.version, str(self.run.stack.executable))
        return finding

    def _failed(self, record: Record, limits: Limits, issues: Sequence[KnownIssue]) -> None:
        known = known_issue(record.steps, record.violations, issues, self.version)
        if known:
            self.findings.known[known] += 1
            return
        before = self.findings.seen_before(record)
        if before is not None:
            before.times += 1
            return
        finding = self.reduce(record, limits, issues)
        if finding.known:
            self.findings.known[finding.known] += 1
        else:
            self.findings.found.append(finding)

    def _avoids(self) -> bool:
        return self.lists % 5 < round(5 * _AVOIDING_SHARE)

    def _over(self, limits: Limits) -> bool:
        late = limits.seconds is not None and self.seconds >= limits.seconds
        return late or (limits.runs is not None and self.lists >= limits.runs)

    def _log(self, record: Record) -> None:
        entry = {
            "number": self.lists,
            "seconds": round(record.seconds, 2),
            "status": record.status.value,
            "signature": list(signature(record.violations)),
            "error": record.error,
            "list": record.steps.to_json(),
        }
        with (self.run.folder / LISTS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return the summary for explore.json."""
        return {
            "version": 1,
            "environment": dict(self.run.host_environment),
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "lists": self.lists,
            "proofs": self.proofs,
            "pages_compared": self.pages,
            "pages_written_during_saves": self.written_pages,
            "without_verdict": self.errors,
            "known_issues": dict(self.findings.known),
            "findings": [finding.to_json() for finding in self.findings.found],
            "growth": [list(entry) for entry in self.growth],
            "reached": self.coverage.to_json(),
        }


def schema_of(run: Run) -> QapiSchema:
    """Read the schema of the run's QEMU."""
    with SpawnedMachine(run.stack.machine_config(), run.folder / "schema") as machine:
        return read_schema(machine)


def make_drawer(run: Run, issues: Sequence[KnownIssue]) -> Drawer:
    """Return what draws lists for a QEMU: on its accelerator, and now and then emulated."""
    accel, version = run.stack.accel, str(run.host_environment["qemu"])
    accels = (accel,) if accel == "tcg" else (accel, "tcg")
    return Drawer(schema_of(run), accels, lambda steps: leads_to_known(steps, issues, version))


def baseline_issues() -> tuple[KnownIssue, ...]:
    """Return the known issues of the baseline."""
    return load_known_issues()
