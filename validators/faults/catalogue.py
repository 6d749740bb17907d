"""The catalogue's shape: a planted fault, its name, what it is, and what can see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from validators.faults.subject import Damage, Subject

Plant = Callable[[Subject], Damage | None]


@dataclass(frozen=True)
class Fault:
    """One kind of damage.

    Attributes:
        name: short name.
        explanation: one line: what is damaged.
        plant: works out the damage for a file; None where the file has nothing to damage that way.
        blind: why no offline check can see it in principle, "" where one can.
        needs_golden: only a golden image can see it: the page has no redundancy in itself.
    """

    name: str
    explanation: str
    plant: Plant
    blind: str = ""
    needs_golden: bool = False


class Catalogue:
    """A list of faults that functions are entered in by decorator."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(
        self, explanation: str, *, blind: str = "", needs_golden: bool = False
    ) -> Callable[[Plant], Plant]:
        """Enter the decorated function; its name, with dashes, becomes the fault's."""

        def enter(plant: Plant) -> Plant:
            name = plant.__name__.strip("_").replace("_", "-")
            self.faults.append(Fault(name, explanation, plant, blind, needs_golden))
            return plant

        return enter
