"""Lists the kinds of steps: the reason of each, what it does, how its arguments are drawn and checked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guest_images.agent.pages import PATTERNS
from harness.errors import UsageError
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.qapi_schema import QapiSchema
from tests_functional.explore import acts, continuing, destinations, internal, objects
from tests_functional.explore.commands import draw_arguments, drawable, related
from tests_functional.explore.guests import DEVICES, MACHINES, RAM_KINDS
from tests_functional.explore.names import Names
from tests_functional.explore.sink import TRANSPORTS, Speed
from tests_functional.explore.steps import GuestChoice, Step, StepList

# Not `sparse`: its holes are pages that nobody has touched, and the writers before have.
_PATTERNS = ("random", "sequential", "hot")
_COVERAGES = (0.25, 0.4, 0.6)
_RAM_MIB = range(32, 1025)
_FLOWS = (
    "LIVE", "LIVE_FILE", "STOP_MIGRATE_CONT", "STOP_MIGRATE_CONT_FILE", "STOP_AND_SAVE",
)  # fmt: skip
_ADDRESSES, _READ_BYTES = (
    (0, 0xA0000, 0xFFFC0000, 16 << 20, 0xFED00000, 48 << 20),
    (TARGET_PAGE_BYTES, 1 << 20, 8 << 20),
)
# Of commands, those that set a migration's settings; those that others about the same things follow.
_SETTINGS_SHARE, _FURTHER_SHARE, _MOST_FURTHER = 0.15, 0.7, 5
_INFOS = (
    "migrate", "ramblock", "mtree -f", "qtree", "qom-tree", "registers", "cpus", "pci", "irq", "pic", "jit",
    "memory-devices", "numa", "roms", "status", "block", "migrate_capabilities", "migrate_parameters",
    "balloon", "blockstats", "block-jobs", "chardev", "dirty_rate", "hotpluggable-cpus", "iothreads", "kvm",
    "lapic", "mem", "memdev", "memory_size_summary", "mice", "network", "opcount", "qdm", "rdma", "replay",
    "snapshots", "sync-profile", "tlb", "tpm", "trace-events", "usb", "usernet", "uuid", "vcpu_dirty_limit",
    "version", "virtio", "vm-generation-id", "accel", "stats vm", "stats vcpu", "sgx", "sev", "capture",
)  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """The values that arguments are drawn from.

    Attributes:
        schema: of the QEMU under test.
        chance: the source of chance.
        names: what commands may name.
        rarity: returns a weight for a command: the larger, the less often QEMU has accepted it.
    """

    schema: QapiSchema
    chance: random.Random
    names: Names = field(default_factory=Names)
    rarity: Callable[[str], float] = field(default=lambda _command: 1.0)


Allowed = type | tuple[Any, ...]
"""What an argument may be: one of some values, or of a type."""


def _nothing(_drawing: Drawing) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Kind:
    """One kind of step.

    Attributes:
        reason: who does it.
        act: does it.
        draw: draws its arguments.
        weight: how often it is drawn, beside the others.
        takes: its arguments, each with the values or the type that it may have.
    """

    reason: str
    act: acts.Act
    draw: Callable[[Drawing], dict[str, Any]] = _nothing
    weight: float = 1.0
    takes: Mapping[str, Allowed] = field(default_factory=dict)


def _begin(drawing: Drawing) -> dict[str, Any]:
    chance = drawing.chance
    golden, early = chance.choice(((False, False), (True, False), (False, True)))
    return {"transport": chance.choice(TRANSPORTS), "golden": golden, "early": early}


def _one(name: str, *values: Any) -> Callable[[Drawing], dict[str, Any]]:
    return lambda drawing: {name: drawing.chance.choice(values)}


def _nowhere(drawing: Drawing) -> dict[str, Any]:
    chance = drawing.chance
    return {"destination": chance.choice((*destinations.DESTINATIONS,)), "snapshot": chance.random() < 0.7}


def _property(drawing: Drawing) -> dict[str, Any]:
    path, name, values = drawing.chance.choice(objects.PROPERTIES)
    return {"path": path, "property": name, "value": drawing.chance.choice(values)}


def _starved(drawing: Drawing) -> dict[str, Any]:
    return {"left": drawing.chance.randint(0, 3), "transport": drawing.chance.choice(("exec", "unix"))}


def _memory(drawing: Drawing) -> dict[str, Any]:
    return {"address": drawing.chance.choice(_ADDRESSES), "size": drawing.chance.choice(_READ_BYTES)}


def _pattern(drawing: Drawing) -> dict[str, Any]:
    return {"pattern": drawing.chance.choice(_PATTERNS), "coverage": drawing.chance.choice(_COVERAGES)}


def _qmp(drawing: Drawing) -> dict[str, Any]:
    names = drawable(drawing.schema)
    settings = [name for name in names if name.startswith("migrate-set-")]
    return _given(drawing, settings if settings and drawing.chance.random() < _SETTINGS_SHARE else names)


def _given(drawing: Drawing, commands: Sequence[str]) -> dict[str, Any]:
    """Draw one of some commands, with its arguments."""
    command = drawing.chance.choices(commands, [drawing.rarity(name) for name in commands])[0]
    arguments = draw_arguments(drawing.schema, drawing.names, command, drawing.chance)
    return {"command": command, "arguments": arguments}


def further_commands(drawing: Drawing, step: Step) -> list[Step]:
    """Draw steps that follow a command: others about the same things, which use what it has made."""
    if step.kind != "qmp":
        return []
    names = related(drawing.schema, str(step.arguments["command"]))
    if not names or drawing.chance.random() > _FURTHER_SHARE:
        return []
    count = drawing.chance.randint(1, _MOST_FURTHER)
    return [Step("qmp", _given(drawing, names)) for _ in range(count)]


_BEGIN: Mapping[str, Allowed] = {"transport": TRANSPORTS, "golden": bool, "early": bool}
_SECONDS: Mapping[str, Allowed] = {"seconds": float}
_PATTERN: Mapping[str, Allowed] = {"pattern": PATTERNS, "coverage": float}
_QMP: Mapping[str, Allowed] = {"command": str, "arguments": dict}
_PROPERTY: Mapping[str, Allowed] = {"path": str, "property": str, "value": object}
# Left out by reproducers that people write: a list from the command line may do without them.
_OPTIONAL = ("golden", "early", "by_guest", "transport")

KINDS: Mapping[str, Kind] = {
    "begin": Kind(
        "a background snapshot begins, and other steps are taken meanwhile", acts.begin, _begin, 5, _BEGIN
    ),
    "finish": Kind("the save goes on to its end, and is judged", acts.finish, weight=2),
    "snapshot": Kind(
        "a whole snapshot by one of the flows", acts.snapshot, _one("flow", *_FLOWS), 0.6, {"flow": _FLOWS}
    ),
    "cancel": Kind("users cancel what takes too long", acts.cancel, weight=0.6),
    "sink": Kind(
        "disks and networks are slow, stand still, and fail",
        acts.set_sink,
        _one("speed", "slow", "stalled", "fast", "closed", "stalled"),
        1.2,
        {"speed": tuple(speed.value for speed in Speed)},
    ),
    "stop": Kind("management stops a guest at any time", acts.stop, weight=2),
    "cont": Kind("and lets it go on", acts.cont, weight=2.5),
    "reset": Kind(
        "users and guests reset at any time",
        acts.reset,
        _one("by_guest", False, True),
        takes={"by_guest": bool},
    ),
    "panic": Kind("a guest panics at any time", acts.panic, weight=0.5),
    "sleep": Kind("a guest suspends itself to RAM at any time", acts.sleep, weight=0.8),
    "wake": Kind("and is woken up", acts.wake, weight=1.2),
    "freeze": Kind(
        "the host's user stops QEMU for a while", acts.freeze, _one("seconds", 0.05, 0.3, 1.0), 0.7, _SECONDS
    ),
    "wait": Kind("time passes", acts.wait, _one("seconds", 0.01, 0.05, 0.2), 0.7, _SECONDS),
    "pattern": Kind("another program writes to other memory", acts.pattern, _pattern, 0.7, _PATTERN),
    "untouched": Kind("a guest uses memory for the first time after T0", acts.untouched, weight=1.5),
    "migrate-again": Kind("two tools save the same guest", acts.migrate_again, weight=0.4),
    "save-nowhere": Kind(
        "management names a destination that is none",
        destinations.save_nowhere,
        _nowhere,
        0.8,
        {"destination": tuple(destinations.DESTINATIONS), "snapshot": bool},
    ),
    "cancel-unconnected": Kind(
        "nobody accepts the connection of a save, and a user cancels it",
        destinations.cancel_unconnected,
        _one("snapshot", True, True, False),
        0.4,
        {"snapshot": bool},
    ),
    "limit-bandwidth": Kind(
        "management limits a migration that goes on",
        acts.limit_bandwidth,
        _one("bytes", 100 << 10, 1 << 20, 1 << 30),
        0.4,
        {"bytes": int},
    ),
    "info": Kind("people look at what QEMU does", acts.info, _one("what", *_INFOS), 1, {"what": str}),
    "qmp": Kind("management gives a command, now and then a wrong one", acts.qmp, _qmp, 7, _QMP),
    "qom-set": Kind("management changes an object", objects.qom_set, _property, 1, _PROPERTY),
    "read-memory": Kind(
        "a debugger reads guest memory", objects.read_memory, _memory, 0.4, {"address": int, "size": int}
    ),
    "plug": Kind(
        "management plugs a device in",
        objects.plug,
        _one("device", *objects.PLUGGABLE),
        0.8,
        {"device": tuple(objects.PLUGGABLE)},
    ),
    "save-inside": Kind("a user takes an internal snapshot", internal.save_inside, weight=0.6),
    "load-inside": Kind("and loads it", internal.load_inside, weight=0.6),
    "continue": Kind("the guest is restored and goes on", continuing.continue_restored, weight=0.7),
    "begin-starved": Kind(
        "QEMU may open few files more",
        continuing.begin_starved,
        _starved,
        0.7,
        {"left": int, "transport": TRANSPORTS},
    ),
}
"""The kinds by their name."""


def readable_list(data: Any) -> StepList:
    """Return the list of steps that JSON describes.

    Raises:
        UsageError: it is none, or has a guest, a step or an argument that there is not.
    """
    if not isinstance(data, dict):
        raise UsageError("This is no list of steps of snapproof explore: it is no JSON object.")
    steps = StepList.from_json(data)
    for wrong in _wrong_in_guest(steps.guest):
        raise UsageError(f"A list of steps has no guest like that: {wrong}.")
    for number, step in enumerate(steps.steps, 1):
        for wrong in _wrong_in_step(step):
            raise UsageError(f"Step {number} of the list, '{step.kind}', cannot be taken: {wrong}.")
    return steps


def _wrong_in_guest(guest: GuestChoice) -> Iterator[str]:
    allowed: Mapping[str, Allowed] = {
        "machine": MACHINES,
        "accel": ("kvm", "tcg"),
        "ram": tuple(RAM_KINDS),
        "ram_mib": int,
        "vcpus": (1, 2, 3, 4),
        "pattern": PATTERNS,
    }
    for name, values in allowed.items():
        yield from _wrong_value(name, getattr(guest, name), values)
    if isinstance(guest.ram_mib, int) and guest.ram_mib not in _RAM_MIB:
        yield f"'ram_mib' is {guest.ram_mib}, and must be from {_RAM_MIB[0]} to {_RAM_MIB[-1]}"
    for device in guest.devices:
        yield from _wrong_value("devices", device, tuple(DEVICES))


def _wrong_in_step(step: Step) -> Iterator[str]:
    kind = KINDS.get(step.kind)
    if kind is None:
        yield f"there is no such kind; there are {', '.join(KINDS)}"
        return
    for name in step.arguments:
        if name not in kind.takes:
            yield f"it takes no argument '{name}'"
    for name, values in kind.takes.items():
        if name in step.arguments:
            yield from _wrong_value(name, step.arguments[name], values)
        elif name not in _OPTIONAL:
            yield f"its argument '{name}' is missing"


def _wrong_value(name: str, value: Any, allowed: Allowed) -> Iterator[str]:
    if isinstance(allowed, tuple):
        if value not in allowed:
            yield f"'{name}' is {value!r}, and must be one of {', '.join(map(str, allowed))}"
    elif not isinstance(value, (int, float) if allowed is float else allowed):
        yield f"'{name}' is {value!r}, and must be of the type {allowed.__name__}"
