"""Lists the migration options of a QEMU: each capability and parameter of its schema, with values to try."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.qapi_schema import Member, QapiSchema
from harness.qemu.qmp import CommandRefused

_TEXT = "snapproof-none"


@dataclass(frozen=True)
class Option:
    """One setting that a user may combine with a background snapshot.

    Attributes:
        slug: its name in results, e.g. ``mapped-ram`` or ``parameter-mode-cpr-reboot``.
        capability: the capability that it switches on, "" for a parameter.
        parameters: the parameters that it sets, with their values.
    """

    slug: str
    capability: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def set(self, machine: Machine) -> None:
        """Set the option.

        Raises:
            CommandRefused: QEMU refuses it.
        """
        if self.capability:
            migration.set_capability(machine, self.capability, True)
        else:
            machine.qmp.execute("migrate-set-parameters", self.parameters)

    def named_by(self, words: str) -> bool:
        """Return whether QEMU's message names background snapshots, this option or its value.

        The first word of a value is enough: ``cpr-transfer`` is one of several kinds of ``cpr``.
        """
        said = _plain(words)
        values = [
            str(value).partition("-")[0] for value in self.parameters.values() if isinstance(value, str)
        ]
        names = [migration.BACKGROUND_SNAPSHOT, self.capability, *self.parameters, *values]
        return any(_plain(name) in said for name in names if name)


@dataclass(frozen=True)
class Settings:
    """All of a QEMU's migration settings.

    Attributes:
        capabilities: on or off, by name.
        parameters: as in `query-migrate-parameters`; one that was never set may be missing.
    """

    capabilities: Mapping[str, bool]
    parameters: Mapping[str, Any]


def settings(machine: Machine) -> Settings:
    """Return the current settings."""
    return Settings(migration.capabilities(machine), dict(machine.qmp.execute("query-migrate-parameters")))


def put_back(machine: Machine, wanted: Settings) -> bool:
    """Set everything back as far as QEMU accepts it; return whether all settings are as before."""
    now = settings(machine)
    for name, on in now.capabilities.items():
        if on != wanted.capabilities[name]:
            with contextlib.suppress(CommandRefused):
                migration.set_capability(machine, name, not on)
    for name, value in now.parameters.items():
        if name in wanted.parameters and value != wanted.parameters[name]:
            with contextlib.suppress(CommandRefused):
                machine.qmp.execute("migrate-set-parameters", {name: wanted.parameters[name]})
    # A setting that QEMU did not accept differs here.
    return settings(machine) == wanted


def capability_options(schema: QapiSchema) -> tuple[Option, ...]:
    """Return each capability that QEMU knows, except background-snapshot."""
    members = schema.element_members("migrate-set-capabilities", "capabilities")
    names = next(member.values for member in members if member.name == "capability")
    return tuple(Option(name, capability=name) for name in names if name != migration.BACKGROUND_SNAPSHOT)


def parameter_options(schema: QapiSchema, now: Mapping[str, Any]) -> tuple[Option, ...]:
    """Return each parameter that QEMU knows, with each value that is not set now, or one of many values.

    Args:
        schema: the QEMU's schema.
        now: its parameters, as in `query-migrate-parameters`.
    """
    return tuple(
        Option(
            f"parameter-{member.name}" + (f"-{value}" if member.meta == "enum" else ""),
            parameters={member.name: value},
        )
        for member in schema.arguments("migrate-set-parameters")
        for value in _values(member, now.get(member.name))
    )


def _values(member: Member, now: Any) -> tuple[Any, ...]:
    """Return the values to try, all different from the one that is set."""
    if member.meta == "enum":
        return tuple(value for value in member.values if value != now)
    if member.meta == "array":
        # The elements of lists differ too much to construct one.
        return ([],)
    if member.json_type == "boolean":
        return (not now,)
    if member.json_type == "int":
        # In range for every known parameter: percentages, levels, counts, sizes in powers of two.
        return (now // 2 if 50 < now <= 100 else now * 2 or 1,)
    return (_TEXT,)


def _plain(text: str) -> str:
    return text.lower().replace("-", " ").replace("_", " ")
