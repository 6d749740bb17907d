"""Counts what lists of steps have reached, and keeps those that reached something new as a corpus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from tests_functional.explore.menu import readable_list
from tests_functional.explore.steps import StepList
from tests_functional.kernel.explore.coverage import Reached
from tests_functional.lib.outcome import write_atomically


@dataclass
class Coverage(Reached[StepList]):
    """What lists around snapshots have reached; its corpus can be written to a file."""

    def save(self, path: Path) -> None:
        """Write the corpus as JSON, whole or not at all.

        Raises:
            OSError: the disk is full.
        """
        content = {"version": 1, "lists": [steps.to_json() for steps in self.corpus]}
        write_atomically(path, json.dumps(content, indent=1) + "\n")


def load_corpus(path: Path) -> list[StepList]:
    """Read what `Coverage.save` wrote.

    Raises:
        UsageError: it has another form. OSError: it cannot be read.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    lists = content.get("lists") if isinstance(content, dict) else None
    if not isinstance(lists, list):
        raise UsageError(f"'{path}' is no corpus of snapproof explore: it has no list 'lists'.")
    return [readable_list(entry) for entry in lists]
