"""What a QEMU's own QAPI schema offers, read from `query-qmp-schema`: no list of ours can be stale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.machine import Machine


@dataclass(frozen=True)
class Member:
    """A member of an object type, e.g. an argument of a command.

    Attributes:
        name: as on the wire.
        meta: `builtin`, `enum`, `alternate`, `array` or `object`.
        json_type: of a builtin: `int`, `boolean`, `string`, ...; else "".
        values: of an enum, else empty.
    """

    name: str
    meta: str
    json_type: str = ""
    values: tuple[str, ...] = ()


class QapiSchema:
    """The schema of one QEMU.

    Its type names are arbitrary numbers, to be followed from a command's name (QEMU
    docs/devel/qapi-code-gen.rst, "Client JSON Protocol introspection").
    """

    def __init__(self, answer: Sequence[Mapping[str, Any]]) -> None:
        self._entries = {str(entry["name"]): entry for entry in answer}

    def arguments(self, command: str) -> tuple[Member, ...]:
        """A command's arguments, empty where there is no such command."""
        entry = self._entries.get(command)
        return self._members(str(entry["arg-type"])) if entry else ()

    def element_members(self, command: str, argument: str) -> tuple[Member, ...]:
        """The members of the objects that a command takes as an array.

        Raises:
            KeyError: the command has no such argument, or it is no array of objects.
        """
        types = {
            member["name"]: member["type"]
            for member in self._entries[str(self._entries[command]["arg-type"])]["members"]
        }
        return self._members(str(self._entries[types[argument]]["element-type"]))

    def _members(self, name: str) -> tuple[Member, ...]:
        return tuple(
            self._member(member["name"], member["type"]) for member in self._entries[name]["members"]
        )

    def _member(self, name: str, type_name: str) -> Member:
        entry = self._entries[type_name]
        values = entry.get("values")
        if values is None:
            # The plain list of names is deprecated since 6.2 (QEMU qapi/introspect.json, SchemaInfoEnum).
            members = entry.get("members", []) if entry["meta-type"] == "enum" else []
            values = [member["name"] for member in members]
        return Member(name, entry["meta-type"], entry.get("json-type", ""), tuple(values))


def read_schema(machine: Machine) -> QapiSchema:
    """Ask a running QEMU for its schema."""
    return QapiSchema(machine.qmp.execute("query-qmp-schema"))
