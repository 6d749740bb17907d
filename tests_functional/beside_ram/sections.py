"""Saves each machine type of a QEMU, not started, and looks for iterable sections that no test covers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken, SnapproofError, SubjectFailed
from harness.qemu import migration
from harness.qemu.configuration import QEMU_LOG, MachineConfig
from harness.qemu.probe import machine_types
from harness.qemu.qmp import CommandRefused
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.beside_ram.handlers import Handler, handler_of, handlers
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult
from validators.vmstate.stream.index import Section
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

_KNOWN = "Each iterable section other than RAM is of a handler that a test covers, or has no state."
_SAVED = "QEMU starts the machine type with stopped vCPUs and saves it, or says why not."
# pseries takes multiples of 256 MiB.
_RAM_MIB = 256
# How often what QEMU asks for is given to it.
_TRIES = 4
_SAVE_SECONDS = 60.0
# QEMU 7.2 to 11.1, boards: "Invalid RAM size, should be 512 MiB", "... can only be used with 512MiB or ...".
_RAM_WANTED = re.compile(r"(?:should be|only be used with) (\d+) ?([MG])i?B")
# hw/core/machine-smp.c and audio/audio.c.
_VCPUS_WANTED = re.compile(r"min CPUs supported by machine '.*' is (\d+)")
_SOUND_WANTED, _NO_SOUND = "no default audio driver", ("-audio", "driver=none")
_VERSION = re.compile(r"(?P<family>.+)-(?P<major>\d+)\.(?P<minor>\d+)(?:\.\d+)?")
_ALONE = frozenset({"none", "x-remote"})


@dataclass(frozen=True)
class IterableState:
    """An iterable section other than RAM in a saved file.

    Attributes:
        name: the section's.
        largest: bytes of its largest part.
    """

    name: str
    largest: int


def iterable_sections(run: Run) -> Outcome:
    """Save each machine type of the run's QEMU and judge the sections of the files.

    Raises:
        NotApplicable: none of them could be saved.
        SubjectFailed: one on which guests of this architecture run could not.
    """
    return _judged(run, representatives(machine_types(run.stack.executable)), handlers())


def sections_without(section: str, machine: str) -> Callable[[Run], Outcome]:
    """Return a scenario for one machine type as if the handler of a section were new in QEMU."""
    known = {name: handler for name, handler in handlers().items() if name != section}
    return lambda run: _judged(run, (machine,), known)


def _judged(run: Run, names: Sequence[str], known: Mapping[str, Handler]) -> Outcome:
    begun = time.monotonic()
    checks: list[CheckResult] = []
    found: dict[str, list[str]] = {}
    for number, name in enumerate(names, 1):
        run.say(f"Machine type {name} ({number} of {len(names)}).")
        try:
            states = _saved(run, name)
        except (SetupBroken, SubjectFailed) as error:
            if crashed(error):
                checks.append(judged(f"{name}/saved", _SAVED, [Problem.of_error(error)]))
                continue
            # A machine type may need memory or devices of the host that this one lacks.
            if run.stack.image.architecture.machine_type(name):
                # Guests run on it, so it cannot be left out.
                raise
            reason = f"It cannot be saved without more: {error.sentence}"
            checks.append(skipped(f"{name}/iterable-sections", _KNOWN, reason))
            continue
        checks.append(replace(judge_sections(states, known), name=f"{name}/iterable-sections"))
        for state in states:
            found.setdefault(state.name, []).append(name)
    if all(check.reason for check in checks):
        raise NotApplicable("None of the machine types of this QEMU could be saved.")
    lines = [f"{section}: {', '.join(types)}" for section, types in found.items()]
    run.say("; ".join(lines) or "No machine type has iterable sections other than RAM.")
    holds = f"Iterable sections other than RAM are {'; '.join(lines) or 'in no file'}."
    figures = {"machine_types": sum(not check.reason for check in checks)}
    return outcome_of(run, checks, time.monotonic() - begun, holds, figures)


def crashed(error: SnapproofError) -> bool:
    """Return whether QEMU has ended by a signal, such as that of an assertion, and not with a message."""
    exit_code = error.evidence.exit_code
    return isinstance(error, SubjectFailed) and exit_code is not None and exit_code < 0


def representatives(names: Iterable[str]) -> tuple[str, ...]:
    """Return the machine types that have no version, and of those with one the oldest and the newest."""
    families: dict[str, list[tuple[int, int, str]]] = {}
    others = []
    for name in dict.fromkeys(names):
        match = _VERSION.fullmatch(name)
        if match:
            version = int(match["major"]), int(match["minor"])
            families.setdefault(match["family"], []).append((*version, name))
        elif name not in _ALONE:
            others.append(name)
    ends = (pick(versions)[-1] for versions in families.values() for pick in (min, max))
    return (*dict.fromkeys(ends), *others)


def judge_sections(states: Iterable[IterableState], known: Mapping[str, Handler]) -> CheckResult:
    """Check that each iterable section of a file is of a handler with a test, or without state.

    Args:
        states: the sections.
        known: the handlers by the name of their sections.
    """
    problems = []
    facts: dict[str, int] = {}
    for state in states:
        handler = handler_of(state.name, known)
        facts[state.name] = state.largest
        if handler is None:
            what = "of a handler that is not known here, so no test covers it"
        elif handler.test or state.largest <= handler.empty_bytes:
            continue
        else:
            what = f"{state.largest} bytes long, and no test covers it: {handler.why_untested}"
        sentence = f"The iterable section '{state.name}' is {what}."
        problems.append(Problem(Code.BESIDE_RAM_UNTESTED, sentence, {"section": state.name}))
    return judged("iterable-sections", _KNOWN, problems, facts)


def states_of(sections: Iterable[Section]) -> list[IterableState]:
    """Return the iterable state that these sections carry, in their order."""
    largest: dict[str, int] = {}
    for section in sections:
        length = section.data_end - section.data_offset
        largest[section.idstr] = max(length, largest.get(section.idstr, 0))
    return [IterableState(name, length) for name, length in largest.items()]


def _saved(run: Run, name: str) -> list[IterableState]:
    """Start a machine type with stopped vCPUs, save it, and return its iterable state.

    Raises:
        SubjectFailed: QEMU does not start it so, or does not save it.
    """
    config = MachineConfig(
        run.stack.executable,
        accel="tcg",
        ram_mib=_RAM_MIB,
        machine=name,
        extra=("-S",),
        kernel=None,
        initrd=None,
        cmdline="",
        virtio=False,
    )
    for _ in range(_TRIES):
        try:
            return _saved_with(run, config)
        except SubjectFailed as error:
            wanted = as_wanted(config, error.evidence.log_tail)
            if wanted == config:
                raise
            config = wanted
    return _saved_with(run, config)


def as_wanted(config: MachineConfig, words: str) -> MachineConfig:
    """Return a configuration with what QEMU asks for in its last words: RAM, processors, a sound driver."""
    if ram := _RAM_WANTED.search(words):
        return replace(config, ram_mib=int(ram[1]) * (1024 if ram[2] == "G" else 1))
    if vcpus := _VCPUS_WANTED.search(words):
        return replace(config, vcpus=int(vcpus[1]))
    if _SOUND_WANTED in words and _NO_SOUND[0] not in config.extra:
        return replace(config, extra=(*config.extra, *_NO_SOUND))
    return config


def _saved_with(run: Run, config: MachineConfig) -> list[IterableState]:
    folder = run.folder / config.machine
    path = folder / "vmstate"
    limit = run.deadline.at_most(_SAVE_SECONDS)
    try:
        with SpawnedMachine(config, folder) as machine:
            migration.lift_bandwidth_limit(machine)
            try:
                migration.complete_save(machine, migration.exec_sink(path), limit)
            except CommandRefused as refusal:
                raise machine.failure(f"QEMU refuses to save it: {refusal.reason.rstrip('.')}") from refusal
            machine.quit()
        with open_source(path) as source:
            return states_of(read_index(source).iterables)
    finally:
        path.unlink(missing_ok=True)
        (folder / QEMU_LOG).unlink(missing_ok=True)
