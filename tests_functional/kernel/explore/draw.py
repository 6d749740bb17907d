"""Draws lists of memory operations by chance: new ones, and changed ones of the corpus."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from harness.userfaultfd import Mode

from .coverage import Reached
from .known import leads_to_known
from .memory import KINDS, SMALL_PAGES
from .steps import MemoryList, Monitor, Step

_LEAST_STEPS, _MOST_STEPS = 2, 12
_FROM_CORPUS = 0.4
_MOST_CORPUS = 2000

Draw = Callable[[random.Random, str], dict[str, Any]]


def _nothing(_chance: random.Random, _on: str) -> dict[str, Any]:
    return {}


def _range(chance: random.Random, on: str) -> dict[str, Any]:
    """Return some of the pages: all, one, or a few."""
    pages = KINDS[on].pages
    way = chance.random()
    if way < 0.35:
        return {"first": 0, "count": pages}
    first = chance.choice((0, 1, pages // 2, pages - 2, chance.randrange(pages), chance.randrange(pages)))
    most = min(pages - first, SMALL_PAGES if way < 0.9 else pages)
    return {"first": first, "count": 1 if way < 0.6 else chance.randint(1, most)}


def _few(chance: random.Random, on: str) -> dict[str, Any]:
    found = _range(chance, on)
    return {**found, "count": min(found["count"], 4)}


def _with(draw: Draw, **choices: Sequence[Any]) -> Draw:
    def drawn(chance: random.Random, on: str) -> dict[str, Any]:
        return {**draw(chance, on), **{name: chance.choice(values) for name, values in choices.items()}}

    return drawn


def _with_page(draw: Draw) -> Draw:
    return lambda chance, on: {**draw(chance, on), "to": chance.randrange(KINDS[on].pages)}


_MODES = (
    Mode.WP,
    Mode.WP,
    Mode.WP | Mode.MISSING,
    Mode.MISSING,
    Mode.WP | Mode.MINOR,
    Mode.WP | Mode.MISSING | Mode.MINOR,
)
_VALUES = (0, 1, 1, 2, 3)


@dataclass(frozen=True)
class Drawn:
    """A kind of step.

    Attributes:
        weight: how often it is drawn, before rarity counts.
        draw: its arguments.
        memories: kinds of memory that it is drawn for, empty for all.
        global_: whether it names no memory.
    """

    weight: float
    draw: Draw
    memories: tuple[str, ...] = ()
    global_: bool = False


_ANON = ("anon", "thp")
MENU: dict[str, Drawn] = {
    "fill": Drawn(2, _with(_range, pattern=("same", "each", "mixed", "zeros"), value=(1, 2, 3))),
    "write": Drawn(3, _with(_few, value=_VALUES, way=("store", "store", "thread", "kernel"))),
    "read": Drawn(2, _few),
    "register": Drawn(3, _with(_range, mode=tuple(int(mode) for mode in _MODES))),
    "unregister": Drawn(1, _range),
    "protect": Drawn(4, _range),
    "release": Drawn(2, _range),
    "dontneed": Drawn(2, _range),
    "free": Drawn(1.5, _range, _ANON),
    "cold": Drawn(1.5, _range),
    "pageout": Drawn(1.5, _range),
    "willneed": Drawn(0.5, _range),
    "remove": Drawn(1.5, _range, ("shmem",)),
    "populate": Drawn(1.5, _with(_range, write=(False, True))),
    "guard": Drawn(1, _range, _ANON),
    "huge": Drawn(0.5, _with(_range, allow=(False, True)), ("thp",)),
    "collapse": Drawn(1.5, lambda _chance, on: {"first": 0, "count": KINDS[on].pages}, ("thp", "shmem")),
    "mprotect": Drawn(2, _with(_range, access=("none", "read", "write", "write"))),
    "mlock": Drawn(1, _range),
    "munlock": Drawn(1, _range),
    "mremap": Drawn(1.5, _range, _ANON),
    "mmap": Drawn(1, _range, _ANON),
    "munmap": Drawn(0.5, _few),
    "fork": Drawn(1, _with(_nothing, stays=(False, True)), global_=True),
    "child-ends": Drawn(0.5, _nothing, global_=True),
    "copy": Drawn(2, _with(_few, value=_VALUES, wp=(False, True)), (*_ANON, "shmem")),
    "zeropage": Drawn(1.5, _few, (*_ANON, "shmem")),
    "continue": Drawn(1.5, _with(_few, wp=(False, True)), ("shmem",)),
    "move": Drawn(2, _with_page(_few), _ANON),
    "scan": Drawn(1.5, _with(_range, protect=(False, True))),
    "merge": Drawn(1.5, _range, _ANON),
    "unmerge": Drawn(0.6, _range, _ANON),
    "compact": Drawn(0.02, _nothing, global_=True),
}
"""How each kind of step is drawn."""

_MEMORIES = {"anon": 4, "thp": 3, "shmem": 3, "memfd-private": 1.5, "file-private": 1.0}


@dataclass(frozen=True)
class Drawer:
    """Draws lists.

    Attributes:
        offered: kinds of steps that this host can take.
        monitors: what a monitor may have.
    """

    offered: frozenset[str]
    monitors: tuple[Monitor, ...]

    def draw(self, seed: str, coverage: Reached[MemoryList], avoid: Container[str] = ()) -> MemoryList:
        """Draw a list.

        Args:
            seed: the same one gives the same list for the same coverage.
            coverage: what was reached before.
            avoid: names of known issues; a list that leads to one is drawn anew.
        """
        chance = random.Random(seed)
        for _ in range(100):
            if coverage.corpus and chance.random() < _FROM_CORPUS:
                drawn = self._changed(chance, coverage)
            else:
                drawn = self._new(chance, coverage)
            if not leads_to_known(drawn, avoid):
                break
        return drawn

    def _new(self, chance: random.Random, coverage: Reached[MemoryList]) -> MemoryList:
        monitor = chance.choice(self.monitors)
        memories = self._memories(chance, monitor)
        steps: list[Step] = []
        for on in memories:
            steps += _opening(chance, on)
        for _ in range(chance.randint(_LEAST_STEPS, _MOST_STEPS)):
            steps.append(self._step(chance, coverage, memories))
        return MemoryList(monitor, tuple(steps))

    def _memories(self, chance: random.Random, monitor: Monitor) -> list[str]:
        names = [name for name in _MEMORIES if monitor.asynchronous or not KINDS[name].asynchronous]
        weights = [_MEMORIES[name] for name in names]
        return list(dict.fromkeys(chance.choices(names, weights, k=chance.choice((1, 1, 2)))))

    def _step(self, chance: random.Random, coverage: Reached[MemoryList], memories: Sequence[str]) -> Step:
        on = chance.choice(memories)
        names = [
            name
            for name, one in MENU.items()
            if name in self.offered and (one.global_ or not one.memories or on in one.memories)
        ]
        weights = [MENU[name].weight * (0.7 + coverage.rarity(name)) for name in names]
        name = chance.choices(names, weights)[0]
        return _drawn(chance, name, on)

    def _changed(self, chance: random.Random, coverage: Reached[MemoryList]) -> MemoryList:
        """Return a list of the corpus with some steps added, left out, or taken from another list."""
        recent = coverage.corpus[-_MOST_CORPUS:]
        one = chance.choice(recent)
        steps = list(one.steps)
        memories = _named(steps) or self._memories(chance, one.monitor)
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(steps))
            way = chance.choice(("add", "add", "leave out", "splice"))
            if way == "add":
                steps.insert(at, self._step(chance, coverage, memories))
            elif way == "leave out" and steps:
                del steps[at - 1]
            else:
                other = chance.choice(recent).steps
                start = chance.randrange(len(other)) if other else 0
                steps[at:at] = [
                    step
                    for step in other[start : start + 4]
                    if step.arguments.get("on", memories[0]) in memories
                ]
        monitor = chance.choice(self.monitors) if chance.random() < 0.2 else one.monitor
        return MemoryList(monitor, tuple(steps[: 2 * _MOST_STEPS]))


def _named(steps: Sequence[Step]) -> list[str]:
    return list(dict.fromkeys(step.arguments["on"] for step in steps if "on" in step.arguments))


def _drawn(chance: random.Random, name: str, on: str) -> Step:
    given = MENU[name].draw(chance, on)
    return Step(name, given if MENU[name].global_ else {"on": on, **given})


def _opening(chance: random.Random, on: str) -> list[Step]:
    """Return what most lists begin with: pages with content that are registered and protected."""
    pages = KINDS[on].pages
    whole = {"on": on, "first": 0, "count": pages}
    steps = []
    if chance.random() < 0.75:
        steps.append(_drawn(chance, "fill", on) if chance.random() < 0.4 else _filled(chance, whole))
    if chance.random() < 0.85:
        steps.append(Step("register", {**whole, "mode": int(chance.choice(_MODES))}))
    if chance.random() < 0.8:
        steps.append(Step("protect", whole) if chance.random() < 0.7 else _drawn(chance, "protect", on))
    return steps


def _filled(chance: random.Random, whole: dict[str, Any]) -> Step:
    pattern = chance.choice(("same", "each", "mixed", "zeros"))
    return Step("fill", {**whole, "pattern": pattern, "value": chance.choice((1, 2, 3))})
