"""Runs drawn lists of steps one after the other until time or number is over, and reduces what fails.

All that a campaign has got is in its folder at any time, so one that was killed can be read, and go on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.plural import counted
from harness.qemu.qapi_schema import QapiSchema, read_schema
from harness.qemu.spawned_machine import SpawnedMachine
from harness.status import Status
from snapproof.explore.coverage import Coverage
from snapproof.explore.draw import Drawer
from snapproof.explore.findings import Finding, Findings, same_failure, signature, write_finding
from snapproof.explore.journal import (
    CORPUS_FILE,
    LISTS_FILE,
    SUMMARY_FILE,
    Entry,
    read_entries,
    read_findings,
)
from snapproof.explore.merge import read_part
from snapproof.explore.reduction import reduce_steps
from snapproof.explore.results import ENDED, INTERRUPTED, RUNNING, write_campaign
from snapproof.explore.script_trial import try_script
from snapproof.runs.interruption import asked_to_stop
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import now
from tests_functional.explore.executor import Record, run_steps
from tests_functional.explore.guests import DEVICES, chosen_arguments
from tests_functional.explore.known import known_issue, leads_to_known
from tests_functional.explore.menu import KINDS
from tests_functional.explore.names import Names, read_names
from tests_functional.explore.steps import GuestChoice, StepList
from tests_functional.kernel.explore.limits import Limits
from tests_functional.lib.known_issues import KnownIssue, load_known_issues
from tests_functional.lib.outcome import write_atomically
from tests_functional.lib.run import Run, remove_heavy

RUNS_FILE = "runs.jsonl"
"""File of a finding's runs: each list of the reduction, and whether it failed in the same way."""

