"""Makes the legs of a run, one for each `--qemu`, their part of a shard, and the table of results."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guest_images.catalogue import guest_spec
from guest_images.guests.image import GuestImage, build_guest
from guest_images.uefi import debian_firmware
from harness.errors import UsageError
from harness.qemu.accelerator import Accelerator
from harness.qemu.configuration import DEFAULT_RAM_MIB, Flash
from harness.qemu.probe import machine_types
from harness.status import Status
from snapproof.report.run_result import OutcomeRecord
from snapproof.report.text_table import table_rows
from snapproof.runs.guest_choice import bare_guest
from snapproof.runs.options import RunOptions, StackOptions
from snapproof.runs.other_guests import OtherGuests, prepare_others
from snapproof.runs.stack import accelerator_for, prepare_stack, provisioning_for
from tests_functional.lib.guest import Stack
from tests_functional.lib.guest_size import COVERAGE, fitting_ram
from tests_functional.lib.machines import why_not_on, with_guest, with_uefi_needs
from tests_functional.lib.profile_row import QUICK_GUEST, ProfileRow

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9.+-]+")
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Leg:
    """The tests of a run on one QEMU.

    Attributes:
        label: name of the leg in results, "" if the run has no other.
        qemu: as given with `--qemu`, None for the default.
        folder: folder for its tests' files, the results folder itself if the run has no other leg.
        stack: QEMU, guest and accelerator of its tests.
        environment: the environment that all its results have.
        rows: its tests in this shard.
        guests: further guests of its architecture, which some tests name.
        others: guests of other architectures, which some tests name.
        accelerators: for guests by name, "" for the run's own, the accelerator that they run with.
        machines: the machine types that its QEMU has; empty where none of its tests names one.
        uefi: Debian's UEFI firmware, None where none of its tests names it.
    """

    label: str
    qemu: str | None
    folder: Path
    stack: Stack
    environment: dict[str, Any]
    rows: tuple[ProfileRow, ...]
    guests: tuple[GuestImage, ...] = ()
    others: OtherGuests = field(default_factory=OtherGuests)
    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)
    machines: tuple[str, ...] = ()
    uefi: Flash | None = None

    def why_not(self, row: ProfileRow) -> str:
        """Return why a test cannot run with this QEMU, guest and accelerator as a sentence, "" if it can."""
        if missing := _missing_capability(row, self.stack):
            return f"This QEMU has no capability '{missing}'."
        name = str(row.parameters.get("guest", ""))
        if why := self.others.missing.get(name):
            return why
        image = _images(self.stack, self.guests, self.others)[name]
        stack = with_guest(self.stack, image, self.others.emulators)
        machine = str(row.parameters.get("machine", stack.machine))
        if self.machines and machine not in self.machines and "machine" in row.parameters:
            return f"This QEMU has no machine type '{machine}'."
        flash = self.uefi if "firmware" in row.parameters else stack.flash
        if why := why_not_on(replace(stack, machine=machine, flash=flash)):
            return why
        if image.kind not in row.kinds:
            why = f" ({row.why_linux})" if row.why_linux else ""
            return f"This test needs an operating system in its guest{why}, and '{image.name}' has none."
        found = self.accelerators.get(name)
        if row.parameters.get("accel") == "kvm" and found and found.name != "kvm":
            return f"This test needs KVM, and its guest runs under {found.name}: {found.reason}"
        return ""

    def has_bare_guests(self, rows: Sequence[ProfileRow]) -> bool:
        """Return whether each of these tests, which can run, has a bare guest."""
        images = _images(self.stack, self.guests, self.others)
        return all(images[str(row.parameters.get("guest", ""))].bare for row in rows)

    @property
    def version(self) -> tuple[int, ...]:
        """QEMU's version as numbers that can be compared."""
        return tuple(int(number) for number in _NUMBERS.findall(self.environment["qemu"])[:3])

    def called(self, row: ProfileRow) -> str:
        """Return the name of a test in the whole run: with the leg's label."""
        return f"{self.label}/{row.name}" if self.label else row.name

    def named(self, outcome: OutcomeRecord) -> OutcomeRecord:
        """Return an outcome with the leg's label in its name and folder."""
        if not self.label:
            return outcome
        name = f"{self.label}/{outcome.name}"
        return replace(outcome, name=name, folder=f"{self.label}/{outcome.folder}")

    def newer(self, legs: Sequence[Leg]) -> str:
        """Return the legs with a newer QEMU as a test parameter: JSON, label to executables, newest last."""
        by_age = sorted(legs, key=lambda leg: leg.version)
        return json.dumps({leg.label: leg.executables for leg in by_age if leg.version > self.version})

    @property
    def executables(self) -> dict[str, str]:
        """Its QEMUs of all architectures, by the program's name."""
        own = {self.stack.image.architecture.qemu: self.stack.executable}
        return {program: str(path) for program, path in {**self.others.emulators, **own}.items()}


