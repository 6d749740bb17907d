"""The types of the catalogue of planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from validators.faults.files.subject import Damage, Subject

Plant = Callable[[Subject], Damage | None]


@dataclass(frozen=True)
class Fault:
    """One kind of damage to a file.

    Attributes:
        name: short name.
        explanation: one line: what is damaged.
        plant: works out the damage for a file; None if the file has nothing to damage that way.
        blind: why no offline check can see it in principle, "" if one can.
        needs_golden: whether only a golden image can see it, since the page has no redundancy in itself.
        uncovered: why no oracle looks at most of the places where it is planted, "" if one looks at all.
            Where no check caught it, it is then not covered, in place of missed.
    """

    name: str
    explanation: str
    plant: Plant
    blind: str = ""
    needs_golden: bool = False
    uncovered: str = ""


class Catalogue:
    """A list of faults; a decorator enters a function as one."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(
        self, explanation: str, *, blind: str = "", needs_golden: bool = False, uncovered: str = ""
    ) -> Callable[[Plant], Plant]:
        """Enter the decorated function as a fault, which gets its name, with dashes."""

        def enter(plant: Plant) -> Plant:
            name = plant.__name__.strip("_").replace("_", "-")
            self.faults.append(Fault(name, explanation, plant, blind, needs_golden, uncovered))
            return plant

        return enter
