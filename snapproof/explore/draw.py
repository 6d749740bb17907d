"""Draws lists of steps by chance: new ones, and changed ones of the corpus."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.qemu.qapi_schema import QapiSchema
from snapproof.explore.coverage import Coverage
from tests_functional.explore.guests import DEVICES, MACHINES, RAM_KINDS
from tests_functional.explore.menu import KINDS, Drawing, further_commands
from tests_functional.explore.names import Names
from tests_functional.explore.steps import GuestChoice, Step, StepList

# A command brings up to five others along.
_LEAST_STEPS, _MOST_STEPS, _LONGEST = 3, 14, 40
_FROM_CORPUS = 0.4
# Of the lists that are new, those of commands mostly: a command takes milliseconds, a guest seconds.
_STORM_SHARE, _STORM_COMMANDS, _STORM_DEVICES_SHARE = 0.6, 30, 0.8
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
        names: what commands may name.
    """

    schema: QapiSchema
    accels: tuple[str, ...]
    avoids: Callable[[StepList], bool]
    names: Names = field(default_factory=Names)

    def draw(self, seed: str, coverage: Coverage, avoid: bool) -> StepList:
        """Draw a list.

        Args:
            seed: the same one gives the same list for the same coverage.
            coverage: what was reached before.
            avoid: whether a list that leads to a known issue is drawn anew.
        """
        drawing = self._drawing(random.Random(seed), coverage)
        for _ in range(100):
            drawn = self._drawn(drawing, coverage)
            if not (avoid and self.avoids(drawn)):
                return drawn
        return drawn

    def _drawn(self, drawing: Drawing, coverage: Coverage) -> StepList:
        chance = drawing.chance
        if coverage.corpus and chance.random() < _FROM_CORPUS:
            drawn = self._changed(drawing, coverage)
        elif chance.random() < _STORM_SHARE:
            drawn = self._storm(drawing)
        else:
            drawn = StepList(self._guest(chance), tuple(self._steps(drawing, coverage)))
        return drawn.with_steps(_with_untouched(chance, drawn.steps))

    def _storm(self, drawing: Drawing) -> StepList:
        """Return a list of many commands, most of them during a save, and a guest that has much."""
        chance, steps = drawing.chance, list[Step]()
        at = chance.randint(0, _STORM_COMMANDS // 2)
        while len(steps) < _STORM_COMMANDS:
            if at <= len(steps):
                steps.append(Step("begin", KINDS["begin"].draw(drawing)))
                at = chance.randint(len(steps), _LONGEST)
            step = Step("qmp", KINDS["qmp"].draw(drawing))
            steps += [step, *further_commands(drawing, step)]
        devices = tuple(name for name in DEVICES if chance.random() < _STORM_DEVICES_SHARE)
        return StepList(replace(self._guest(chance), devices=devices), tuple(steps))

    def _drawing(self, chance: random.Random, coverage: Coverage) -> Drawing:
        """Return what arguments are drawn from; commands that QEMU has accepted seldom are drawn more."""
        accepted = Counter[str]()
        for reached, times in coverage.seen.items():
            command, _, rest = reached.partition(" ")
            accepted[command] += times if rest.startswith("accepted in ") else 0
        return Drawing(
            self.schema, chance, self.names, lambda command: 1.0 / (1.0 + accepted[command]) ** 0.5
        )

    def _guest(self, chance: random.Random) -> GuestChoice:
        return GuestChoice(
            machine=chance.choices(MACHINES, (3, *(1 for _ in MACHINES[1:])))[0],
            accel=chance.choices(self.accels, (4, *(1 for _ in self.accels[1:])))[0],
            ram=chance.choices(tuple(RAM_KINDS), (4, *(1 for _ in tuple(RAM_KINDS)[1:])))[0],
            vcpus=chance.choice((1, 1, 1, 2, 2, 3)),
            pattern=chance.choice(_PATTERNS),
            devices=tuple(name for name in DEVICES if chance.random() < _DEVICES_SHARE),
        )

    def _steps(self, drawing: Drawing, coverage: Coverage) -> list[Step]:
        count = drawing.chance.randint(_LEAST_STEPS, _MOST_STEPS)
        return [step for _ in range(count) for step in self._some(drawing, coverage)]

    def _some(self, drawing: Drawing, coverage: Coverage) -> list[Step]:
        """Return a step, and those that follow it because they are about the same things."""
        step = self._step(drawing, coverage)
        return [step, *further_commands(drawing, step)]

    def _step(self, drawing: Drawing, coverage: Coverage) -> Step:
        names = tuple(KINDS)
        weights = [KINDS[name].weight * (0.5 + coverage.rarity(name)) for name in names]
        kind = drawing.chance.choices(names, weights)[0]
        return Step(kind, KINDS[kind].draw(drawing))

    def _changed(self, drawing: Drawing, coverage: Coverage) -> StepList:
        """Return a list of the corpus with some steps added, left out, or taken from another list."""
        chance = drawing.chance
        one = chance.choice(coverage.corpus)
        steps = list(one.steps)
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(steps))
            way = chance.choice(("add", "add", "leave out", "splice"))
            if way == "add":
                steps[at:at] = self._some(drawing, coverage)
            elif way == "leave out" and steps:
                del steps[at - 1]
            else:
                steps[at:at] = _piece(chance, chance.choice(coverage.corpus).steps)
        guest = self._guest(chance) if chance.random() < 0.3 else one.guest
        return StepList(guest, tuple(steps[:_LONGEST]))


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
