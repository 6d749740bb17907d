"""Contract: commands are drawn from the schema; nothing of the host's is named, run or written."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from harness.qemu.qapi_schema import QapiSchema
from tests_functional.explore.commands import DENIED, FOLDER, draw_arguments, drawable, filled, related
from tests_functional.explore.names import Names, Property

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
                ("human-monitor-command", "1"), ("query-sgx", "0"), ("qom-set", "12"), ("qom-get", "12"),
                ("device_add", "12"), ("object-del", "13"), ("blockdev-del", "14"),
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
        {"name": "12", "meta-type": "object", "members": [{"name": "path", "type": "str"}]},
        {"name": "13", "meta-type": "object", "members": [{"name": "id", "type": "str"}]},
        {"name": "14", "meta-type": "object", "members": [{"name": "node-name", "type": "str"}]},
        # An object that holds one of its own kind, as block nodes do.
        {"name": "11", "meta-type": "object", "members": [{"name": "deep", "type": "11", "default": None}]},
    ]
)  # fmt: skip
_NAMES = Names(
    ("/machine", "/objects/io"),
    (Property("/machine", "graphics", "bool"), Property("/objects/io", "poll-max-ns", "int")),
    devices=("rng",),
    objects=("io",),
    nodes=("disk",),
    buses=("usb.0",),
    types=("virtio-rng-pci", "vfio-pci"),
    device_types={
        "virtio-rng-pci": (Property("", "max-bytes", "uint64"), Property("", "realized", "bool")),
        "virtio-blk-pci": (Property("", "drive", "str"),),
        "vfio-pci": (Property("", "host", "str"),),
    },
)
_DRAWS = 400


def _drawn(command: str) -> list[dict[str, Any]]:
    return [draw_arguments(_SCHEMA, _NAMES, command, random.Random(seed)) for seed in range(_DRAWS)]


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield name, one
            yield from _inside(one)
    elif isinstance(value, list):
        for one in value:
            yield from _inside(one)


def test_all_commands_are_drawn_but_those_that_are_denied() -> None:
    """Commands that end QEMU, or that the model has to know, are never drawn; each has its reason."""
    assert drawable(_SCHEMA) == (
        "blockdev-del", "device_add", "migrate-set-capabilities", "migrate-set-parameters", "object-add",
        "object-del", "pmemsave", "qom-get", "qom-set", "query-status", "send-key",
    )  # fmt: skip
    own_steps = ("quit", "stop", "cont", "migrate", "migrate_cancel", "system_reset", "system_wakeup")
    assert {*own_steps, "snapshot-load", "human-monitor-command", "set-action"} <= {*DENIED}
    assert all(DENIED.values())


def test_no_argument_names_anything_of_the_host() -> None:
    """However deep: files are in the folder of the run, and no string is another path or a URI."""
    for command in drawable(_SCHEMA):
        for arguments in _drawn(command):
            for name, value in _inside(arguments):
                assert name not in ("uri", "cpr-exec-command", "host", "exec")
                if name in ("file", "filename"):
                    assert value == "a" or value == [] or str(value).startswith(f"{FOLDER}/")
                if isinstance(value, str):
                    assert ":" not in value
                    assert not value.startswith(("/tmp", "/dev", "/etc", "/home", "/proc"))
                    assert len(value) <= 300
    kinds = {str(arguments.get("qom-type")) for arguments in _drawn("object-add")}
    assert {"secret", "iothread"} <= kinds


def test_files_are_put_into_the_folder_of_the_run() -> None:
    """However deep in the arguments; other values stay as they are."""
    drawn = {"file": f"{FOLDER}/a", "deep": [{"protocol": f"file:{FOLDER}/b"}], "size": 1, "on": True}
    assert filled(drawn, "/run") == {
        "file": "/run/a",
        "deep": [{"protocol": "file:/run/b"}],
        "size": 1,
        "on": True,
    }


@pytest.mark.parametrize(
    ("command", "argument", "there"),
    [("object-del", "id", "io"), ("blockdev-del", "node-name", "disk")],
)
def test_commands_name_what_there_is(command: str, argument: str, there: str) -> None:
    """Half of the names are of what the QEMU has, others of what commands add, some of nothing."""
    found = [arguments.get(argument) for arguments in _drawn(command)]
    assert found.count(there) > _DRAWS * 0.35
    assert found.count("explored-0") > _DRAWS * 0.1
    assert "explored-none" in found


def test_properties_are_set_to_values_of_their_type() -> None:
    """Each is one that its object has."""
    wanted = {"/machine": ("graphics", bool), "/objects/io": ("poll-max-ns", int)}
    drawn = [one for one in _drawn("qom-set") if {*one} == {"path", "property", "value"}]
    fits = [
        one
        for one in drawn
        if isinstance(one["path"], str)
        and one["property"] == wanted[one["path"]][0]
        and type(one["value"]) is wanted[one["path"]][1]
    ]
    assert len(fits) > _DRAWS * 0.8
    assert {one["path"] for one in fits} == {*wanted}
    assert not any("value" in one for one in _drawn("qom-get"))


def test_devices_are_plugged_in_with_properties_that_they_have() -> None:
    """None opens what is the host's, and none is taken from the guest by a property."""
    drawn = _drawn("device_add")
    assert {"virtio-rng-pci", "virtio-blk-pci"} <= {str(one.get("driver")) for one in drawn}
    assert not any(one.get("driver") == "vfio-pci" for one in drawn)
    assert any("max-bytes" in one for one in drawn)
    assert any(one.get("drive") == "disk" for one in drawn)
    assert not any(one.get("path") == "realized" for one in _drawn("qom-set"))


def test_a_command_is_followed_by_those_about_the_same_things() -> None:
    """Objects with objects, settings with settings; a command of no family by none."""
    assert related(_SCHEMA, "object-add") == ("object-add", "object-del", "qom-get", "qom-set")
    assert related(_SCHEMA, "blockdev-del") == ("blockdev-del",)
    assert related(_SCHEMA, "send-key") == ()


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
