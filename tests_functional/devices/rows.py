"""Lists which sweeps over QEMU's devices each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.devices.listing import ALL
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, QUICK_GUEST, ProfileRow

_DEVICES = "devices/test_devices.py:Devices"
_SWEEP = f"{_DEVICES}.test_sweep"
_GUEST: Mapping[str, str | int | float] = {"guest": QUICK_GUEST, "ram_mib": 32}
# Hundreds of small guests, one after another.
_SECONDS = 7200

_, *_OTHERS = DEFAULT_ARCHITECTURE.machines

ROWS = (
    ProfileRow(
        "devices.all",
        _SWEEP,
        "the state of each device is saved at T0 by code of its own; other tests have a handful of them",
        {**_GUEST, "devices": ALL},
        seconds=_SECONDS,
        kinds=ANY_GUEST,
    ),
    *(
        ProfileRow(
            f"devices.{kind.name}",
            _SWEEP,
            "another machine has other buses, interrupt controllers and clocks below the same devices",
            # Its clock is the processor's counter, which not every KVM restores.
            {**_GUEST, "devices": ALL, "machine": kind.name, **({} if kind.clock else {"accel": "tcg"})},
            seconds=_SECONDS,
            kinds=ANY_GUEST,
        )
        for kind in _OTHERS
    ),
    ProfileRow(
        "devices.few",
        _SWEEP,
        "the devices that most guests have their disk on, in one guest",
        {**_GUEST, "devices": "virtio-blk-pci*"},
        seconds=120,
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "devices.planted",
        f"{_DEVICES}.test_planted",
        "a sweep of hundreds of devices that are right must be able to see one that is not",
        _GUEST,
        seconds=900,
        kinds=ANY_GUEST,
    ),
)
