"""Defines a list of memory operations: the memory that it runs on, and the steps; as JSON too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

FORMAT_VERSION = 1
"""Version of a list's JSON form."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        kind: the name of what is done.
        arguments: its arguments by name, plain JSON values.
    """

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The step in one line, for people."""
        given = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.arguments.items())
        return f"{self.kind}({given})"


@dataclass(frozen=True)
class Monitor:
    """The userfaultfd of a list, and how its monitor answers.

    Attributes:
        unpopulated: with WP_UNPOPULATED (6.4): pages that do not exist are protected too.
        asynchronous: with WP_ASYNC (6.7): writes raise no event, they end the protection.
        protect: whether missing pages are filled protected (UFFDIO_COPY_MODE_WP).
    """

    unpopulated: bool = False
    asynchronous: bool = False
    protect: bool = False

    @property
    def words(self) -> str:
        """It in a few words."""
        return "+".join(name for name, value in asdict(self).items() if value) or "plain"


@dataclass(frozen=True)
class MemoryList:
    """A monitor and what is done to memory; a step maps the memory that it names if it is the first to do so.

    Attributes:
        monitor: the userfaultfd.
        steps: in their order.
    """

    monitor: Monitor
    steps: tuple[Step, ...]

    def with_steps(self, steps: Sequence[Step]) -> MemoryList:
        """Return the same monitor with other steps."""
        return replace(self, steps=tuple(steps))

    @property
    def words(self) -> str:
        """The list in one line, for people."""
        return f"[{self.monitor.words}] " + "; ".join(step.words for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "version": FORMAT_VERSION,
            "monitor": asdict(self.monitor),
            "steps": [{"kind": step.kind, "arguments": dict(step.arguments)} for step in self.steps],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MemoryList:
        """Read the form of `to_json`.

        Raises:
            ValueError: it has another form.
        """
        try:
            if data["version"] != FORMAT_VERSION:
                raise ValueError(f"version {data['version']} of a list of steps cannot be read")
            steps = tuple(Step(step["kind"], dict(step["arguments"])) for step in data["steps"])
            return cls(Monitor(**data["monitor"]), steps)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no list of steps of memory: {error}") from error
