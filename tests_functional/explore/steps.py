"""Defines a list of steps: the guest that it runs on, and what is done one after the other; as JSON too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from harness.errors import UsageError
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.kernel.explore.steps import Step

__all__ = ["GuestChoice", "Step", "StepList"]

FORMAT_VERSION = 1
"""Version of a list's JSON form."""


@dataclass(frozen=True)
class GuestChoice:
    """The guest that a list of steps runs on.

    Attributes:
        machine: machine type.
        accel: `kvm` or `tcg`.
        ram: kind of guest RAM, a name in `RAM_KINDS` (guests.py).
        ram_mib: guest RAM in MiB.
        vcpus: vCPUs, each with a writer.
        pattern: of the writers.
        devices: names in `DEVICES` (guests.py).
    """

    machine: str = DEFAULT_ARCHITECTURE.machine
    accel: str = "kvm"
    ram: str = "anonymous"
    ram_mib: int = 64
    vcpus: int = 1
    pattern: str = "random"
    devices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The guest in one line, for people."""
        more = f", {', '.join(self.devices)}" if self.devices else ""
        size = f"{self.ram_mib} MiB of {self.ram} RAM"
        return f"{self.machine}, {self.accel}, {size}, {self.vcpus} vCPU, {self.pattern}{more}"


@dataclass(frozen=True)
class StepList:
    """A guest and what is done to it.

    Attributes:
        guest: the guest.
        steps: in their order.
    """

    guest: GuestChoice
    steps: tuple[Step, ...]

    def with_steps(self, steps: Sequence[Step]) -> StepList:
        """Return the same guest with other steps."""
        return replace(self, steps=tuple(steps))

    @property
    def words(self) -> str:
        """The list in one line, for people."""
        return f"[{self.guest.words}] " + "; ".join(step.words for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "version": FORMAT_VERSION,
            "guest": {**asdict(self.guest), "devices": list(self.guest.devices)},
            "steps": [{"kind": step.kind, "arguments": dict(step.arguments)} for step in self.steps],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of `to_json`.

        Raises:
            UsageError: it has another form.
        """
        try:
            if data["version"] != FORMAT_VERSION:
                raise UsageError(f"A list of steps of version {data['version']} cannot be read; run it anew.")
            guest = data["guest"]
            return cls(
                GuestChoice(**{**guest, "devices": tuple(guest["devices"])}),
                tuple(Step(step["kind"], dict(step["arguments"])) for step in data["steps"]),
            )
        except (KeyError, TypeError) as error:
            raise UsageError(f"This is no list of steps of snapproof explore: {error}.") from error