def prepare_legs(
    options: RunOptions, rows: Sequence[ProfileRow], folder: Path, log: Callable[[str], None]
) -> list[Leg]:
    """Fetch and build everything that the run needs, for all QEMUs, before the first test.

    Args:
        options: the options of `snapproof run`.
        rows: the tests of each leg.
        folder: the results folder.
        log: called with a sentence before each slow step.

    Returns:
        The legs that have a test in this shard.
    """
    names = options.legs()
    labels = _leg_labels(names)
    work = _sharded([(label, row) for label in labels for row in rows], options.shard)
    legs = []
    for name, label in zip(names, labels, strict=True):
        mine = tuple(row for owner, row in work if owner == label)
        if not mine:
            continue
        place = folder / label if label else folder
        place.mkdir(exist_ok=True)
        asked = replace(options.stack, qemu=name)
        stack, environment = prepare_stack(replace(asked, guest=_guest_of(mine, asked)), place, log)
        mine = tuple(own_bare(row, stack.image) for row in mine)
        able = [row for row in mine if not _missing_capability(row, stack)]
        others = prepare_others(able, stack, asked, log)
        guests = _named_guests(mine, stack, options.stack, log)
        named = any("machine" in row.parameters for row in mine)
        machines = machine_types(stack.executable) if named else ()
        uefi = _named_firmware(mine, stack, options.stack, log)
        images = _images(stack, guests, others)
        stacks = {
            called: with_guest(stack, image, others.emulators)
            for called, image in images.items()
            if image.architecture.qemu == stack.image.architecture.qemu
        }
        accelerators = _accelerators(options.stack, stacks, environment, place, log)
        mine = tuple(_for_guest(row, images, accelerators) for row in mine)
        _say_guests(mine, log)
        legs.append(
            Leg(label, name, place, stack, environment, mine, guests, others, accelerators, machines, uefi)
        )
    return legs


def _guest_of(rows: Sequence[ProfileRow], options: StackOptions) -> str | None:
    """Return the value of `--guest`: the bare guest where all tests have it, so that no other is built."""
    bare = all(row.parameters.get("guest") == QUICK_GUEST for row in rows)
    named = options.guest is not None or options.own.given()
    return QUICK_GUEST if bare and not named else options.guest


def _missing_capability(row: ProfileRow, stack: Stack) -> str:
    """Return a capability that a test needs and the stack's QEMU lacks, "" if there is none.

    If QEMU did not list its capabilities, each test asks it.
    """
    known = stack.capabilities
    return next((name for name in row.needs if known and name not in known), "")


def _images(stack: Stack, guests: Sequence[GuestImage], others: OtherGuests) -> dict[str, GuestImage]:
    """Return all guests of a leg by the name that rows give them, "" for the run's own."""
    return {"": stack.image, **{image.name: image for image in (*guests, *others.images)}}


def _say_guests(rows: Sequence[ProfileRow], log: Callable[[str], None]) -> None:
    """Log how many tests run with which guest in place of the run's own."""
    named = ((row.parameters.get("guest"), row.parameters.get("accel")) for row in rows)
    for (guest, accel), count in Counter(one for one in named if one[0]).items():
        under = f" under {accel}" if accel else ""
        log(f"{count} of {len(rows)} tests run with the guest '{guest}' instead{under}.")


def _named_guests(
    rows: Sequence[ProfileRow], stack: Stack, options: StackOptions, log: Callable[[str], None]
) -> tuple[GuestImage, ...]:
    """Build and return the guests of the stack's architecture that rows name."""
    own = stack.image.architecture
    named = sorted({str(row.parameters["guest"]) for row in rows if "guest" in row.parameters})
    names = [name for name in named if guest_spec(name).architecture == own]
    provisioning = provisioning_for(options, log)
    images = (build_guest(name, provisioning) for name in names)
    return tuple(with_uefi_needs(image) if options.firmware else image for image in images)


def _named_firmware(
    rows: Sequence[ProfileRow], stack: Stack, options: StackOptions, log: Callable[[str], None]
) -> Flash | None:
    """Fetch and return the UEFI firmware that rows name, None where none does or there is none."""
    if stack.image.architecture.uefi is None or not any("firmware" in row.parameters for row in rows):
        return None
    return debian_firmware(stack.image.architecture, provisioning_for(options, log))


