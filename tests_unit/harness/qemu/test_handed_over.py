"""Contract: a file is handed over in the way that a QEMU's own schema offers."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.qemu.handed_over import hand_over, transports
from harness.qemu.machine import Machine
from harness.qemu.qapi_schema import QapiSchema


def _schema(transport: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the part of a schema that describes `migrate`; without `channels`, as before QEMU 8.2."""
    if transport is None:
        return [
            {"name": "migrate", "meta-type": "command", "arg-type": "1"},
            {"name": "1", "meta-type": "object", "members": [{"name": "uri", "type": "str"}]},
        ]
    return [
        {"name": "migrate", "meta-type": "command", "arg-type": "1"},
        {"name": "1", "meta-type": "object", "members": [{"name": "channels", "type": "[2]"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {"name": "2", "meta-type": "object", "members": [{"name": "addr", "type": "3"}]},
        {"name": "3", "meta-type": "object", "members": [{"name": "transport", "type": "4"}]},
        {"name": "4", "meta-type": "enum", **transport},
    ]


_OLD = {"values": ["socket", "exec", "rdma"]}
_VALUES = {"values": ["socket", "exec", "rdma", "file"]}
_MEMBERS = {"members": [{"name": "socket"}, {"name": "file"}]}


class _Session:
    def __init__(self, transport: dict[str, Any] | None) -> None:
        self._transport = transport
        self.given: list[tuple[str, int, str]] = []

    def execute(self, command: str) -> Any:
        assert command == "query-qmp-schema"
        return _schema(self._transport)

    def pass_descriptor(self, descriptor: int, name: str) -> None:
        self.given.append(("getfd", descriptor, name))

    def add_descriptor(self, descriptor: int, name: str) -> int:
        self.given.append(("add-fd", descriptor, name))
        return 7


class _Machine:
    def __init__(self, transport: dict[str, Any] | None) -> None:
        self.qmp = _Session(transport)


@pytest.mark.parametrize(
    ("transport", "uri", "command"),
    [
        (None, "fd:save", "getfd"),
        (_OLD, "fd:save", "getfd"),
        (_VALUES, "file:/dev/fdset/7", "add-fd"),
        (_MEMBERS, "file:/dev/fdset/7", "add-fd"),
    ],
)
def test_way_is_that_of_the_schema(transport: dict[str, Any] | None, uri: str, command: str) -> None:
    """`file:` is used where it is one of the transports, and no descriptor is given in another way too."""
    machine = _Machine(transport)
    assert hand_over(cast(Machine, machine), 5, "save") == uri
    assert machine.qmp.given == [(command, 5, "save")]


def test_transports() -> None:
    """They are read in both forms of an enum; a schema without any has none."""
    assert transports(QapiSchema(_schema(_MEMBERS))) == ("socket", "file")
    assert transports(QapiSchema(_schema(_OLD))) == ("socket", "exec", "rdma")
    assert transports(QapiSchema(_schema(None))) == ()
    assert transports(QapiSchema([])) == ()
