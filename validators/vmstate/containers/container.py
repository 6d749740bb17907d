"""What a vmstate stream lies in, as it was recognised by content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.codes import Code


@dataclass(frozen=True)
class Problem:
    """What is wrong with a container, while its stream can be read at least in part."""

    code: Code
    sentence: str


@dataclass(frozen=True)
class Container:
    """A format around a vmstate stream.

    Attributes:
        name: the format in a few words, for one sentence.
        facts: what it says about the guest, by name.
        problem: what is wrong with it, None if nothing is.
    """

    name: str
    facts: Mapping[str, str | int] = field(default_factory=dict)
    problem: Problem | None = None
