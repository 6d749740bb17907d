"""Draws QMP commands with valid and nearly valid arguments from the schema of a QEMU.

Only commands of COMMANDS are drawn. No argument that names a file, an address or a program is drawn,
and all strings come from short lists without paths of the host, so that no command reads, writes or runs
anything there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.qapi_schema import QapiSchema

COMMANDS: Mapping[str, str] = {
    "query-*": "monitoring asks at any time",
    "x-query-*": "the same, for people",
    "qom-list": "tools walk through the objects",
    "qom-list-types": "the same",
    "qom-list-properties": "the same",
    "qom-get": "the same",
    "device-list-properties": "the same",
    "migrate-set-parameters": "management tunes a migration",
    "migrate-set-capabilities": "the same",
    "migrate-continue": "commands for other kinds of migration must be refused",
    "migrate-pause": "the same",
    "migrate-start-postcopy": "the same",
    "x-colo-lost-heartbeat": "the same",
    "yank": "a sink that hangs",
    "calc-dirty-rate": "management measures how fast a guest writes",
    "set-vcpu-dirty-limit": "management slows a guest down",
    "cancel-vcpu-dirty-limit": "the same",
    "announce-self": "after a move to another host",
    "balloon": "management takes memory",
    "inject-nmi": "users ask a guest for a dump",
    "system_powerdown": "users press the button",
    "system_wakeup": "users wake a guest up",
    "send-key": "users type",
    "input-send-event": "users type",
    "rtc-reset-reinjection": "after a guest stood still",
    "object-add": "objects without a device",
    "object-del": "the same",
    "device_del": "a device is asked for",
    "set_link": "a cable is pulled",
    "blockdev-add": "a disk of zeros, which needs no file",
    "blockdev-del": "the same",
    "block-dirty-bitmap-add": "backups begin",
    "block-dirty-bitmap-remove": "backups end",
    "block-dirty-bitmap-clear": "the same",
    "job-*": "jobs that are not there",
    "block-job-*": "the same",
    "snapshot-delete": "the same, by a tag that is not there",
    "closefd": "management closes what it has passed",
    "trace-event-get-state": "tracing",
    "trace-event-set-state": "tracing",
    "chardev-send-break": "a serial line",
    "expire_password": "displays that are not there",
    "x-exit-preconfig": "too late",
}
"""Patterns of the commands that may be drawn, each with its reason."""

# Never: they open sockets, run programs, or end what every list of steps needs.
_NEVER = ("query-sgx*", "query-sev*", "query-rocker*")
# They name a file, an address or a program, or are lists of such.
_NO_ARGUMENTS = frozenset(
    {
        "uri", "filename", "file", "protocol", "addr", "path-to", "cpr-exec-command", "channels", "exec",
        "fdset", "target", "host", "port", "socket",
    }
)  # fmt: skip
_ABSENT = "explored-none"
_STRINGS: Mapping[str, tuple[str, ...]] = {
    "path": (
        "/",
        "/machine",
        "/objects",
        "/machine/peripheral",
        "/machine/unattached",
        "/machine/peripheral/rng",
        "balloon",
    ),
    "property": ("type", "realized", "guest-stats", "guest-stats-polling-interval", "temperature"),
    "typename": ("virtio-rng-pci", "memory-backend-ram", "device", "pc-dimm"),
    "id": ("explored-0", "explored-1", _ABSENT, "rng", "vga"),
    "job-id": (_ABSENT,),
    "device": ("disk", "disk0", _ABSENT),
    "node": ("disk", "explored-0", _ABSENT),
    "node-name": ("explored-0", "explored-1", "disk", _ABSENT),
    "name": ("explored-0", "uffd_*", "migration_*", _ABSENT),
    "fdname": ("explored", _ABSENT),
    "tls-creds": ("", _ABSENT),
    "tls-hostname": ("", _ABSENT),
    "tls-authz": ("", _ABSENT),
    "tag": (_ABSENT,),
    "data": ("a",),
}
_ANY_STRING = ("", "a", _ABSENT, "x" * 300, "é")
_NUMBERS = (0, 1, 2, 3, 10, 50, 99, 100, 101, 255, TARGET_PAGE_BYTES, 1 << 20, 1 << 31, (1 << 63) - 1, -1)
# Larger ones would be memory of the host.
_SIZES = (0, 1, TARGET_PAGE_BYTES - 1, TARGET_PAGE_BYTES, 1 << 20, 16 << 20)
_SIZE_NAMES = ("size", "value", "prealloc-threads")
# Members that are drawn of unions with many branches: objects and disks that need no file.
_BRANCHES: Mapping[str, tuple[str, ...]] = {
    "qom-type": ("memory-backend-ram", "iothread", "throttle-group", "rng-builtin", "secret"),
    "driver": ("null-co", "null-aio"),
}
_MOST_ELEMENTS, _DEEPEST = 2, 4
_OPTIONAL_SHARE, _WRONG_SHARE = 0.35, 0.1


def drawable(schema: QapiSchema) -> tuple[str, ...]:
    """Return the commands of a QEMU that may be drawn."""
    return tuple(
        name
        for name in schema.commands()
        if any(fnmatchcase(name, pattern) for pattern in COMMANDS)
        and not any(fnmatchcase(name, pattern) for pattern in _NEVER)
    )


def draw_arguments(schema: QapiSchema, command: str, chance: random.Random) -> dict[str, Any]:
    """Draw the arguments of a command: mostly valid ones, at times one that is missing, wrong or unknown."""
    arguments = _object(schema, schema.argument_type(command), chance, 0)
    if command in ("migrate-set-parameters", "migrate-set-capabilities"):
        arguments = _one_setting(schema, command, chance)
    if chance.random() < _WRONG_SHARE:
        arguments = _spoiled(arguments, chance)
    return arguments


def _one_setting(schema: QapiSchema, command: str, chance: random.Random) -> dict[str, Any]:
    """Draw one setting, or two: of many at once most would be refused for one of them."""
    if command == "migrate-set-capabilities":
        members = schema.element_members(command, "capabilities")
        names = next(member.values for member in members if member.name == "capability")
        return {
            "capabilities": [{"capability": chance.choice(names), "state": chance.random() < 0.6}],
        }
    members_of = [
        member
        for member in schema.entry(schema.argument_type(command))["members"]
        if member["name"] not in _NO_ARGUMENTS
    ]
    chosen = chance.sample(members_of, k=chance.choice((1, 1, 1, 2)))
    return {member["name"]: _value(schema, member["type"], member["name"], chance, 1) for member in chosen}


def _object(schema: QapiSchema, type_name: str, chance: random.Random, depth: int) -> dict[str, Any]:
    entry = schema.entry(type_name)
    found: dict[str, Any] = {}
    tag = entry.get("tag")
    for member in entry.get("members", ()):
        name = member["name"]
        if name in _NO_ARGUMENTS:
            continue
        optional = "default" in member
        if optional and (depth >= _DEEPEST or chance.random() >= _OPTIONAL_SHARE):
            continue
        if name == tag and name in _BRANCHES:
            found[name] = chance.choice(_BRANCHES[name])
        else:
            found[name] = _value(schema, member["type"], name, chance, depth + 1)
    if tag is not None:
        for variant in entry.get("variants", ()):
            if variant["case"] == found.get(tag):
                found.update(_object(schema, variant["type"], chance, depth + 1))
    return found


def _value(schema: QapiSchema, type_name: str, name: str, chance: random.Random, depth: int) -> Any:
    entry = schema.entry(type_name)
    meta = entry["meta-type"]
    if meta == "builtin":
        return _builtin(entry["json-type"], name, chance)
    if meta == "enum":
        values = entry.get("values") or [member["name"] for member in entry["members"]]
        wanted = [value for value in values if value in _BRANCHES.get(name, ())]
        return chance.choice(wanted or values)
    if meta == "array":
        if depth >= _DEEPEST:
            return []
        size = chance.randint(0, _MOST_ELEMENTS)
        return [_value(schema, entry["element-type"], name, chance, depth + 1) for _ in range(size)]
    if meta == "alternate":
        member = chance.choice(entry["members"])
        return _value(schema, member["type"], name, chance, depth + 1)
    return _object(schema, type_name, chance, depth + 1)


def _builtin(json_type: str, name: str, chance: random.Random) -> Any:
    if json_type == "boolean":
        return chance.random() < 0.5
    if json_type in ("int", "number"):
        return chance.choice(_SIZES if name in _SIZE_NAMES else _NUMBERS)
    if json_type == "null":
        return None
    if json_type == "string":
        return chance.choice(_STRINGS.get(name, _ANY_STRING))
    return chance.choice((0, True, _ABSENT))


def _spoiled(arguments: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return arguments of which one is missing, has another type or is not known."""
    spoiled = dict(arguments)
    names: Sequence[str] = sorted(spoiled)
    way = chance.choice(("missing", "type", "unknown")) if names else "unknown"
    if way == "missing":
        del spoiled[chance.choice(names)]
    elif way == "type":
        name = chance.choice(names)
        spoiled[name] = [] if isinstance(spoiled[name], str | int) else "a"
    else:
        spoiled[_ABSENT] = 1
    return spoiled
