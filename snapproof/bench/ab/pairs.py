"""Measures pairs for the A/B gate: a save of A and one of B, back to back, in balanced random order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from snapproof.bench.ab.gate import GatePlan, GateResult, run_gate
from snapproof.bench.sides import Side, TwoSides
from snapproof.runs.events import Progress
from validators.faults.slow.wrapper import Slowdown, plant_slowdown

_PILOT_SAVES = 5


@dataclass(frozen=True)
class SlowedSide:
    """A side with a planted slowdown.

    Attributes:
        side: the side that is measured.
        slowdown: the slowdown, with the counts of the library that was planted.
    """

    side: Side
    slowdown: Slowdown

    def text(self) -> str:
        """Return a sentence that says how much the planted library slept.

        Raises:
            SetupBroken: it never slept, so nothing was planted.
        """
        if not self.slowdown.acts:
            raise SetupBroken(
                "The planted slowdown never acted, so this says nothing about the gate. It cannot be planted "
                "in a QEMU that is linked statically."
            )
        share = self.slowdown.slept_share
        slept = f"{100 * share:.1f} % of the time that its saves took without" if share else "at T0"
        return f"planted B slept {slept}, {self.slowdown.acts} times"

    def slept(self) -> dict[str, float]:
        """Return for ab.json how often the library slept, and the share of the saves' own time."""
        return {"times": self.slowdown.acts, "share": self.slowdown.slept_share}


@dataclass(frozen=True)
class PairedComparison:
    """Two sides, and how they are compared.

    Attributes:
        sides: A and B.
        metric: a key of METRICS.
        plan: plan of each gate.
        seed: seed of the order within pairs.
        folder: for the files of the saves.
        provisioning: of a planted library.
        progress: shows each step.
        taken: the pairs of all gates so far, each with the number of its gate, A's figure and B's.
    """

    sides: TwoSides
    metric: str
    plan: GatePlan
    seed: int
    folder: Path
    provisioning: Provisioning
    progress: Progress
    taken: list[tuple[int, float, float]] = field(default_factory=list)

    def gate(self, slow: SlowedSide | None = None, number: int = 0) -> GateResult:
        """Run one gate.

        Args:
            slow: a side that takes the place of B.
            number: number of the gate if there are several, which gives it an order of its own; else 0.
        """
        b = self.sides.b if slow is None else slow.side
        orders = balanced_orders(random.Random(f"{self.seed} {number}"))

        def measure(pair: int) -> tuple[float, float]:
            """Measure both sides, in the order that is next, and return the figures of A and B."""
            if not number:
                self.progress.step(f"Pair {pair}.")
            if next(orders):
                first = self._figure(self.sides.a, "a")
                second = self._figure(b, "b")
            else:
                second = self._figure(b, "b")
                first = self._figure(self.sides.a, "a")
            self.taken.append((number, first, second))
            return first, second

        return run_gate(self.plan, measure, self.progress.step)

    def slowed(self, share: float) -> SlowedSide:
        """Return B with a slowdown planted.

        Args:
            share: by how much it is to be slower. For stun and downtime this is a share of their usual
                length, which is measured first.
        """
        base, folder = self.sides.b, self.folder.parent / "slowed"
        folder.mkdir(parents=True, exist_ok=True)
        per_mille, at_t0_us = round(1000 * share), 0
        if self.metric != "total":
            self.progress.step("Measuring how long the guest is stopped, to plant a share of that.")
            usual_ms = median(self._figure(base, "pilot") for _ in range(_PILOT_SAVES))
            per_mille, at_t0_us = 0, round(1000 * share * usual_ms)
        slowdown = plant_slowdown(folder, self.provisioning, per_mille=per_mille, at_t0_us=at_t0_us)
        return SlowedSide(base.slowed(slowdown, folder), slowdown)

    def _figure(self, side: Side, name: str) -> float:
        return side.figure(self.metric, self.folder / name)


def balanced_orders(chance: random.Random) -> Iterator[bool]:
    """Yield whether A comes first, for pair after pair: at random, and then the other way round."""
    while True:
        first = chance.random() < 0.5
        yield first
        yield not first
