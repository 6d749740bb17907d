"""Commands that are given to QEMU while RAM is saved, besides those about disks and about migration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.qemu.configuration import MIB
from tests_functional.during_save.thing import Place, Thing, command, commands, in_turn

_DIMM_MIB = 128
_MEMORY = {"qom-type": "memory-backend-ram", "id": "new-memory", "size": _DIMM_MIB * MIB}
_SLOTS = ("-m", "slots=2,maxmem=1G")
_DIRTY_RATE_SECONDS = 1
# QEMU's list of `info` commands: a line for each, which begins so.
_INFO = re.compile(r"^info (\S+)", re.MULTILINE)


def _all_queries(place: Place) -> None:
    """Give each query that works without arguments."""
    known = place.machine.qmp.execute("query-commands")
    for name in sorted(entry["name"] for entry in known if entry["name"].startswith("query-")):
        place.give(name)


def _all_infos(place: Place) -> None:
    """Give each `info` command of the human monitor."""
    for name in _INFO.findall(place.machine.hmp("help info")):
        place.hmp(f"info {name}")


def _dirty_rate(mode: str) -> Callable[[Place], None]:
    """Return a function that has QEMU measure how fast the guest writes, and waits for the result."""

    def measure(place: Place) -> None:
        place.give("calc-dirty-rate", {"calc-time": _DIRTY_RATE_SECONDS, "mode": mode})
        if not place.answers[-1].refusal:
            place.deadline.wait_for(
                lambda: place.machine.qmp.execute("query-dirty-rate")["status"] != "measuring",
                "The measurement of the dirty rate",
            )

    return measure


def _dump(detach: bool) -> Callable[[Place], None]:
    def dump(place: Place) -> None:
        target = f"file:{place.folder / 'dump'}"
        place.give("dump-guest-memory", {"paging": False, "protocol": target, "detach": detach})

    return dump


def _plug_dimm(place: Place) -> None:
    place.give("device_add", {"driver": "pc-dimm", "id": "new-dimm", "memdev": "new-memory"})


def _plug_cpu(place: Place) -> None:
    free = next(cpu for cpu in place.machine.qmp.execute("query-hotpluggable-cpus") if "qom-path" not in cpu)
    place.give("device_add", {"driver": free["type"], "id": "new-cpu", **free["props"]})


def _serve_nbd(place: Place) -> None:
    # No export: the address alone is what the server opens.
    address: dict[str, Any] = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
    place.give("nbd-server-start", {"addr": address})
    place.give("nbd-server-stop")


def _screendump(place: Place) -> None:
    place.give("screendump", {"filename": str(place.folder / "screen.ppm")})


_REMOVE_MEMORY = command("object-del", {"id": "new-memory"})

COMMAND_THINGS: Mapping[str, Thing] = {
    "queries": Thing(
        "monitoring asks QEMU at any time, each query that needs no argument", _all_queries, refused=None
    ),
    # The first time some of them open descriptors for good.
    "infos": Thing("the same by the human monitor", _all_infos, prepare=_all_infos, refused=None),
    "dump": Thing("it stops the guest and reads all of its memory", _dump(False), refused=True),
    "dump-detached": Thing("the same in a thread of its own", _dump(True), refused=True),
    "dirty-rate-page-sampling": Thing(
        "management measures how fast a guest writes, by reading its pages", _dirty_rate("page-sampling")
    ),
    "dirty-rate-dirty-bitmap": Thing(
        "the same by write protection of the accelerator", _dirty_rate("dirty-bitmap"), refused=None
    ),
    "dirty-rate-dirty-ring": Thing(
        "the same, which needs KVM's dirty ring, and is refused without",
        _dirty_rate("dirty-ring"),
        refused=None,
    ),
    "device-add": Thing(
        "a device from after T0 has no state in the file",
        command("device_add", {"driver": "virtio-rng-pci", "id": "new-device"}),
        refused=True,
    ),
    "device-del": Thing(
        "a device of T0 has its state in the file",
        command("device_del", {"id": "old-device"}),
        ("-device", "virtio-rng-pci,id=old-device"),
        refused=True,
    ),
    "memory-backend-add": Thing(
        "memory that no device uses is a new RAMBlock",
        command("object-add", _MEMORY),
        clean_up=_REMOVE_MEMORY,
    ),
    "memory-backend-del": Thing(
        "a RAMBlock that no device uses is freed while the save walks the list of them",
        _REMOVE_MEMORY,
        prepare=command("object-add", _MEMORY),
    ),
    "dimm-add": Thing(
        "a DIMM from after T0 has no pages in the file",
        _plug_dimm,
        _SLOTS,
        prepare=command("object-add", _MEMORY),
        refused=True,
    ),
    "dimm-del": Thing(
        "the memory of a DIMM of T0 is in the file",
        command("device_del", {"id": "old-dimm"}),
        (
            *_SLOTS,
            *("-object", "memory-backend-ram,id=old-memory,size=32M"),
            *("-device", "pc-dimm,id=old-dimm,memdev=old-memory"),
        ),
        refused=True,
    ),
    "cpu-add": Thing(
        "a vCPU from after T0 has no state in the file", _plug_cpu, ("-smp", "1,maxcpus=2"), refused=True
    ),
    "object-add-del": Thing(
        "management adds and removes an iothread",
        commands(("object-add", {"qom-type": "iothread", "id": "new"}), ("object-del", {"id": "new"})),
    ),
    "balloon": Thing(
        "management asks the guest for memory; this guest has no driver that gives any",
        command("balloon", {"value": 32 * MIB}),
        ("-device", "virtio-balloon-pci"),
    ),
    "nbd-server": Thing("a backup starts and ends while RAM is saved", _serve_nbd),
    "set-link": Thing(
        "a network card loses its link and gets it back",
        commands(("set_link", {"name": "net", "up": False}), ("set_link", {"name": "net", "up": True})),
        ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"),
    ),
    "screendump": Thing("it reads video memory, and updates it first", _screendump, ("-device", "VGA")),
    "trace-event": Thing(
        "a developer traces the save that runs",
        commands(
            ("trace-event-set-state", {"name": "migrate_set_state", "enable": True}),
            ("trace-event-set-state", {"name": "migrate_set_state", "enable": False}),
        ),
    ),
    "closefd": Thing(
        "a descriptor that nobody has given", command("closefd", {"fdname": "none"}), refused=True
    ),
    "set-action": Thing(
        "management changes what QEMU does when a guest panics",
        in_turn(command("set-action", {"panic": "pause"}), command("set-action", {"panic": "none"})),
    ),
}
