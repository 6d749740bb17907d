"""A row of a profile: one test with its parameters and the reason why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.qemu.configuration import DEFAULT_RAM_MIB
from harness.qemu.migration import BACKGROUND_SNAPSHOT
from tests_functional.lib.guest_size import GUESTS_AT_ONCE, QEMU_MIB

# The test's own process, which judges the file.
_TEST_MIB = 200

SMALL: Mapping[str, str | int | float] = {"ram_mib": 256, "coverage": 0.7}
"""Parameters of a guest for tests that need many snapshots or guests rather than a large one."""

QUICK_GUEST = "bare"
"""The guest for tests that need no operating system: it boots at once."""

UEFI = "uefi"
"""The value of the parameter `firmware` that means Debian's UEFI firmware."""

SMOKE, PREMERGE = ("smoke",), ("premerge",)
"""Values of `ProfileRow.profiles`. Premerge has one row of each kind: the most fragile, or the quickest."""


LINUX, ANY_GUEST = ("linux",), ("linux", "bare")
"""Values of `ProfileRow.kinds`. A test that runs commands in its guest needs an operating system there."""


@dataclass(frozen=True)
class ProfileRow:
    """One test with its parameters.

    Attributes:
        name: unique and stable; what results, `--filter` and `reproduce.sh` call it.
        test: Avocado reference below tests_functional/, as ``folder/file.py:Class.method``.
        reason: why it is in the profile.
        parameters: what differs from the base class's defaults, by name; `guest` is a guest of the catalogue
            in place of the run's, `accel` the accelerator that it must have, `machine` the machine type,
            `cpu` the CPU model, `firmware` is UEFI for Debian's UEFI firmware.
        seconds: time-out of the test; a healthy run takes a fifth of it.
        cycle_seconds: what each further cycle of `--repeat` adds to it.
        needs: migration capabilities without which it is skipped before anything is booted.
        alone: whether nothing may run beside it, since it measures times that others would spoil.
        profiles: that run it beside `nightly`, which runs every row.
        kinds: the kinds of guest that it runs with, see `GuestImage.kind`.
        quick_ram_mib: RAM of the bare guest that premerge gives it.
        bare_ram_mib: RAM of a bare guest in any profile, 0 for as much as another guest has.
        why_linux: why it needs an operating system in its guest, or proves more with one and gets no bare
            guest unless one is asked for.
    """

    name: str
    test: str
    reason: str
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)
    seconds: int = 300
    cycle_seconds: int = 60
    needs: tuple[str, ...] = (BACKGROUND_SNAPSHOT,)
    alone: bool = False
    profiles: tuple[str, ...] = ()
    kinds: tuple[str, ...] = LINUX
    quick_ram_mib: int = 128
    bare_ram_mib: int = 0
    why_linux: str = ""

    def quick(self) -> ProfileRow:
        """Return the row with a small bare guest, if it proves the same with one and names no other."""
        if "bare" not in self.kinds or "guest" in self.parameters or self.why_linux:
            return self
        quick = {**self.parameters, "guest": QUICK_GUEST, "ram_mib": self.quick_ram_mib}
        return replace(self, parameters=quick)

    @property
    def memory_mib(self) -> int:
        """Return the most memory of the host that it takes, in MiB."""
        ram = int(self.parameters.get("ram_mib", DEFAULT_RAM_MIB))
        return GUESTS_AT_ONCE * (ram + QEMU_MIB) + _TEST_MIB