_LIST_SECONDS = 180.0
# report.html takes a second of a busy processor.
_REPORT_SECONDS = 60.0
_MOST_RUNS_FOR_ONE = 80
# Steps of a short list, and how much longer a reduction may take that has not got there.
_SHORT, _LONG_FACTOR = 6, 3
# Of the lists, those that avoid what leads to known issues, so that these hide nothing.
_AVOIDING_SHARE = 4 / 5
REDUCTION_SECONDS = 300.0
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
        issues: the known issues of the baseline; without them each failure is a new cause.
        options: those that chose QEMU and guest, for the campaign when it goes on.
        state: RUNNING, ENDED or INTERRUPTED.
        shown: by known issue, the list that showed it first, and the folder with its files.
        errors: lists that say nothing, with the reasons.
        growth: seconds, lists and things reached, each time that it grew.
        begun: time.monotonic() at the beginning.
        started: the same as UTC time.
    """

    run: Run
    seed: int
    say: Callable[[str], None]
    issues: Sequence[KnownIssue] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    state: str = RUNNING
    shown: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    findings: Findings = field(default_factory=Findings)
    lists: int = 0
    proofs: int = 0
    pages: int = 0
    written_pages: int = 0
    errors: list[str] = field(default_factory=list)
    growth: list[tuple[float, int, int]] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    started: str = field(default_factory=now)
    _reported: float = float("-inf")

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
            f"{counted(self.lists, 'list')}, {counted(self.proofs, 'proof')}, "
            f"{counted(self.pages, 'page')} compared, {self.written_pages:,} written during saves, "
            f"{counted(len(self.coverage.seen), 'thing')} reached, "
            f"{counted(len(self.findings.found), 'cause')}"
            f"{f', known issues {known}' if known else ''}"
            f"{f', {len(self.errors)} without a verdict' if self.errors else ''}"
        )

    def explore(self, drawer: Drawer, limits: Limits) -> None:
        """Run lists until a limit is reached; reduce before what an earlier part has left unreduced."""
        # From here on the campaign can be continued.
        (self.run.folder / LISTS_FILE).touch()
        self.write_summary()
        for finding in [one for one in self.findings.found if one.reduced is None]:
            self.reduce(finding, limits)
        while not self._over(limits):
            steps = drawer.draw(f"{self.seed}:{self.lists}", self.coverage, self._avoids())
            record = self.take(steps)
            if record.failed:
                self._failed(record, limits)
            self.write()
            self.say(self.line)
        self.state = INTERRUPTED if asked_to_stop() else ENDED

    def take(self, steps: StepList) -> Record:
        """Run a list in a folder of its own, which stays if it failed, and count it."""
        self.lists += 1
        record = self.tried(steps, self._list_folder(self.lists))
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

    def reduce(self, finding: Finding, limits: Limits) -> None:
        """Reduce a cause's first list, and write what was found into the cause's folder."""
        assert finding.folder is not None
        runs_folder = finding.folder / "runs"
        # Of a reduction that was ended.
        shutil.rmtree(runs_folder, ignore_errors=True)
        begun = time.monotonic()
        runs, fewest = 0, len(finding.first.steps)

        def fails(steps: StepList) -> bool:
            nonlocal runs, fewest
            runs += 1
            self.say(
                f"{self.line}; reducing {finding.folder}, run {runs}, {counted(len(steps.steps), 'step')}"
            )
            tried = self.tried(steps, runs_folder / f"{runs:03d}")
            same = tried.failed and same_failure(tried.violations, finding.violations)
            self._append(runs_folder / RUNS_FILE, {"failed": same, "list": steps.to_json()})
            fewest = min(fewest, len(steps.steps)) if same else fewest
            return same

        def may_go_on(count: int) -> bool:
            # One that is still long may take more: each run of a hang waits for a time limit.
            factor = 1 if fewest <= _SHORT else _LONG_FACTOR
            late = time.monotonic() - begun >= factor * limits.reduction_seconds
            return count < factor * _MOST_RUNS_FOR_ONE and not late

        finding.reduced = reduce_steps(finding.first, fails, may_go_on)
        finding.known = known_issue(finding.steps, finding.violations, self.issues, self.version)
        self._keep(finding)
        finding.script = try_script(finding.folder, self.run.stack.executable)
        self._keep(finding)
        if finding.known:
            self.findings.known[finding.known] += finding.times
            self._note_shown(finding.known, None, f"findings/{finding.folder.name}")

    def _keep(self, finding: Finding) -> None:
        assert finding.folder is not None
        self.findings.keep(finding)
        write_finding(finding, finding.folder, self.version, str(self.run.stack.executable))

    def _failed(self, record: Record, limits: Limits) -> None:
        if known := self._known(record):
            self.findings.known[known] += 1
            self._note_shown(known, self.lists)
            return
        before = self.findings.seen_before(record)
        if before is not None:
            before.times += 1
            if before.known:
                self.findings.known[before.known] += 1
            return
        name = f"{self.findings.count + 1:02d}-{record.violations[0].code.value}"
        # The steps after the one that showed it are not needed.
        first = record.steps.with_steps(record.steps.steps[: record.taken + 1])
        finding = Finding(signature(record.violations), first, record.violations)
        finding.folder = self.run.folder / "findings" / name
        # First as it is: a reduction takes minutes.
        self._keep(finding)
        self.write()
        self.reduce(finding, limits)
        self.report()

    def _note_shown(self, issue: str, number: int | None, folder: str = "") -> None:
        """Note which list showed a known issue, if none did before."""
        place = folder or f"lists/{number:05d}"
        self.shown.setdefault(issue, {"list": number, "folder": place})

    def _known(self, record: Record) -> str:
        if not record.failed:
            return ""
        return known_issue(record.steps, record.violations, self.issues, self.version)

    def _avoids(self) -> bool:
        return self.lists % 5 < round(5 * _AVOIDING_SHARE)

    def _over(self, limits: Limits) -> bool:
        late = limits.seconds is not None and self.seconds >= limits.seconds
        return asked_to_stop() or late or (limits.runs is not None and self.lists >= limits.runs)

    def _log(self, record: Record) -> None:
        entry = Entry(
            number=self.lists,
            at=round(self.seconds, 1),
            seconds=round(record.seconds, 2),
            status=record.status.value,
            signature=signature(record.violations),
            known=self._known(record),
            error=record.error,
            steps=record.steps,
            reached=tuple(sorted(record.reached)),
            proofs=record.proofs,
            pages=record.pages,
            written_pages=record.written_pages,
        )
        self._append(self.run.folder / LISTS_FILE, entry.to_json())

    def _append(self, path: Path, entry: Mapping[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            # One write, so that only the last line can be cut short.
            file.write(json.dumps(entry) + "\n")

    def write_summary(self) -> None:
        """Write the summary as it is now, whole or not at all.

        Raises:
            OSError: the disk is full.
        """
        write_atomically(self.run.folder / SUMMARY_FILE, json.dumps(self.to_json(), indent=1) + "\n")

    def write(self) -> None:
        """Write the summary and the corpus as they are now, and once a minute the page.

        Raises:
            OSError: the disk is full.
        """
        self.write_summary()
        self.coverage.save(self.run.folder / CORPUS_FILE)
        if self.seconds - self._reported >= _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        """Write results.json and report.html as they are now."""
        self._reported = self.seconds
        write_campaign(self.run.folder, self.to_json(), own_command())

    def go_on(self) -> None:
        """Take over what an earlier part of this campaign has left in its folder.

        Raises:
            UsageError: the folder has no such files, or others than this version's.
        """
        entries = read_entries(self.run.folder)
        self.started = read_part(self.run.folder).summary["started"]
        for entry in entries:
            self.lists = entry.number
            self.proofs += entry.proofs
            self.pages += entry.pages
            self.written_pages += entry.written_pages
            if entry.error and entry.status != Status.FAIL.value:
                self.errors.append(entry.error)
            if entry.known:
                self.findings.known[entry.known] += 1
                self._note_shown(entry.known, entry.number)
            if self.coverage.add(entry.steps, entry.reached):
                self.growth.append((entry.at, entry.number, len(self.coverage.seen)))
        self.begun -= entries[-1].at if entries else 0.0
        times = Counter(entry.signature for entry in entries if entry.signature and not entry.known)
        for finding in read_findings(self.run.folder):
            finding.times = times[finding.signature]
            self.findings.keep(finding)
            if finding.known:
                self.findings.known[finding.known] += finding.times
                self._note_shown(finding.known, None, f"findings/{finding.to_json()['folder']}")
        # The list that ran when it was ended is run anew.
        shutil.rmtree(self._list_folder(self.lists + 1), ignore_errors=True)

    def _list_folder(self, number: int) -> Path:
        return self.run.folder / "lists" / f"{number:05d}"

    def to_json(self) -> dict[str, Any]:
        """Return the summary for explore.json."""
        return {
            "version": 1,
            "environment": dict(self.run.host_environment),
            "seed": self.seed,
            "seeds": [self.seed],
            "options": dict(self.options),
            "state": self.state,
            "started": self.started,
            "seconds": round(self.seconds, 1),
            "lists": self.lists,
            "proofs": self.proofs,
            "pages_compared": self.pages,
            "pages_written_during_saves": self.written_pages,
            "without_verdict": self.errors,
            "known_issues": dict(self.findings.known),
            "known_shown": {name: dict(shown) for name, shown in self.shown.items()},
            "findings": [finding.to_json() for finding in self.findings.found],
            "growth": [list(entry) for entry in self.growth],
            "kinds": list(KINDS),
            "reached": self.coverage.to_json(),
        }


def read_commands(run: Run) -> tuple[QapiSchema, Names]:
    """Read the schema of the run's QEMU, and the names of what a guest with all devices has."""
    richest = chosen_arguments(GuestChoice(devices=tuple(DEVICES)))
    stack = replace(run.stack, extra=(*run.stack.extra, *richest))

    def opened() -> SpawnedMachine:
        # Of the campaign that goes on, or of a QEMU that has ended.
        shutil.rmtree(run.folder / "schema", ignore_errors=True)
        return SpawnedMachine(stack.machine_config(), run.folder / "schema")

    with opened() as machine:
        schema = read_schema(machine)
    return schema, read_names(opened)


def make_drawer(run: Run, issues: Sequence[KnownIssue]) -> Drawer:
    """Return what draws lists for a QEMU: on its accelerator, and now and then emulated."""
    accel, version = run.stack.accel, str(run.host_environment["qemu"])
    accels = (accel,) if accel == "tcg" else (accel, "tcg")
    schema, names = read_commands(run)
    return Drawer(schema, accels, lambda steps: leads_to_known(steps, issues, version), names)


def baseline_issues() -> tuple[KnownIssue, ...]:
    """Return the known issues of the baseline."""
    return load_known_issues()
