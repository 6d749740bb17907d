"""What the A/B gate is to compare: two QEMUs of this host, made ready with what is to be said about them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ci.bench.ab_arguments import RAM_MIB, WRITER
from ci.bench.environment import require_room
from ci.events import Progress
from ci.stack import prepare_stack
from harness.errors import NoSubject, NotApplicable, SetupBroken, UsageError
from harness.migration import BACKGROUND_SNAPSHOT
from tests_functional.scenarios.bench.sides import TwoSides
from tests_functional.scenarios.bench.two_sides import WAY, two_sides
from tests_functional.scenarios.bench.warm_guest import sized
from tests_functional.scenarios.bench.writers import Writer
from tests_functional.scenarios.guest import Stack

_LEAST_FOR_WRITERS_MIB = 16
# What is started from, of both sides, what a save writes, and some room.
_FILES = 4


@dataclass(frozen=True)
class Compared:
    """Two sides that can be measured.

    Attributes:
        sides: A and B.
        a: what A is, for ab.json.
        b: what B is.
        settings: what the guest is like, likewise.
        a_text: what A is, for people.
        b_text: what B is.
        guest_text: the guest.
    """

    sides: TwoSides
    a: dict[str, Any]
    b: dict[str, Any]
    settings: dict[str, Any]
    a_text: str
    b_text: str
    guest_text: str


@contextmanager
def never_of_a_commit() -> Iterator[None]:
    """A is the measure, the same at every commit of a bisection: that it is not there is no skipped commit.

    Raises:
        UsageError: in place of NoSubject.
    """
    try:
        yield
    except NoSubject as error:
        raise UsageError(error.sentence, error.evidence) from error


@contextmanager
def compared_qemus(arguments: argparse.Namespace, folder: Path, progress: Progress) -> Iterator[Compared]:
    """Two QEMUs of this host with guests that are saved and ready to be started.

    Raises:
        UsageError: one of them is none, or they cannot be compared.
        NotApplicable: one has no background snapshots.
        SetupBroken, SubjectFailed: see two_sides.
    """
    ram_mib = RAM_MIB if arguments.ram is None else arguments.ram
    writer = Writer(arguments.writer or WRITER)
    with never_of_a_commit():
        stack_a, a = _stack(arguments, arguments.a, ram_mib, folder, progress)
    stack_b, b = stack_a, a
    if arguments.b is not None:
        stack_b, b = _stack(arguments, arguments.b, ram_mib, folder, progress)
    if stack_a.accel != stack_b.accel:
        # Not UsageError: a commit whose KVM is broken says nothing about the others.
        raise SetupBroken(
            f"A runs under {stack_a.accel} and B under {stack_b.accel}; choose one for both with --accel."
        )
    require_room(folder, _FILES * ram_mib)
    with two_sides(stack_a, stack_b, writer, folder / "guests", progress.step, arguments.seed) as sides:
        own = "" if sides.common else "; each side has booted its own, since neither starts the other's"
        yield Compared(
            sides,
            a,
            b,
            {"writer": writer.value, "ram_mib": ram_mib, "way": WAY.value, "common_guest": sides.common},
            _text(a),
            _text(b),
            f"{a['guest_image']}, {ram_mib} MiB, {a['accelerator']}, writer '{writer.value}', "
            f"{WAY.value}{own}",
        )


def _text(environment: dict[str, Any]) -> str:
    return f"QEMU {environment['qemu']}, {environment['qemu_executable']}"


def _stack(
    arguments: argparse.Namespace, name: str | None, ram_mib: int, folder: Path, progress: Progress
) -> tuple[Stack, dict[str, Any]]:
    one = argparse.Namespace(**{**vars(arguments), "qemu": name})
    stack, environment = prepare_stack(one, folder, progress.step)
    if stack.capabilities and BACKGROUND_SNAPSHOT not in stack.capabilities:
        raise NotApplicable(f"QEMU {environment['qemu']} has no capability '{BACKGROUND_SNAPSHOT}'.")
    least = stack.image.own_mib + _LEAST_FOR_WRITERS_MIB
    if ram_mib < least:
        raise UsageError(f"--ram {ram_mib} is too little for this guest; give {least} or more.")
    return replace(sized(stack, ram_mib), host_key_file=folder / "ssh_host_key"), environment
