"""Collects failing lists of steps by cause, and writes each cause into a folder of its own."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.codes import Code
from snapproof.explore.reproducer import reproducer_text
from tests_functional.explore.executor import Record
from tests_functional.explore.menu import readable_list
from tests_functional.explore.steps import StepList
from tests_functional.kernel.explore.ddmin import Reduced
from tests_functional.lib.outcome import write_atomically
from validators.verdict import Violation

STEPS_FILE = "steps.json"
"""File of a finding that `snapproof explore --replay` reads."""

FINDING_FILE = "finding.json"
"""File of a finding that a campaign that goes on reads."""

_STABLE = re.compile(r"(\d+) of (\d+)")

_NAMED_FIELDS = (
    "qemu_said",
    "command",
    "status",
    "state",
    "setting",
    "name",
    "error",
    "pages",
    "asserted",
    "step",
)
_FIELDS_OF_CAUSE = _NAMED_FIELDS[:-1]


def signature(violations: Sequence[Violation]) -> tuple[str, ...]:
    """Return what tells one cause from another: the codes of the violations with their fields, sorted."""
    return tuple(sorted({_named(violation) for violation in violations}))


def same_failure(one: Sequence[Violation], other: Sequence[Violation]) -> bool:
    """Return whether two failures may be the same: they share a code with its fields.

    A thread of QEMU's may end it at another step the next time.
    """
    ours, theirs = ({_named(each, _FIELDS_OF_CAUSE) for each in some} for some in (one, other))
    return bool(ours & theirs)


def _named(violation: Violation, names: Sequence[str] = _NAMED_FIELDS) -> str:
    found = [f"{name}={violation.fields[name]}" for name in names if name in violation.fields]
    return " ".join([violation.code.value, *found])


@dataclass
class Finding:
    """One cause.

    Attributes:
        signature: of its violations.
        first: the list that showed it first.
        violations: of that list.
        reduced: the short list, None before the reduction.
        known: id of the known issue that explains it, "" for none.
        times: how often it was seen.
        folder: where it was written.
        script: what its reproducer with QEMU alone did when it was tried, in a sentence; "" if it was not.
    """

    signature: tuple[str, ...]
    first: StepList
    violations: tuple[Violation, ...]
    reduced: Reduced[StepList] | None = None
    known: str = ""
    times: int = 1
    folder: Path | None = None
    script: str = ""

    @property
    def steps(self) -> StepList:
        """The shortest list that shows it."""
        return self.reduced.steps if self.reduced else self.first

    @property
    def sentence(self) -> str:
        """The first violation's sentence."""
        return self.violations[0].sentence

    def to_json(self) -> dict[str, Any]:
        """Return its form in explore.json."""
        reduced = self.reduced
        return {
            "signature": list(self.signature),
            "known_issue": self.known,
            "times": self.times,
            "sentence": self.sentence,
            "steps": self.steps.to_json(),
            "first": self.first.to_json(),
            "stable": f"{reduced.failed} of {reduced.tried}" if reduced else "not tried",
            "runs": reduced.runs if reduced else 0,
            "folder": self.folder.name if self.folder else "",
            "script": self.script,
            "violations": [_violation_json(one) for one in self.violations],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Finding:
        """Read back what `to_json` gave, of a finding that was written into a folder.

        Raises:
            UsageError, KeyError, ValueError: it has another form.
        """
        steps = readable_list(data["steps"])
        stable = _STABLE.fullmatch(data["stable"])
        reduced = Reduced(steps, int(data["runs"]), int(stable[1]), int(stable[2])) if stable else None
        violations = tuple(
            Violation(one["check"], Code.of(one["code"]), one["sentence"], fields=one["fields"])
            for one in data["violations"]
        )
        return cls(
            tuple(data["signature"]),
            readable_list(data["first"]),
            violations,
            reduced,
            data["known_issue"],
            data["times"],
            folder,
            data.get("script", ""),
        )


def _violation_json(one: Violation) -> dict[str, Any]:
    return {"check": one.check, "code": one.code.value, "sentence": one.sentence, "fields": dict(one.fields)}


@dataclass
class Findings:
    """All causes that were found, each once, and how often known issues showed.

    Attributes:
        found: causes that are not in the baseline.
        explained: causes of which only the short list showed that they are.
        known: how often each known issue showed.
    """

    found: list[Finding] = field(default_factory=list)
    explained: list[Finding] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many were written."""
        return len(self.found) + len(self.explained)

    def keep(self, finding: Finding) -> None:
        """Keep a cause, once it was reduced, in place of what was kept of it before."""
        for kept in (self.found, self.explained):
            kept[:] = [one for one in kept if one.folder != finding.folder]
        (self.explained if finding.known else self.found).append(finding)

    def seen_before(self, record: Record) -> Finding | None:
        """Return the finding that a failing list shows again, None for a new one."""
        wanted = signature(record.violations)
        for finding in (*self.found, *self.explained):
            if finding.signature == wanted:
                return finding
        return None


def write_finding(finding: Finding, folder: Path, qemu: str, executable: str) -> None:
    """Write a finding: its list, a test in Python, a reproducer with QEMU alone, and a draft of its text.

    Args:
        finding: the cause.
        folder: made for it.
        qemu: QEMU's version.
        executable: QEMU.

    Raises:
        OSError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finding.folder = folder
    steps = finding.steps
    write_atomically(folder / STEPS_FILE, json.dumps(steps.to_json(), indent=1) + "\n")
    write_atomically(folder / "test_explored.py", _test_text(steps, finding))
    script = folder / "reproduce.py"
    write_atomically(script, reproducer_text(steps, finding.sentence))
    script.chmod(0o755)
    write_atomically(folder / "finding.md", _draft(finding, qemu, executable))
    # The last one: a folder that has it has all of them.
    write_atomically(folder / FINDING_FILE, json.dumps(finding.to_json(), indent=1) + "\n")


def _test_text(steps: StepList, finding: Finding) -> str:
    """Return a scenario in Python that takes the steps."""
    lines = "\n".join(f"        Step({step.kind!r}, {dict(step.arguments)!r})," for step in steps.steps)
    words = " ".join(finding.sentence.split()).replace('"""', "'''")
    return f'''"""Takes the steps after which: {words}"""

from __future__ import annotations

from tests_functional.explore.scenario import explored
from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run

STEPS = StepList(
    {steps.guest!r},
    (
{lines}
    ),
)


def scenario(run: Run) -> Outcome:
    """Take the steps and judge all of it."""
    return explored(run, STEPS)
'''


def _draft(finding: Finding, qemu: str, executable: str) -> str:
    """Return the draft of an entry of docs/findings.md."""
    reduced = finding.reduced
    times = f"{reduced.failed} of {reduced.tried} runs of the first list" if reduced else "one run"
    steps = "\n".join(f"{number}. `{step.words}`" for number, step in enumerate(finding.steps.steps, 1))
    return f"""## F9xx: {" ".join(finding.sentence.split())}

**Seen** on QEMU {qemu}: {finding.steps.guest.words}; in {times}.

{steps or "No step is needed: a snapshot of the guest shows it."}

Codes: {"; ".join(f"`{name}`" for name in finding.signature)}.

**Reproduce**: `snapproof explore --replay steps.json --qemu {shlex.quote(executable)}`.
With QEMU alone: {finding.script or "`reproduce.py QEMU`, which was not tried."}

**Cause**: not looked into. **Control**: try the same steps during an ordinary migration.
"""
