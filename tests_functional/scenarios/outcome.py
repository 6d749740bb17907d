"""What one test leaves behind: status, sentence, checks, measured figures, environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import SnapproofError
from harness.status import Status

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """The result of one test.

    Attributes:
        name: unique and stable, with its parameters, e.g. ``snapshot.live/pc-512M-random``.
        status: see Status.
        sentence: one full sentence for a person.
        seconds: wall time.
        checks: each check's own JSON form.
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
        """Its form in results.json."""
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
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Read back what `to_json` gave."""
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

    def save(self, folder: Path) -> None:
        """Write it into a test's folder, whole or not at all."""
        write_atomically(folder / OUTCOME_FILE, json.dumps(self.to_json(), indent=1) + "\n")

    def placed(self, folder: str) -> Outcome:
        """The same outcome with its folder named."""
        return replace(self, folder=folder)


def from_error(name: str, error: SnapproofError, seconds: float, environment: Mapping[str, Any]) -> Outcome:
    """The outcome of a test that ended with one of our errors, evidence included."""
    evidence = error.evidence
    shown = {
        "command": list(evidence.command),
        "exit_code": evidence.exit_code,
        "log_tail": evidence.log_tail,
        "paths": [str(path) for path in evidence.paths],
    }
    return Outcome(
        name, error.status, error.sentence, seconds, environment={**environment, "evidence": shown}
    )


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the whole of it or nothing.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind then.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
