"""Counts what lists of steps have reached, and keeps those that reached something new as a corpus."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests_functional.explore.steps import StepList
from tests_functional.lib.outcome import write_atomically


@dataclass
class Coverage:
    """What was reached so far, and the lists that reached something first.

    Attributes:
        seen: how often each thing was reached.
        corpus: lists that reached something new, in the order in which they were run.
    """

    seen: Counter[str] = field(default_factory=Counter)
    corpus: list[StepList] = field(default_factory=list)

    def add(self, steps: StepList, reached: Iterable[str]) -> int:
        """Count what a list has reached; return how much of it is new."""
        reached = set(reached)
        new = len(reached - self.seen.keys())
        self.seen.update(reached)
        if new:
            self.corpus.append(steps)
        return new

    def rarity(self, prefix: str) -> float:
        """Return a weight for a kind of step: the larger, the less often it was taken."""
        times = sum(count for name, count in self.seen.items() if name.startswith(f"{prefix} in "))
        return float(1.0 / (1.0 + times) ** 0.5)

    def save(self, path: Path) -> None:
        """Write the corpus as JSON, whole or not at all.

        Raises:
            OSError: the disk is full.
        """
        content = {"version": 1, "lists": [steps.to_json() for steps in self.corpus]}
        write_atomically(path, json.dumps(content, indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return what was reached and how often, sorted by name."""
        return dict(sorted(self.seen.items()))


def load_corpus(path: Path) -> list[StepList]:
    """Read what `Coverage.save` wrote.

    Raises:
        UsageError: it has another form. OSError: it cannot be read.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    return [StepList.from_json(entry) for entry in content["lists"]]
