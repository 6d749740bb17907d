"""Lists the kinds of steps, each with its reason, what it does, and how its arguments are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.qemu.qapi_schema import QapiSchema
from tests_functional.explore import acts
from tests_functional.explore.commands import draw_arguments, drawable
from tests_functional.explore.sink import TRANSPORTS

# Not `sparse`: its holes are pages that nobody has touched, and the writers before have.
_PATTERNS = ("random", "sequential", "hot")
_COVERAGES = (0.25, 0.4, 0.6)
_FLOWS = (
    "LIVE", "LIVE_FILE", "STOP_MIGRATE_CONT", "STOP_MIGRATE_CONT_FILE", "STOP_AND_SAVE",
)  # fmt: skip
_INFOS = (
    "migrate", "ramblock", "mtree -f", "qtree", "qom-tree", "registers", "cpus", "pci", "irq", "pic", "jit",
    "memory-devices", "numa", "roms", "status", "block", "migrate_capabilities", "migrate_parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """The values that arguments are drawn from.

    Attributes:
        schema: of the QEMU under test.
        chance: the source of chance.
    """

    schema: QapiSchema
    chance: random.Random


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
    """

    reason: str
    act: acts.Act
    draw: Callable[[Drawing], dict[str, Any]] = _nothing
    weight: float = 1.0


def _begin(drawing: Drawing) -> dict[str, Any]:
    chance = drawing.chance
    golden, early = chance.choice(((False, False), (True, False), (False, True)))
    return {"transport": chance.choice(TRANSPORTS), "golden": golden, "early": early}


def _one(name: str, *values: Any) -> Callable[[Drawing], dict[str, Any]]:
    return lambda drawing: {name: drawing.chance.choice(values)}


def _pattern(drawing: Drawing) -> dict[str, Any]:
    return {"pattern": drawing.chance.choice(_PATTERNS), "coverage": drawing.chance.choice(_COVERAGES)}


def _qmp(drawing: Drawing) -> dict[str, Any]:
    names = drawable(drawing.schema)
    settings = [name for name in names if name.startswith("migrate-set-")]
    command = drawing.chance.choice(settings if settings and drawing.chance.random() < 0.35 else names)
    return {"command": command, "arguments": draw_arguments(drawing.schema, command, drawing.chance)}


KINDS: Mapping[str, Kind] = {
    "begin": Kind("a background snapshot begins, and other steps are taken meanwhile", acts.begin, _begin, 5),
    "finish": Kind("the save goes on to its end, and is judged", acts.finish, weight=2),
    "snapshot": Kind("a whole snapshot by one of the flows", acts.snapshot, _one("flow", *_FLOWS), 0.6),
    "cancel": Kind("users cancel what takes too long", acts.cancel, weight=0.6),
    "sink": Kind(
        "disks and networks are slow, stand still, and fail",
        acts.set_sink,
        _one("speed", "slow", "stalled", "fast", "closed", "stalled"),
        1.2,
    ),
    "stop": Kind("management stops a guest at any time", acts.stop, weight=2),
    "cont": Kind("and lets it go on", acts.cont, weight=2.5),
    "reset": Kind("users and guests reset at any time", acts.reset, _one("by_guest", False, True)),
    "panic": Kind("a guest panics at any time", acts.panic, weight=0.5),
    "sleep": Kind("a guest suspends itself to RAM at any time", acts.sleep, weight=0.8),
    "wake": Kind("and is woken up", acts.wake, weight=1.2),
    "freeze": Kind(
        "the host's user stops QEMU for a while", acts.freeze, _one("seconds", 0.05, 0.3, 1.0), 0.7
    ),
    "wait": Kind("time passes", acts.wait, _one("seconds", 0.01, 0.05, 0.2), 0.7),
    "pattern": Kind("another program writes to other memory", acts.pattern, _pattern, 0.7),
    "untouched": Kind("a guest uses memory for the first time after T0", acts.untouched, weight=1.5),
    "migrate-again": Kind("two tools save the same guest", acts.migrate_again, weight=0.4),
    "info": Kind("people look at what QEMU does", acts.info, _one("what", *_INFOS), 0.7),
    "qmp": Kind("management gives a command, now and then a wrong one", acts.qmp, _qmp, 7),
}
"""The kinds by their name."""
