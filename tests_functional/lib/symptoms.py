"""Matches violations by their code and fields, and never by their sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from harness.codes import Code, Fields


class Coded(Protocol):
    """Anything with a code and fields: a violation, a problem, an error."""

    @property
    def code(self) -> Code:
        """The code that names the kind of problem, for programs."""

    @property
    def sentence(self) -> str:
        """The problem in one sentence, for a person."""

    @property
    def fields(self) -> Fields:
        """Values that tell apart the cases of one code."""


@dataclass(frozen=True)
class Symptom:
    """The code and fields that a violation must have to match.

    Attributes:
        code: the code, None for any.
        fields: for each field the values that it may have; empty if any value will do.
    """

    code: Code | None = None
    fields: Mapping[str, Sequence[int | str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, entry: str | Mapping[str, Any]) -> Self:
        """Read a code, or a table with `code` and fields: a value, a list of values, or true for any.

        Raises:
            ValueError: there is no such code, or the table demands nothing.
        """
        if isinstance(entry, str):
            return cls(Code.of(entry))
        if not entry:
            raise ValueError("A symptom without a code or a field would fit everything.")
        fields = {name: _values(value) for name, value in entry.items() if name != "code"}
        return cls(Code.of(entry["code"]) if "code" in entry else None, fields)

    def fits(self, found: Coded) -> bool:
        """Return whether a violation, problem or error has this code and these fields."""
        return self.code in (None, found.code) and all(
            name in found.fields and (not values or found.fields[name] in values)
            for name, values in self.fields.items()
        )


def _values(value: Any) -> tuple[int | str, ...]:
    if value is True:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