def _accelerators(
    options: StackOptions,
    stacks: Mapping[str, Stack],
    environment: Mapping[str, Any],
    folder: Path,
    log: Callable[[str], None],
) -> dict[str, Accelerator]:
    """Find the accelerator of each bare guest, which may run under a KVM that no Linux boots under.

    Args:
        options: the user's.
        stacks: one for each guest that the run's QEMU can boot, by the guest's name, "" for the run's own.
        environment: the environment of the run's results.
        folder: for logs.
        log: called with a sentence before each slow step.
    """
    provisioning = provisioning_for(options, log)
    return {
        name: accelerator_for(
            options.accel, one, environment["qemu"], folder / f"kvm-{one.image.name}", provisioning
        )
        for name, one in stacks.items()
        if one.image.bare and not why_not_on(one)
    }


def own_bare(row: ProfileRow, own: GuestImage) -> ProfileRow:
    """Return the row with the bare guest of the run's architecture in place of the usual one.

    That is the run's own guest where it is bare. A row whose architecture has none stays as it is.
    """
    if row.parameters.get("guest") != QUICK_GUEST:
        return row
    if not own.bare:
        name = bare_guest(own.architecture) or QUICK_GUEST
        return replace(row, parameters={**row.parameters, "guest": name})
    return replace(row, parameters={key: row.parameters[key] for key in row.parameters if key != "guest"})


def _for_guest(
    row: ProfileRow, images: Mapping[str, GuestImage], accelerators: Mapping[str, Accelerator]
) -> ProfileRow:
    """Return the row with RAM, accelerator and time as its guest needs them, if there is that guest."""
    name = str(row.parameters.get("guest", ""))
    if name not in images:
        return row
    image = images[name]
    if "firmware" in row.parameters:
        image = with_uefi_needs(image)
    accel = {"accel": accelerators[name].name} if name in accelerators else {}
    asked = row.bare_ram_mib if image.bare else 0
    ram_mib = fitting_ram(
        asked or int(row.parameters.get("ram_mib", DEFAULT_RAM_MIB)),
        float(row.parameters.get("coverage", COVERAGE)),
        image.own_mib,
        image.architecture.machines[0].ram_multiple_mib,
    )
    return replace(
        row,
        parameters={**accel, **row.parameters, "ram_mib": ram_mib},
        seconds=int(row.seconds * image.slowness),
    )


def work_digest(legs: int, rows: Sequence[ProfileRow]) -> str:
    """Return a digest of all tests of a run, in their order; all shards of one run have the same.

    Args:
        legs: number of QEMUs.
        rows: the tests of each QEMU.
    """
    text = "\n".join([str(legs), *(row.name for row in rows)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _leg_labels(names: Sequence[str | None]) -> list[str]:
    return [""] if len(names) == 1 else _labels([name or "" for name in names])


def _labels(names: Sequence[str]) -> list[str]:
    """Return a unique folder name for each QEMU, made from its name or path."""
    labels: list[str] = []
    for name in names:
        words = _NOT_IN_A_NAME.sub("-", "-".join(Path(name).parts[-2:]) if "/" in name else name).strip("-.")
        label = words or "qemu"
        number = sum(other == label or other.startswith(f"{label}-again") for other in labels)
        labels.append(f"{label}-again{number}" if number else label)
    return labels


def _sharded(
    work: list[tuple[str, ProfileRow]], shard: tuple[int, int] | None
) -> list[tuple[str, ProfileRow]]:
    if shard is None:
        return work
    number, count = shard
    mine = work[number - 1 :: count]
    if not mine:
        raise UsageError(
            f"There are only {len(work)} tests, so shard {number} of {count} has none; "
            f"make at most {len(work)} shards."
        )
    return mine


def table(outcomes: Sequence[OutcomeRecord], legs: Sequence[Leg]) -> list[str]:
    """Return the lines of a table: the number of tests with each status, by test group and QEMU.

    Args:
        outcomes: the outcomes of the whole run.
        legs: at least two.
    """
    cells: dict[tuple[str, str], Counter[Status]] = {}
    for outcome in outcomes:
        label, _, name = outcome.name.partition("/")
        cells.setdefault((name.partition(".")[0], label), Counter())[outcome.status] += 1
    groups = list(dict.fromkeys(group for group, _ in cells))
    labels = [leg.label for leg in legs]
    rows = [["", *(f"{leg.label} ({leg.environment['qemu'].split()[0]})" for leg in legs)]]
    rows += [[group, *(_cell(cells.get((group, label), Counter())) for label in labels)] for group in groups]
    return table_rows(rows)


def _cell(counts: Counter[Status]) -> str:
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status]) or "-"
