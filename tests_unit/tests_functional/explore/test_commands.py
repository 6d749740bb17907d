"""Contract: commands are drawn from the schema; nothing of the host's is named, run or written."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from harness.qemu.qapi_schema import QapiSchema
from tests_functional.explore.commands import COMMANDS, draw_arguments, drawable

_BUILTINS = [
    {"name": name, "meta-type": "builtin", "json-type": kind}
    for name, kind in (
        ("int", "int"),
        ("str", "string"),
        ("bool", "boolean"),
        ("null", "null"),
        ("any", "value"),
    )
]
# In the form of `query-qmp-schema` (QEMU 10.0).
_SCHEMA = QapiSchema(
    [
        *_BUILTINS,
        {"name": "0", "meta-type": "object", "members": []},
        *(
            {"name": name, "meta-type": "command", "arg-type": kind, "ret-type": "0"}
            for name, kind in (
                ("query-status", "0"), ("quit", "0"), ("migrate", "1"), ("pmemsave", "1"),
                ("object-add", "2"),
                ("migrate-set-parameters", "4"), ("migrate-set-capabilities", "7"), ("send-key", "10"),
                ("human-monitor-command", "1"), ("query-sgx", "0"),
            )
        ),
        {"name": "1", "meta-type": "object", "members": [{"name": "uri", "type": "str"}]},
        {
            "name": "2",
            "meta-type": "object",
            "members": [{"name": "qom-type", "type": "3"}, {"name": "id", "type": "str"}],
            "tag": "qom-type",
            "variants": [{"case": "secret", "type": "6"}, {"case": "iothread", "type": "0"}],
        },
        {"name": "3", "meta-type": "enum", "values": ["memory-backend-file", "secret", "iothread"]},
        {
            "name": "4",
            "meta-type": "object",
            "members": [
                {"name": "level", "type": "int", "default": None},
                {"name": "tls-creds", "type": "5", "default": None},
                {"name": "cpr-exec-command", "type": "[str]", "default": None},
            ],
        },
        {"name": "5", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "null"}]},
        {"name": "[str]", "meta-type": "array", "element-type": "str"},
        {
            "name": "6",
            "meta-type": "object",
            "members": [{"name": "data", "type": "str"}, {"name": "file", "type": "str", "default": None}],
        },
        {"name": "7", "meta-type": "object", "members": [{"name": "capabilities", "type": "[8]"}]},
        {"name": "[8]", "meta-type": "array", "element-type": "8"},
        {
            "name": "8",
            "meta-type": "object",
            "members": [{"name": "capability", "type": "9"}, {"name": "state", "type": "bool"}],
        },
        {"name": "9", "meta-type": "enum", "values": ["xbzrle", "events"]},
        {
            "name": "10",
            "meta-type": "object",
            "members": [{"name": "keys", "type": "[str]"}, {"name": "deep", "type": "11", "default": None}],
        },
        # An object that holds one of its own kind, as block nodes do.
        {"name": "11", "meta-type": "object", "members": [{"name": "deep", "type": "11", "default": None}]},
    ]
)  # fmt: skip
_DRAWS = 400


def _drawn(command: str) -> list[dict[str, Any]]:
    return [draw_arguments(_SCHEMA, command, random.Random(seed)) for seed in range(_DRAWS)]


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield name, one
            yield from _inside(one)
    elif isinstance(value, list):
        for one in value:
            yield from _inside(one)


def test_only_listed_commands_are_drawn() -> None:
    """Commands that end QEMU, run programs or write files are never drawn, also if the schema has them."""
    assert drawable(_SCHEMA) == (
        "migrate-set-capabilities", "migrate-set-parameters", "object-add", "query-status", "send-key",
    )  # fmt: skip
    forbidden = (
        "quit",
        "migrate",
        "migrate-incoming",
        "pmemsave",
        "memsave",
        "screendump",
        "dump-*",
        "*hmp*",
    )
    assert not set(forbidden) & set(COMMANDS)
    assert "human-monitor-command" not in COMMANDS
    assert all(COMMANDS.values())


def test_no_argument_names_anything_of_the_host() -> None:
    """No file, address or program is drawn, however deep, and no string is a path of the host or a URI."""
    for command in drawable(_SCHEMA):
        for arguments in _drawn(command):
            for name, value in _inside(arguments):
                assert name not in ("uri", "file", "filename", "cpr-exec-command")
                if isinstance(value, str):
                    assert ":" not in value
                    assert not value.startswith(("/tmp", "/dev", "/etc", "/home", "/proc"))
                    assert len(value) <= 300
    kinds = {str(arguments.get("qom-type")) for arguments in _drawn("object-add")}
    assert "memory-backend-file" not in kinds
    assert {"secret", "iothread"} <= kinds


def test_valid_and_nearly_valid_arguments_are_drawn() -> None:
    """Most arguments fit the schema; some lack one, have another type or an unknown one."""
    valid = [
        arguments
        for arguments in _drawn("object-add")
        if {"qom-type", "id"} <= {*arguments} and all(isinstance(value, str) for value in arguments.values())
    ]
    assert _DRAWS * 0.8 < len(valid) < _DRAWS
    levels = [arguments["level"] for arguments in _drawn("migrate-set-parameters") if "level" in arguments]
    assert {type(level) for level in levels} > {int}
    assert any(arguments.get("tls-creds", 0) is None for arguments in _drawn("migrate-set-parameters"))
    states = [
        entry["state"]
        for arguments in _drawn("migrate-set-capabilities")
        for entry in arguments.get("capabilities", ())
        if isinstance(entry, dict)
    ]
    assert {True, False} == set(states)


@pytest.mark.parametrize("command", ["send-key", "object-add"])
def test_the_same_seed_gives_the_same(command: str) -> None:
    """A list can be drawn again; and all that is drawn is JSON, of a bounded size."""
    assert _drawn(command) == _drawn(command)
    assert all(len(json.dumps(arguments)) < 4000 for arguments in _drawn(command))
