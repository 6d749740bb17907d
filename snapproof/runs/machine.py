"""Takes the machine that the command line asks for, and checks it before the first guest is booted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from guest_images.provisioning import Provisioning
from guest_images.uefi import debian_firmware, own_firmware
from harness.errors import NoSubject, SubjectFailed, UsageError
from harness.process import last_line
from harness.qemu.architectures import Architecture
from harness.qemu.configuration import Flash, type_of
from harness.qemu.probe import cpu_models, machine_types
from harness.qemu.spawned_machine import SpawnedMachine
from harness.qemu.user_arguments import split_user_arguments
from snapproof.runs.defaults import QEMU_ARGUMENTS
from snapproof.runs.options import StackOptions
from tests_functional.lib.guest import Stack
from tests_functional.lib.machines import why_not_on, with_flash
from tests_functional.lib.profile_row import UEFI

_NAMES = 8


def with_machine(stack: Stack, options: StackOptions, provisioning: Provisioning) -> Stack:
    """Return the stack with machine type, CPU model, firmware and arguments that the options name.

    Raises:
        NoSubject: its QEMU has no such machine type or CPU model.
        UsageError: the guest cannot boot on that machine, or an option cannot be used.
        MachineryMissing, SetupBroken: Debian's firmware could not be fetched.
    """
    if options.machine is not None:
        _require_known("machine type", type_of(options.machine), machine_types(stack.executable), stack)
        stack = replace(stack, machine=options.machine)
    if options.cpu is not None:
        _require_known("CPU model", type_of(options.cpu), cpu_models(stack.executable), stack)
        stack = replace(stack, cpu=options.cpu)
    stack = replace(stack, user_arguments=split_user_arguments(options.qemu_args))
    flash = _firmware(options, stack.image.architecture, provisioning)
    if why := why_not_on(replace(stack, flash=flash)):
        raise UsageError(why)
    return with_flash(stack, flash) if flash else stack


def _firmware(options: StackOptions, architecture: Architecture, provisioning: Provisioning) -> Flash | None:
    """Return the UEFI firmware that the options name, None if they name none.

    Raises:
        UsageError: an option is missing, or too many are given, or a file cannot be read.
    """
    code, variables = options.firmware, options.firmware_vars
    if code == UEFI and variables is None:
        return debian_firmware(architecture, provisioning)
    if code is None and variables is None:
        return None
    if code in (None, UEFI) or variables is None:
        raise UsageError(
            "--firmware FILE and --firmware-vars FILE belong together: the program of a UEFI firmware, and "
            f"its variables. Give both files, or '--firmware {UEFI}' alone."
        )
    return own_firmware(Path(code), variables)


def _require_known(what: str, name: str, known: tuple[str, ...], stack: Stack) -> None:
    """Check that a QEMU has a machine type or CPU model; one that does not list them is asked by starting it.

    Raises:
        NoSubject: it has not.
    """
    if known and name not in known:
        raise NoSubject(f"'{stack.executable}' has no {what} '{name}'; it has {_some(name, known)}.")


def _some(wanted: str, known: tuple[str, ...]) -> str:
    """Return the names that are most like the wanted one, and how many more there are."""
    shown = get_close_matches(wanted, dict.fromkeys(known), n=_NAMES, cutoff=0.0)
    more = len(set(known)) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class _Failure:
    """A QEMU that did not start.

    Attributes:
        error: what happened.
        second: whether it was the restored one, beside a source that runs.
    """

    error: SubjectFailed
    second: bool


def require_start(stack: Stack, options: StackOptions, folder: Path) -> None:
    """Start a source and a restored QEMU at one time, as tests do, if the user has options for them.

    Args:
        stack: what the run's tests use, with the accelerator to start under.
        options: the user's options.
        folder: for the logs of the two, which are removed.

    Raises:
        UsageError: a QEMU ends, and does not without one of the options, which is at fault then.
        SubjectFailed: it ends without all of them too.
    """
    usual = stack.image.architecture.machine
    without: tuple[tuple[str, str | None, Stack], ...] = (
        (QEMU_ARGUMENTS, options.qemu_args, replace(stack, user_arguments=())),
        ("--cpu", options.cpu, replace(stack, user_arguments=(), cpu="")),
        ("--firmware", options.firmware, replace(stack, user_arguments=(), cpu="", flash=None)),
        ("--machine", options.machine, replace(stack, user_arguments=(), cpu="", flash=None, machine=usual)),
    )
    if not any(value for _, value, _ in without):
        return
    place = folder / "machine-check"
    try:
        failure = _failure(stack, place)
        if failure is None:
            return
        for option, value, less in without:
            if value and _failure(less, place) is None:
                raise _blame(f"{option} '{value}'", stack, failure)
        raise failure.error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _failure(stack: Stack, folder: Path) -> _Failure | None:
    """Start the two QEMUs, and return which one fails and how, None if both are right."""
    shutil.rmtree(folder, ignore_errors=True)
    config, second = stack.machine_config(), False
    try:
        with SpawnedMachine(config, folder / "source") as source:
            # A monitor may greet before all devices have been made.
            source.qmp.execute("query-status")
            second = True
            with SpawnedMachine(config, folder / "restored", incoming=True) as restored:
                restored.qmp.execute("query-status")
    except SubjectFailed as error:
        return _Failure(error, second)
    return None


def _blame(option: str, stack: Stack, failure: _Failure) -> UsageError:
    last = last_line(failure.error.evidence.log_tail)
    words = f" Its last words: {last}" if last else ""
    if failure.second:
        sentence = (
            f"Two QEMUs do not start at one time with {option}; a test has its source and its restored guest "
            "run side by side, so name nothing that only one of them can have."
        )
    else:
        sentence = f"'{stack.executable}' does not start with {option}, and starts without it; correct it."
    return UsageError(sentence + words)
