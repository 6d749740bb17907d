"""Read a QEMU's own QAPI schema (`query-qmp-schema`): the arguments of its commands and their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.qemu.machine import Machine


@dataclass(frozen=True)
class Member:
    """A member of an object type, e.g. an argument of a command.

    Attributes:
        name: its name in QMP.
        meta: `builtin`, `enum`, `alternate`, `array` or `object`.
        json_type: JSON type of a builtin: `int`, `boolean`, `string`, ...; otherwise "".
        values: values of an enum; otherwise empty.
    """

    name: str
    meta: str
    json_type: str = ""
    values: tuple[str, ...] = ()


class QapiSchema:
    """The schema of one QEMU.

    Its type names are arbitrary numbers; only the names of commands and events are stable, so a lookup starts
    there (QEMU docs/devel/qapi-code-gen.rst, "Client JSON Protocol introspection").
    """

    def __init__(self, answer: Sequence[Mapping[str, Any]]) -> None:
        self._entries = {str(entry["name"]): entry for entry in answer}

    def commands(self) -> tuple[str, ...]:
        """Return the names of all commands, sorted."""
        return tuple(sorted(name for name, entry in self._entries.items() if entry["meta-type"] == "command"))

    def argument_type(self, command: str) -> str:
        """Return the name of the type of a command's arguments, which `entry` describes.

        Raises:
            KeyError: there is no such command.
        """
        return str(self._entries[command]["arg-type"])

    def entry(self, type_name: str) -> Mapping[str, Any]:
        """Return the description of a type as QEMU gives it (qapi/introspect.json, SchemaInfo).

        Raises:
            KeyError: there is no such type.
        """
        return self._entries[type_name]

    def arguments(self, command: str) -> tuple[Member, ...]:
        """Return the arguments of a command, empty if there is no such command."""
        entry = self._entries.get(command)
        return self._members(str(entry["arg-type"])) if entry else ()

    def element_members(self, command: str, argument: str) -> tuple[Member, ...]:
        """Return the members of the objects in a command's argument that is an array of objects.

        Raises:
            KeyError: the command has no such argument, or it is not an array of objects.
        """
        return self._members(self.element_type(command, argument))

    def element_type(self, command: str, argument: str) -> str:
        """Return the name of the type of the elements in a command's argument that is an array.

        Raises:
            KeyError: the command has no such argument, or it is not an array.
        """
        array = self.member_type(self.argument_type(command), argument)
        return str(self._entries[array]["element-type"])

    def member_type(self, type_name: str, member: str) -> str:
        """Return the name of the type of an object's member.

        Raises:
            KeyError: there is no such object or member.
        """
        members = self._entries[type_name]["members"]
        return {str(one["name"]): str(one["type"]) for one in members}[member]

    def _members(self, name: str) -> tuple[Member, ...]:
        return tuple(
            self._member(member["name"], member["type"]) for member in self._entries[name]["members"]
        )

    def _member(self, name: str, type_name: str) -> Member:
        entry = self._entries[type_name]
        values = entry.get("values")
        if values is None:
            # `values` is deprecated since QEMU 6.2 in favour of `members` (qapi/introspect.json,
            # SchemaInfoEnum).
            members = entry.get("members", []) if entry["meta-type"] == "enum" else []
            values = [member["name"] for member in members]
        return Member(name, entry["meta-type"], entry.get("json-type", ""), tuple(values))


def read_schema(machine: Machine) -> QapiSchema:
    """Read the schema of a running QEMU."""
    return QapiSchema(machine.qmp.execute("query-qmp-schema"))
