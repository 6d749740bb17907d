"""Sets properties of QEMU's objects, reads guest memory, and plugs devices in, at any time of a save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.explore.acts import give, must_refuse
from tests_functional.explore.model import SUSPENDED
from tests_functional.explore.session import Session

_MAIN_RAM = f"/objects/{DEFAULT_ARCHITECTURE.machines[0].ram_block}"
PROPERTIES: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    (_MAIN_RAM, "merge", (True, False)),
    (_MAIN_RAM, "dump", (True, False)),
    (_MAIN_RAM, "prealloc", (True,)),
    (_MAIN_RAM, "prealloc-threads", (2,)),
    (_MAIN_RAM, "share", (True, False)),
    ("/objects/explored-ram", "merge", (True, False)),
    ("/objects/explored-ram", "dump", (True, False)),
    ("/objects/explored-ram", "prealloc", (True,)),
    ("/objects/explored-ram", "policy", ("default", "preferred", "bind", "interleave")),
    ("/machine/peripheral/balloon", "guest-stats-polling-interval", (0, 1)),
    ("/machine/peripheral/rng", "max-bytes", (1,)),
    ("/machine", "mem-merge", (True, False)),
    ("/machine", "dump-guest-core", (True, False)),
)
"""Objects with their properties that touch guest RAM or its host memory while QEMU runs, and values to set.

QEMU backends/hostmem.c (10.0): `merge` and `dump` give madvise(), `prealloc` touches each page.
"""


@dataclass(frozen=True)
class Pluggable:
    """A device that is plugged into a guest that runs.

    Attributes:
        reason: why it is tried.
        driver: name of the device, as `-device` has it.
        options: of the device.
        backend: options of its memory, None for a device without.
    """

    reason: str
    driver: str
    options: Mapping[str, Any]
    backend: Mapping[str, Any] | None = None

    def arguments(self, name: str) -> tuple[str, ...]:
        """Return what a QEMU is given on its command line to have it."""
        words: list[str] = []
        if self.backend is not None:
            words += [
                "-object",
                _line(str(self.backend["qom-type"]), {**self.backend, "id": f"{name}-memory"}),
            ]
        return (*words, "-device", _line(self.driver, {**self.options, "id": name}))


PLUGGABLE: Mapping[str, Pluggable] = {
    "plugged-rng": Pluggable("a device without memory", "virtio-rng-pci", {"addr": "0x10"}),
    "plugged-vga": Pluggable("a device with memory of its own", "secondary-vga", {"addr": "0x11"}),
    "plugged-memory": Pluggable(
        "a RAMBlock beside guest RAM",
        "ivshmem-plain",
        # Only a master can be saved.
        {"addr": "0x12", "memdev": "plugged-memory-memory", "master": True},
        {"qom-type": "memory-backend-ram", "size": 1 << 20},
    ),
    "plugged-dimm": Pluggable(
        "memory that the guest has from then on",
        "pc-dimm",
        {"memdev": "plugged-dimm-memory"},
        {"qom-type": "memory-backend-ram", "size": 128 << 20},
    ),
}
"""Devices by name, which is also their id."""


def qom_set(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Set a property of an object; QEMU may refuse it, and must come to no harm."""
    give(session, "qom-set", {name: arguments[name] for name in ("path", "property", "value")})
    return True


def read_memory(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Have QEMU write guest memory into a file, which reads it by the way of a debugger."""
    path = session.run.folder / "memory"
    given = {"val": int(arguments["address"]), "size": int(arguments["size"]), "filename": str(path)}
    give(session, "pmemsave", given)
    return True


def plug(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Plug a device in; QEMU must refuse it while RAM is saved, and restored guests have it otherwise."""
    name = str(arguments["device"])
    device = PLUGGABLE[name]
    if name in session.plugged or session.model.run_state == SUSPENDED:
        return False
    session.settle()
    if session.save is not None:
        session.save.touched = True
    given = {"driver": device.driver, "id": name, **device.options}
    if device.backend is not None:
        give(session, "object-add", {**device.backend, "id": f"{name}-memory"})
    if session.save_goes_on():
        must_refuse(session, "device_add", given)
    elif session.model.save is None and give(session, "device_add", given) is None:
        session.plugged[name] = device.arguments(name)
        return True
    if device.backend is not None:
        give(session, "object-del", {"id": f"{name}-memory"})
    return True


def _line(first: str, options: Mapping[str, Any]) -> str:
    """Return a device or an object as QEMU's command line has it."""
    words = {key: ("on" if value is True else value) for key, value in options.items() if key != "qom-type"}
    return ",".join([first, *(f"{key}={value}" for key, value in words.items())])
