"""Prepares the guests of other architectures than the run's that rows name, each with its QEMU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guest_images.catalogue import guest_spec
from guest_images.guests.image import GuestImage, build_guest
from harness.errors import MachineryMissing, SetupBroken
from snapproof.runs.options import StackOptions
from snapproof.runs.stack import find_emulator, provisioning_for
from tests_functional.lib.guest import Stack
from tests_functional.lib.profile_row import ProfileRow


@dataclass(frozen=True)
class OtherGuests:
    """Guests of other architectures than the run's.

    Attributes:
        images: those that can be tested.
        emulators: their QEMUs, by the program's name.
        missing: of each of the others, by its name, why it cannot be tested, as a sentence.
    """

    images: tuple[GuestImage, ...] = ()
    emulators: Mapping[str, Path] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def prepare_others(
    rows: Sequence[ProfileRow], stack: Stack, options: StackOptions, log: Callable[[str], None]
) -> OtherGuests:
    """Build the guests of other architectures that rows name, and fetch the QEMUs that emulate these.

    What is missing for one of them leaves out its tests, and no others. So does a guest, or a machine, that
    the user names: the run is about its architecture then.

    Args:
        rows: the tests of a QEMU.
        stack: the run's, with that QEMU.
        options: the user's; `qemu` is that of the stack.
        log: called with a sentence before each slow step.
    """
    own, provisioning = stack.image.architecture, provisioning_for(options, log)
    names = sorted({str(row.parameters["guest"]) for row in rows if "guest" in row.parameters})
    images, emulators, missing = [], {}, {}
    for name in names:
        architecture = guest_spec(name).architecture
        if architecture == own:
            continue
        if options.names_guest:
            missing[name] = (
                f"This test's guest '{name}' is for {architecture.name}, the run is of {own.name}."
            )
            continue
        if options.accel == "kvm" and architecture.qemu != own.qemu:
            missing[name] = f"The guest '{name}' is for {architecture.name}, which only TCG emulates here."
            continue
        try:
            found = find_emulator(options.qemu, stack.executable, own, architecture, provisioning)
            images.append(build_guest(name, provisioning))
        except (MachineryMissing, SetupBroken) as error:
            missing[name] = f"The guest '{name}' cannot be tested here: {error.sentence}"
        else:
            emulators[architecture.qemu] = found
    return OtherGuests(tuple(images), emulators, missing)
