"""Counts what lists of steps have reached, and keeps those that reached something new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

L = TypeVar("L")


@dataclass
class Reached(Generic[L]):
    """What was reached so far, and the lists that reached something first.

    Attributes:
        seen: how often each thing was reached.
        corpus: lists that reached something new, in the order in which they were run.
    """

    seen: Counter[str] = field(default_factory=Counter)
    corpus: list[L] = field(default_factory=list)

    def add(self, steps: L, reached: Iterable[str]) -> int:
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

    def to_json(self) -> dict[str, Any]:
        """Return what was reached and how often, sorted by name."""
        return dict(sorted(self.seen.items()))
