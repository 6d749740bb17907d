"""The results of a run as values, and their form in results.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from harness.status import Status, exit_code, worst
from tests_functional.lib.result_files import RESULTS_FILE as RESULTS_FILE

SCHEMA_VERSION = 1


def label_of(name: str, labels: Iterable[str]) -> str:
    """Return the longest label with which a test's name begins, "" for none."""
    fitting = (label for label in labels if label and name.startswith(f"{label}/"))
    return max(fitting, key=len, default="")


def parts_of(name: str) -> list[str]:
    """Split a test's name, without its label, at its dots; the dot of a version such as 5.10 stays."""
    return re.split(r"\.(?![0-9])", name)


@dataclass(frozen=True)
class Selection:
    """The selection of tests that a run was asked for.

    Attributes:
        profile: name of the profile.
        patterns: the pattern of each `--filter`.
        repeat: snapshot-restore cycles per test.
        shard: number and count of `--shard`, None for a whole run.
        work: digest of the names of all tests, those of other shards included, "" where it is not known.
    """

    profile: str
    patterns: tuple[str, ...] = ()
    repeat: int = 1
    shard: tuple[int, int] | None = None
    work: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return its form in results.json."""
        return {
            "profile": self.profile,
            # For readers that know one pattern alone; no name of a test has a blank.
            "filter": " ".join(self.patterns),
            **({"filters": list(self.patterns)} if len(self.patterns) > 1 else {}),
            "repeat": self.repeat,
            "shard": list(self.shard) if self.shard else None,
            **({"work": self.work} if self.work else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Selection:
        """Read back what `to_json` gave."""
        shard = data["shard"]
        return cls(
            data["profile"],
            tuple(data.get("filters") or filter(None, [data["filter"]])),
            data["repeat"],
            (shard[0], shard[1]) if shard else None,
            data.get("work", ""),
        )


# Figures of one snapshot (tests_functional/lib/build_outcome.py), and what their sum over a run is called.
_OF_EACH_SNAPSHOT = "pages_in_stream"
_SUMMED = {
    "pages_in_stream": "pages_in_streams",
    "pages_compared_with_golden": "pages_compared_with_golden",
    "agent_pages_verified_offline": "agent_pages_verified_offline",
    "agent_pages_verified_in_restored_guest": "agent_pages_verified_in_restored_guests",
    "pages_written_during_save": "pages_written_during_saves",
}


@dataclass(frozen=True)
class OutcomeRecord:
    """The outcome of one test as a results file has it; scenarios make a typed one (`Outcome`).

    Attributes:
        name: unique and stable, with its parameters, e.g. ``snapshot.live/pc-512M-random``.
        status: see Status.
        sentence: one full sentence for a person.
        seconds: wall time.
        checks: each check's JSON form, with whatever fields the version that wrote it gave it.
        figures: measured numbers by name, the unit in the name.
        environment: host kernel, QEMU version, accelerator, image digest, seed, parameters.
        folder: where its files are, relative to the results folder.
    """

    name: str
    status: Status
    sentence: str
    seconds: float = 0.0
    checks: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return its form in results.json."""
        return {
            "name": self.name,
            "status": self.status.value,
            "sentence": self.sentence,
            "seconds": round(self.seconds, 3),
            "checks": [dict(check) for check in self.checks],
            "figures": dict(self.figures),
            "environment": dict(self.environment),
            "folder": self.folder,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave, here or of a scenario's outcome."""
        return cls(
            name=data["name"],
            status=Status(data["status"]),
            sentence=data["sentence"],
            seconds=data["seconds"],
            checks=tuple(data["checks"]),
            figures=data["figures"],
            environment=data["environment"],
            folder=data["folder"],
        )

    def known_issues(self, status: Status) -> set[str]:
        """Return the ids of known issues: with XFAIL of those that show, with XPASS of those that do not."""
        return {
            str(check["known_issue"])
            for check in self.checks
            if check["status"] == status.value and check.get("known_issue")
        }

    @property
    def clean(self) -> bool:
        """Whether no check went wrong; also in a test that was interrupted after some of its snapshots."""
        right = (Status.PASS.value, Status.SKIP.value)
        return self.status is Status.PASS or (
            self.status is Status.ERROR and all(check["status"] in right for check in self.checks)
        )

    def placed(self, folder: str) -> Self:
        """Return the same with its folder named."""
        return replace(self, folder=folder)


@dataclass(frozen=True)
class RunResult:
    """The results of a run.

    Attributes:
        outcomes: one per test, in the order of the profile.
        started: UTC time of the start, ISO 8601.
        seconds: wall time of the whole run.
        command: the command line that repeats the run.
        environment: the environment that all tests share. In a run of several QEMUs, and in results merged
            from several machines, the environments by the label with which the tests' names begin.
        selection: the selection that was asked for, None where no profile was.
    """

    outcomes: Sequence[OutcomeRecord]
    started: str
    seconds: float
    command: Sequence[str]
    environment: Mapping[str, Any]
    selection: Selection | None = None

    @property
    def status(self) -> Status | None:
        """The worst status, None where nothing ran."""
        return worst(outcome.status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """See harness.status.exit_code."""
        return exit_code(outcome.status for outcome in self.outcomes)

    def counts(self) -> dict[str, int]:
        """Return the number of tests with each status, in the order of severity."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status.value: found[status] for status in Status if found[status]}

    def totals(self) -> dict[str, int]:
        """Return what the run has proven in all: sums over the snapshots of tests in which nothing was wrong.

        These are tests that passed, and those that were interrupted until then. A soak of many small runs is
        judged by these; a snapshot counts once it was restored and judged.
        """
        found = dict.fromkeys(("snapshots_proven", *_SUMMED.values()), 0)
        for outcome in self.outcomes:
            if not outcome.clean:
                continue
            for name, value in outcome.figures.items():
                label, _, figure = name.rpartition("/")
                if label and figure == _OF_EACH_SNAPSHOT:
                    found["snapshots_proven"] += 1
                if label and figure in _SUMMED and isinstance(value, int):
                    found[_SUMMED[figure]] += value
                # A campaign gives its own sums.
                if not label and name in found and isinstance(value, int):
                    found[name] += value
        return found

    def environments(self) -> dict[str, Mapping[str, Any]]:
        """Return the environments by the label of their tests; "" is the label of one that all share."""
        values = self.environment.values()
        if values and all(isinstance(value, Mapping) for value in values):
            return dict(self.environment)
        return {"": self.environment}

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        chosen = {"selection": self.selection.to_json()} if self.selection else {}
        return {
            "schema": SCHEMA_VERSION,
            "status": self.status.value if self.status else "NONE",
            "exit_code": self.exit_code,
            "counts": self.counts(),
            "totals": self.totals(),
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "command": list(self.command),
            **chosen,
            "environment": dict(self.environment),
            "tests": [outcome.to_json() for outcome in self.outcomes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunResult:
        """Read back what `to_json` gave; see `snapproof.report.reader` for data that may be wrong."""
        return cls(
            outcomes=[OutcomeRecord.from_json(test) for test in data["tests"]],
            started=data["started"],
            seconds=data["seconds"],
            command=data["command"],
            environment=data["environment"],
            selection=Selection.from_json(data["selection"]) if "selection" in data else None,
        )
