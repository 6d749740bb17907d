"""Defines the outcome of one test (status, sentence, checks, figures, environment) and writes it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SnapproofError
from harness.status import Status

if TYPE_CHECKING:
    # Reports read outcomes too, and start without numpy.
    from validators.verdict import CheckResult


OUTCOME_FILE = "outcome.json"

SO_FAR_FILE = "so-far.jsonl"
"""The outcomes of the snapshots that a test has judged so far, a line each, in its folder until it ends."""


@dataclass(frozen=True)
class Outcome:
    """The result of one test.

    Attributes:
        name: unique and stable, with its parameters, e.g. ``snapshot.live/pc-512M-random``.
        status: see Status.
        sentence: one full sentence for a person.
        seconds: wall time.
        checks: the checks with their violations.
        figures: measured numbers by name, the unit in the name.
        environment: host kernel, QEMU version, accelerator, image digest, seed, parameters.
    """

    name: str
    status: Status
    sentence: str
    seconds: float = 0.0
    checks: Sequence[CheckResult] = ()
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return its form in results.json, without the folder, which the test does not know."""
        return {
            "name": self.name,
            "status": self.status.value,
            "sentence": self.sentence,
            "seconds": round(self.seconds, 3),
            "checks": [check.to_json() for check in self.checks],
            "figures": dict(self.figures),
            "environment": dict(self.environment),
            "folder": "",
        }

    def save(self, folder: Path) -> None:
        """Write it into a test's folder, completely or not at all."""
        write_atomically(folder / OUTCOME_FILE, json.dumps(self.to_json(), indent=1) + "\n")
        (folder / SO_FAR_FILE).unlink(missing_ok=True)

    def save_so_far(self, folder: Path) -> None:
        """Append it, the outcome of one snapshot, in case the test is ended before it can report."""
        with (folder / SO_FAR_FILE).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(self.to_json()) + "\n")


def from_error(name: str, error: SnapproofError, seconds: float, environment: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a test that ended with one of our errors, with its evidence."""
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
    """Write a text file so that a reader finds the whole of it or nothing; a file there keeps its mode.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind then.
    """
    # A new file of its own: a link that lies in the folder by the draft's name would lead elsewhere.
    draft = path.with_name(f".{path.name[:100]}.{os.urandom(4).hex()}.part")
    draft.touch(exist_ok=False)
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.chmod(stat.S_IMODE(path.stat().st_mode))
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
