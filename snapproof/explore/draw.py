"""Draws lists of steps by chance: new ones, and changed ones of the corpus."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.qemu.qapi_schema import QapiSchema
from snapproof.explore.coverage import Coverage
from tests_functional.explore.guests import DEVICES, MACHINES, RAM_KINDS
from tests_functional.explore.menu import KINDS, Drawing
from tests_functional.explore.steps import GuestChoice, Step, StepList

_LEAST_STEPS, _MOST_STEPS = 3, 14
_FROM_CORPUS = 0.4
# Half of them leave memory untouched; what is first used after T0 is seen there alone.
_PATTERNS = ("random", "sequential", "hot", "sparse", "sparse", "sparse")
# Of saves that begin, those in which the guest at once uses memory that nobody has touched. A page that is
# then newer than T0 shows in the golden image alone.
_UNTOUCHED_SHARE, _UNTOUCHED_GOLDEN_SHARE = 0.25, 0.8
_DEVICES_SHARE = 0.25


@dataclass(frozen=True)
class Drawer:
    """Draws lists of steps.

    Attributes:
        schema: of the QEMU under test.
        accels: the accelerators that a guest may have.
        avoids: returns whether a list leads to a known issue.
    """

    schema: QapiSchema
    accels: tuple[str, ...]
    avoids: Callable[[StepList], bool]

    def draw(self, seed: str, coverage: Coverage, avoid: bool) -> StepList:
        """Draw a list.

        Args:
            seed: the same one gives the same list for the same coverage.
            coverage: what was reached before.
            avoid: whether a list that leads to a known issue is drawn anew.
        """
        chance = random.Random(seed)
        for _ in range(100):
            drawn = self._drawn(chance, coverage)
            if not (avoid and self.avoids(drawn)):
                return drawn
        return drawn

    def _drawn(self, chance: random.Random, coverage: Coverage) -> StepList:
        if coverage.corpus and chance.random() < _FROM_CORPUS:
            drawn = self._changed(chance, coverage)
        else:
            drawn = StepList(self._guest(chance), tuple(self._steps(chance, coverage)))
        return drawn.with_steps(_with_untouched(chance, drawn.steps))

    def _guest(self, chance: random.Random) -> GuestChoice:
        return GuestChoice(
            machine=chance.choices(MACHINES, (3, *(1 for _ in MACHINES[1:])))[0],
            accel=chance.choices(self.accels, (4, *(1 for _ in self.accels[1:])))[0],
            ram=chance.choices(tuple(RAM_KINDS), (4, *(1 for _ in tuple(RAM_KINDS)[1:])))[0],
            vcpus=chance.choice((1, 1, 1, 2, 2, 3)),
            pattern=chance.choice(_PATTERNS),
            devices=tuple(name for name in DEVICES if chance.random() < _DEVICES_SHARE),
        )

    def _steps(self, chance: random.Random, coverage: Coverage) -> list[Step]:
        count = chance.randint(_LEAST_STEPS, _MOST_STEPS)
        return [self._step(chance, coverage) for _ in range(count)]

    def _step(self, chance: random.Random, coverage: Coverage) -> Step:
        names = tuple(KINDS)
        weights = [KINDS[name].weight * (0.5 + coverage.rarity(name)) for name in names]
        kind = chance.choices(names, weights)[0]
        return Step(kind, KINDS[kind].draw(Drawing(self.schema, chance)))

    def _changed(self, chance: random.Random, coverage: Coverage) -> StepList:
        """Return a list of the corpus with some steps added, left out, or taken from another list."""
        one = chance.choice(coverage.corpus)
        steps = list(one.steps)
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(steps))
            way = chance.choice(("add", "add", "leave out", "splice"))
            if way == "add":
                steps.insert(at, self._step(chance, coverage))
            elif way == "leave out" and steps:
                del steps[at - 1]
            else:
                steps[at:at] = _piece(chance, chance.choice(coverage.corpus).steps)
        guest = self._guest(chance) if chance.random() < 0.3 else one.guest
        return StepList(guest, tuple(steps[: 2 * _MOST_STEPS]))


def _with_untouched(chance: random.Random, steps: Sequence[Step]) -> list[Step]:
    """Return the steps, with a first use of memory right after the begin of some saves."""
    found = []
    for at, step in enumerate(steps):
        found.append(step)
        there = any(later.kind == "untouched" for later in steps[at + 1 : at + 3])
        share = _UNTOUCHED_GOLDEN_SHARE if step.arguments.get("golden") else _UNTOUCHED_SHARE
        if step.kind == "begin" and not there and chance.random() < share:
            # A guest that was stopped has to run for it.
            found += [Step("cont"), Step("untouched")]
    return found


def _piece(chance: random.Random, steps: Sequence[Step]) -> Sequence[Step]:
    if not steps:
        return ()
    start = chance.randrange(len(steps))
    return steps[start : start + chance.randint(1, 4)]
