"""Draws QMP commands with valid and nearly valid arguments from the schema of a QEMU.

All commands of the schema are drawn but those of DENIED. Strings are names of what the QEMU has or may get
(names.py), or come from short lists. A file is always one in the folder of the run, so that no command reads,
writes or runs anything elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.qapi_schema import QapiSchema
from tests_functional.explore.names import NEW, Names, Property

_OWN_STEP = "is a step of its own, which the model knows"
_NEEDS_A_DESCRIPTOR = "takes a file descriptor that comes with the command"
DENIED: Mapping[str, str] = {
    "quit": "ends QEMU",
    "set-action": "changes what a reset, a panic and a power-off do, which the model knows",
    "stop": _OWN_STEP,
    "cont": _OWN_STEP,
    "system_reset": _OWN_STEP,
    "system_wakeup": _OWN_STEP,
    "migrate": _OWN_STEP,
    "migrate_cancel": _OWN_STEP,
    "snapshot-save": _OWN_STEP,
    "snapshot-load": _OWN_STEP,
    "human-monitor-command": "is the step `info`; its other commands are those of QMP",
    "migrate-incoming": "is for a QEMU that waits for a guest",
    "xen-load-devices-state": "loads another state over that of the guest",
    "add-fd": _NEEDS_A_DESCRIPTOR,
    "add_client": _NEEDS_A_DESCRIPTOR,
    "getfd": _NEEDS_A_DESCRIPTOR,
    "query-sgx*": "asks hardware that is not there",
    "query-sev*": "asks hardware that is not there",
    "sev-*": "asks hardware that is not there",
    "query-rocker*": "asks a switch that is not there",
    "cxl-*": "asks memory that is not there",
}
"""Patterns of the commands that are never drawn, each with its reason."""

FOLDER = "{folder}"
"""Stands for the folder of the run in arguments that are drawn."""

FAMILIES: tuple[tuple[str, ...], ...] = (
    (
        "block*", "job-*", "query-block*", "query-named-block-nodes", "query-jobs", "nbd-*", "drive-*",
        "x-blockdev*", "x-debug*", "transaction", "eject", "change-backing-file", "query-block-exports",
    ),
    ("chardev-*", "ringbuf-*", "query-chardev*"),
    ("object-*", "qom-*", "query-memdev", "query-iothreads"),
    ("device*", "qom-*", "query-pci", "query-memory-devices"),
    ("netdev*", "set_link", "query-rx-filter", "announce-self"),
    (
        "migrate*", "*dirty*", "query-migrate*", "query-yank", "yank", "xen-*", "x-colo*", "balloon",
        "dump-guest-memory", "query-dump", "pmemsave", "memsave",
    ),
)  # fmt: skip
"""Patterns of commands that are about the same things: drawn in a row, one finds what another has made."""

# They name an address or a program of the host, or have a command wait for somebody outside.
_NO_ARGUMENTS = frozenset(
    {
        "uri", "addr", "cpr-exec-command", "channels", "exec", "fdset", "host", "port", "socket", "smb",
        "guestfwd", "hostfwd", "script", "downscript", "helper", "wait", "evdev", "canbus", "ifname", "br",
    }
)  # fmt: skip
_ADDRESSES = ("nbd-server-*", "chardev-*", "netdev_add", "block-export-*")
_ABSENT = "explored-none"
_FILES = tuple(f"{FOLDER}/{name}" for name in NEW)
# Command, argument, what it names; the first one that fits.
_NAMED: tuple[tuple[str, str, str], ...] = (
    ("object-add", "id", "new"),
    ("object-del", "id", "object"),
    ("device_del", "id", "device"),
    ("netdev_add", "id", "new"),
    ("netdev_del", "id", "netdev"),
    ("set_link", "name", "netdev"),
    ("chardev-add", "id", "new"),
    ("chardev-*", "id", "chardev"),
    ("ringbuf-*", "device", "chardev"),
    ("block-export-*", "id", "new"),
    ("job-*", "id", "new"),
    ("block-job-*", "device", "new"),
    ("block-job-*", "id", "new"),
    ("blockdev-add", "node-name", "new"),
    ("blockdev-create", "filename", "file"),
    ("blockdev-*", "file", "node"),
    ("x-blockdev-*", "file", "node"),
    ("blockdev-*", "filename", "file"),
    ("qom-*", "path", "path"),
    ("query-stats", "*", "path"),
    ("x-query-virtio*", "path", "path"),
    ("*", "job-id", "new"),
    ("*", "snapshot-node-name", "new"),
    ("*", "throttle-group", "object"),
    ("*", "iothread", "object"),
    ("*", "memdev", "object"),
    ("*", "*secret*", "object"),
    ("*", "tls-creds", "object"),
    ("*", "chardev", "chardev"),
    ("*", "netdev", "netdev"),
    ("*", "outdev", "chardev"),
    ("*", "indev", "chardev"),
    ("*", "node*", "node"),
    ("*", "*node", "node"),
    ("*", "backing*", "node"),
    ("*", "target", "node"),
    ("*", "top*", "node"),
    ("*", "base*", "node"),
    ("*", "image", "node"),
    ("*", "replaces", "node"),
    ("*", "device", "block"),
    ("*", "id", "block"),
    ("*", "parent", "block"),
    ("*", "child", "block"),
    ("device-*", "typename", "device type"),
    ("*", "typename", "type"),
    ("*", "implements", "type"),
    ("*", "filename", "file"),
    ("*", "file", "file"),
    ("*", "path", "file"),
    ("*", "dir", "file"),
    ("*", "mem-path", "file"),
    ("trace-*", "name", "event"),
    ("*", "protocol", "protocol"),
    ("*", "name", "new"),
    ("*", "bitmap*", "new"),
)
_EVENTS = ("uffd_*", "migration_*", "ram_*", _ABSENT)
_OTHERS: Mapping[str, tuple[str, ...]] = {
    "fdname": ("explored", _ABSENT),
    "tls-hostname": ("", _ABSENT),
    "tls-authz": ("", _ABSENT),
    "data": ("a",),
}
_ANY_STRING = ("", "a", _ABSENT, "x" * 300, "é")
_NUMBERS = (0, 1, 2, 3, 10, 50, 99, 100, 101, 255, TARGET_PAGE_BYTES, 1 << 20, 1 << 31, (1 << 63) - 1, -1)
# Larger ones would be memory of the host.
_SIZES = (0, 1, TARGET_PAGE_BYTES - 1, TARGET_PAGE_BYTES, 1 << 20, 16 << 20)
_SIZE_NAMES = (
    "size",
    "value",
    "prealloc-threads",
    "length",
    "*-size",
    "*_mb",
    "*-cache",
    "queues",
    "*-threads",
)
# Seconds of a measurement, milliseconds of some; longer ones end after the list.
_SHORT, _SHORT_NAMES = (0, 1, 2), ("calc-time", "hold-time")
# Members that are drawn of unions with many branches: those that open nothing of the host's.
_BRANCHES: Mapping[str, tuple[str, ...]] = {
    "qom-type": (
        "memory-backend-ram", "memory-backend-memfd", "memory-backend-file", "memory-backend-shm",
        "iothread", "main-loop", "throttle-group", "rng-builtin", "rng-egd", "secret", "tls-creds-anon",
        "tls-creds-psk", "tls-creds-x509", "tls-cipher-suites", "authz-list", "authz-simple",
        "authz-list-file", "filter-buffer", "filter-dump", "filter-mirror", "filter-redirector",
        "filter-rewriter", "filter-replay", "colo-compare", "can-bus", "thread-context",
        "cryptodev-backend", "cryptodev-backend-builtin", "cryptodev-vhost-user", "acpi-generic-initiator",
    ),
    "driver": (
        "null-co", "null-co", "null-aio", "raw", "qcow2", "file", "copy-on-read", "throttle", "blkdebug",
        "blkverify", "blklogwrites", "compress", "quorum", "copy-before-write", "snapshot-access",
        "preallocate",
    ),
    "type": (
        # Network, chardevs, addresses, exports.
        "user", "hubport", "stream", "dgram",
        "null", "ringbuf", "file", "socket", "mux", "hub", "pty", "memory", "vc", "testdev", "msmouse",
        "wctablet", "qemu-vdagent",
        "unix",
        "nbd", "vhost-user-blk",
    ),
}  # fmt: skip
# Devices that open what is the host's.
_NO_DEVICES = ("vfio-*", "vhost-*", "*-host*", "*passthr*", "ivshmem-doorbell", "scsi-generic", "scsi-block")
# Properties that take a device from the guest without its knowledge, which QEMU does not promise to survive.
_NO_PROPERTIES = ("realized",)
# Optional arguments without which the command is refused, with their depth.
_ALWAYS = (
    ("blockdev-add", "node-name", 0),
    ("block-dirty-bitmap-add", "name", 0),
    ("blockdev-create", "job-id", 0),
)
_ELEMENTS = (0, 1, 1, 2)
_DEEPEST = 5
_OPTIONAL_SHARE, _WRONG_SHARE, _ABSENT_SHARE, _NEW_SHARE = 0.35, 0.06, 0.06, 0.4
_MOST_PROPERTIES = 3


@dataclass(frozen=True)
class Source:
    """Draws the arguments of one command.

    Attributes:
        schema: of the QEMU under test.
        names: of what it has.
        chance: the source of chance.
        command: the command.
    """

    schema: QapiSchema
    names: Names
    chance: random.Random
    command: str

    def string(self, argument: str) -> str:
        """Draw a string for an argument: mostly the name of something that there is, or may be."""
        if argument in _OTHERS:
            return self.chance.choice(_OTHERS[argument])
        what = _what(self.command, argument)
        return self.name(what) if what else self.chance.choice(_ANY_STRING)

    def name(self, what: str) -> str:
        """Draw the name of something of a kind."""
        names, chance = self.names, self.chance
        fixed = {"new": NEW, "file": _FILES, "event": _EVENTS, "protocol": [f"file:{one}" for one in _FILES]}
        if what in fixed:
            return chance.choice(fixed[what])
        if chance.random() < _ABSENT_SHARE:
            return chance.choice(_ANY_STRING)
        if what == "path":
            return chance.choice(names.paths)
        if what in ("type", "device type"):
            return chance.choice(names.types if what == "device type" else names.all_types)
        pools = {
            "object": names.objects,
            "device": names.devices,
            "netdev": names.netdevs,
            "chardev": names.chardevs,
            "node": names.nodes,
            "block": (*names.disks, *names.nodes),
        }
        there = pools[what]
        return chance.choice(NEW if not there or chance.random() < _NEW_SHARE else there)

    def number(self, argument: str) -> int:
        """Draw a number for an argument."""
        if argument in _SHORT_NAMES:
            return self.chance.choice(_SHORT)
        sizes = any(fnmatchcase(argument, pattern) for pattern in _SIZE_NAMES)
        return self.chance.choice(_SIZES if sizes else _NUMBERS)

    def of_kind(self, one: Property) -> Any:
        """Draw a value for a property of a QOM type."""
        chance, kind = self.chance, one.kind
        if kind == "bool":
            return chance.random() < 0.5
        if kind.startswith(("int", "uint", "size")):
            return self.number(one.name)
        if kind.startswith("link<"):
            return self.name(chance.choice(("path", "object", "device")))
        pools = {"drive": "node", "chr": "chardev", "netdev": "netdev"}
        if one.name in pools or one.name in pools.values():
            return self.name(pools.get(one.name, one.name))
        if kind.startswith("OnOff"):
            return chance.choice(("on", "off", "auto"))
        return chance.choice((*_ANY_STRING, *_NUMBERS, True))


@cache
def _what(command: str, argument: str) -> str:
    """Return what a string argument names, "" for nothing that is known."""
    named = (
        what
        for commands, arguments, what in _NAMED
        if fnmatchcase(command, commands) and fnmatchcase(argument, arguments)
    )
    return next(named, "")


@cache
def drawable(schema: QapiSchema) -> tuple[str, ...]:
    """Return the commands of a QEMU that may be drawn."""
    return tuple(
        name for name in schema.commands() if not any(fnmatchcase(name, pattern) for pattern in DENIED)
    )


@cache
def related(schema: QapiSchema, command: str) -> tuple[str, ...]:
    """Return the commands that are about the same things as a command, empty if it is of no family."""
    found: tuple[str, ...] = ()
    for family in FAMILIES:
        if any(fnmatchcase(command, pattern) for pattern in family):
            found = tuple(
                name for name in drawable(schema) if any(fnmatchcase(name, pattern) for pattern in family)
            )
            break
    return found


def draw_arguments(schema: QapiSchema, names: Names, command: str, chance: random.Random) -> dict[str, Any]:
    """Draw the arguments of a command: mostly valid ones, at times one that is missing, wrong or unknown."""
    source = Source(schema, names, chance, command)
    if command in ("migrate-set-parameters", "migrate-set-capabilities"):
        arguments = _one_setting(source)
    elif command in ("qom-get", "qom-set"):
        arguments = _one_property(source)
    elif command == "device_add" and names.device_types:
        arguments = _one_device(source)
    else:
        arguments = _object(source, schema.argument_type(command), 0)
    if chance.random() < _WRONG_SHARE:
        arguments = _spoiled(arguments, chance)
    return arguments


def filled(value: Any, folder: str) -> Any:
    """Return arguments that were drawn with the folder of the run in place of FOLDER."""
    if isinstance(value, str):
        return value.replace(FOLDER, folder)
    if isinstance(value, dict):
        return {name: filled(one, folder) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, folder) for one in value]
    return value


def _one_setting(source: Source) -> dict[str, Any]:
    """Draw one setting, or two: of many at once most would be refused for one of them."""
    schema, chance, command = source.schema, source.chance, source.command
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
    return {member["name"]: _value(source, member["type"], member["name"], 1) for member in chosen}


def _one_property(source: Source) -> dict[str, Any]:
    """Draw a property of an object, and a value for it to set."""
    properties = [one for one in source.names.properties if one.name not in _NO_PROPERTIES]
    one = source.chance.choice(properties)
    arguments: dict[str, Any] = {"path": one.path, "property": one.name}
    return {**arguments, "value": source.of_kind(one)} if source.command == "qom-set" else arguments


def _one_device(source: Source) -> dict[str, Any]:
    """Draw a device to plug in, with some of its properties."""
    chance, types = source.chance, source.names.device_types
    allowed = [name for name in types if not any(fnmatchcase(name, pattern) for pattern in _NO_DEVICES)]
    driver = chance.choice(allowed)
    arguments: dict[str, Any] = {"driver": driver, "id": chance.choice(NEW)}
    if chance.random() < _OPTIONAL_SHARE and source.names.buses:
        arguments["bus"] = chance.choice(source.names.buses)
    properties = types[driver]
    # What a device needs to be there at all.
    for one in properties:
        if one.name in ("drive", "chardev", "netdev", "memdev") and chance.random() < 0.8:
            pool = {"drive": "node", "memdev": "object"}.get(one.name, one.name)
            arguments[one.name] = source.name(pool)
    for one in chance.sample(properties, k=min(len(properties), chance.randint(0, _MOST_PROPERTIES))):
        arguments.setdefault(one.name, source.of_kind(one))
    return arguments


def _left_out(source: Source, name: str) -> bool:
    """Return whether an argument is not drawn; an address is, where only sockets in the folder are."""
    addresses = any(fnmatchcase(source.command, pattern) for pattern in _ADDRESSES)
    return name in _NO_ARGUMENTS and not (name == "addr" and addresses)


def _object(source: Source, type_name: str, depth: int) -> dict[str, Any]:
    entry, chance = source.schema.entry(type_name), source.chance
    found: dict[str, Any] = {}
    tag = entry.get("tag")
    for member in entry.get("members", ()):
        name = member["name"]
        if _left_out(source, name):
            continue
        optional = "default" in member and (source.command, name, depth) not in _ALWAYS
        if optional and (depth >= _DEEPEST or chance.random() >= _OPTIONAL_SHARE):
            continue
        found[name] = _value(source, member["type"], name, depth + 1)
    if tag is not None:
        for variant in entry.get("variants", ()):
            if variant["case"] == found.get(tag):
                found.update(_object(source, variant["type"], depth + 1))
    return found


def _value(source: Source, type_name: str, name: str, depth: int) -> Any:
    entry, chance = source.schema.entry(type_name), source.chance
    meta = entry["meta-type"]
    if meta == "builtin":
        return _builtin(source, entry["json-type"], name)
    if meta == "enum":
        values = entry.get("values") or [member["name"] for member in entry["members"]]
        wanted = [value for value in _BRANCHES.get(name, ()) if value in values]
        return chance.choice(wanted or values)
    if meta == "array":
        if depth >= _DEEPEST:
            return []
        count = chance.choice(_ELEMENTS)
        return [_value(source, entry["element-type"], name, depth + 1) for _ in range(count)]
    if meta == "alternate":
        kinds = entry["members"]
        strings = [one for one in kinds if one["type"] == "str"]
        # Deep inside only names end the list of nodes in nodes.
        member = chance.choice(strings if strings and depth >= _DEEPEST - 1 else kinds)
        return _value(source, member["type"], name, depth + 1)
    return _object(source, type_name, depth + 1)


def _builtin(source: Source, json_type: str, name: str) -> Any:
    if json_type == "boolean":
        return source.chance.random() < 0.5
    if json_type in ("int", "number"):
        return source.number(name)
    if json_type == "null":
        return None
    if json_type == "string":
        return source.string(name)
    return source.chance.choice((0, True, _ABSENT))


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
