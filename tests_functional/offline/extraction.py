"""Compares RAM as the stream reader extracts it with RAM in a QEMU that restored the same file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu import migration
from harness.qemu.ram import dump_golden
from harness.qemu.spawned_machine import SpawnedMachine
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot, restore_uri, take
from validators.checks import Problem, judged
from validators.verdict import CheckResult
from validators.vmstate.extract import extract

_NAME = "extracted-ram"
_EXPLANATION = "RAM extracted from the file equals, byte for byte, what QEMU holds after restoring it."
_SECONDS = 120.0
_CHUNK_BYTES = 4 << 20


def extracted_equals_restored(flow: Flow) -> Callable[[Run], Outcome]:
    """Return the scenario for a flow in which the guest is stopped at T0, so that a restore stays paused."""
    return lambda run: _compare(run, flow)


def _compare(run: Run, flow: Flow) -> Outcome:
    begun = time.monotonic()
    snapshot = saved(run, flow)
    folder = snapshot.path.parent
    run.say("Extracting RAM, and restoring the file into a new QEMU.")
    extracted, dumped = folder / "golden-extracted", folder / "golden-restored"
    extract(snapshot.path, extracted)
    with restored(run, snapshot) as machine:
        dump_golden(machine, dumped)
    check = compare_images(extracted, dumped)
    if check.status is Status.PASS:
        run.discard(folder)
    return outcome_of(run, [check], time.monotonic() - begun, _EXPLANATION, check.facts)


def saved(run: Run, flow: Flow) -> Snapshot:
    """Boot a guest, save it while it writes, and end it."""
    folder = run.folder / "snapshot"
    with writing_guest(run) as source:
        folder.mkdir()
        run.say(f"Saving ({flow.value}).")
        snapshot = take(flow, source.guest, source.counters, folder, run.deadline.at_most(_SECONDS))
        source.guest.machine.quit()
    return snapshot


@contextmanager
def restored(run: Run, snapshot: Snapshot) -> Iterator[SpawnedMachine]:
    """Restore a file into a new QEMU, and yield that with the guest paused at T0."""
    config = run.stack.machine_config(snapshot.disk)
    machine = SpawnedMachine(config, run.folder / "restored", incoming=True)
    with machine:
        state = migration.restore(machine, restore_uri(machine, snapshot), run.deadline.at_most(_SECONDS))
        if state != "paused":
            raise SetupBroken(f"The restored guest is '{state}', so its RAM no longer is that of T0.")
        yield machine
        machine.quit()


def compare_images(extracted: Path, restored: Path) -> CheckResult:
    """Compare two golden images block by block, byte for byte.

    Args:
        extracted: folder with golden.json that the stream reader wrote.
        restored: folder with golden.json dumped from QEMU; blocks that it leaves out are not compared.
    """
    ours, theirs = _files(extracted), _files(restored)
    problems = [
        Problem(Code.EXTRACTED_RAM_BLOCK_MISSING, f"RAMBlock '{name}' is in QEMU and not in the file.")
        for name in theirs
        if name not in ours
    ]
    compared = 0
    for name in ours.keys() & theirs.keys():
        offset = _first_difference(ours[name], theirs[name])
        compared += theirs[name].stat().st_size
        if offset is not None:
            problems.append(
                Problem(Code.EXTRACTED_RAM_DIFFERS, f"RAMBlock '{name}' differs at offset {offset:#x}.")
            )
    if not compared:
        problems.append(Problem(Code.EXTRACTED_RAM_NOTHING, "No RAMBlock could be compared."))
    return judged(_NAME, _EXPLANATION, problems, {"bytes_compared": compared})


def _files(folder: Path) -> dict[str, Path]:
    content = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    return {entry["idstr"]: folder / entry["file"] for entry in content["blocks"]}


def _first_difference(first: Path, second: Path) -> int | None:
    """Return the offset in bytes of the first byte in which two files differ, None where they are equal."""
    with first.open("rb") as ours, second.open("rb") as theirs:
        at = 0
        while True:
            left, right = ours.read(_CHUNK_BYTES), theirs.read(_CHUNK_BYTES)
            if left != right:
                shorter = min(len(left), len(right))
                pairs = zip(left[:shorter], right[:shorter], strict=True)
                return at + next((number for number, (a, b) in enumerate(pairs) if a != b), shorter)
            if not left:
                return None
            at += len(left)
