"""Copies guest RAM without a stream, of a stopped guest and of one that runs, and judges the copies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import UsageError
from harness.qemu.architectures import MACHINE_TYPES
from harness.qemu.configuration import MIB, type_of
from harness.qemu.core_image import dump_core
from harness.qemu.machine import Machine
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.verdict import CheckResult

_NAME = "ram-images"
_EXPLANATION = "Guest RAM without a stream passes if it is of one moment, and fails if it is of many."
_CORE = "snapproof-core"
_PIECES = 8
_POLL_SECONDS = 0.01
# Between two pieces of a running guest each writer writes so many pages at least.
_STEPS = 200
_OF_ANOTHER_MOMENT = (Code.WRITE_ORDER_NEWER, Code.WRITE_ORDER_OLDER, Code.WRITE_ORDER_TORN)


def ram_images(run: Run) -> Outcome:
    """Dump a stopped guest as an ELF core and as a flat image, copy one that runs, and judge all three."""
    begun = time.monotonic()
    core, flat, running = (run.folder / name for name in ("core", "flat.raw", "running.raw"))
    with writing_guest(run) as source:
        machine, deadline = source.guest.machine, run.deadline.at_most(SMALL_SAVE_SECONDS)
        run.say("Copying RAM of the stopped guest, and of the guest that runs.")
        machine.qmp.execute("stop")
        dump_core(machine, core, _CORE, deadline)
        for _ in _copied(run, machine, flat):
            pass
        machine.qmp.execute("cont")
        for _ in _copied(run, machine, running):
            _wait_written(source, deadline)
        machine.quit()
    run.say("Judging.")
    problems = [*judge_still("core", core), *judge_still("flat", flat, raw=True), *judge_moving(running)]
    facts = {"pages verified": _verified(core)} if not problems else {}
    check = judged(_NAME, _EXPLANATION, problems, facts)
    if check.status is Status.PASS:
        run.discard(run.folder)
    return outcome_of(run, [check], time.monotonic() - begun, _EXPLANATION, check.facts)


def _copied(run: Run, machine: Machine, path: Path) -> Iterator[None]:
    """Copy RAM by pieces into a flat image, as another VMM writes it; pause behind each piece."""
    piece_path = run.folder / "piece"
    with path.open("wb") as image:
        for address, size in _pieces(run):
            arguments = {"val": address, "size": size, "filename": str(piece_path)}
            machine.qmp.execute("pmemsave", arguments)
            image.write(piece_path.read_bytes())
            piece_path.unlink()
            yield


def _pieces(run: Run) -> Iterator[tuple[int, int]]:
    """Yield the first address and the size of each piece of guest RAM."""
    ram = run.stack.ram_mib * MIB
    machine = type_of(run.stack.machine)
    known = next(entry for entry in MACHINE_TYPES if entry.is_named(machine))
    step = ram // _PIECES
    for start, room in known.ram_windows(ram):
        size = min(ram, room)
        ram -= size
        for first in range(0, size, step):
            yield start + first, min(step, size - first)


def _wait_written(source: Source, deadline: Deadline) -> None:
    """Wait until each writer of a running guest has written some more pages."""
    before = source.counters.steps()
    while any(now < old + _STEPS for now, old in zip(source.counters.steps(), before, strict=True)):
        source.guest.machine.pause(deadline, _POLL_SECONDS)


def judge_still(name: str, path: Path, raw: bool = False) -> list[Problem]:
    """Return what is wrong with the judgement on an image of one moment."""
    try:
        order = _order(path, raw)
    except UsageError as error:
        return [Problem(Code.RAM_IMAGE_BLAMED, f"{name}: {error.sentence}", {"image": name})]
    if order.status is Status.PASS and order.facts.get("pages verified"):
        return []
    said = order.reason or "; ".join(violation.sentence for violation in order.violations[:1])
    sentence = f"{name}: an image of a stopped guest is judged {order.status.value}. {said}".strip()
    return [Problem(Code.RAM_IMAGE_BLAMED, sentence, {"image": name})]


def judge_moving(path: Path) -> list[Problem]:
    """Return what is wrong with the judgement on a flat image of many moments."""
    order = _order(path, raw=True)
    named = [one for one in order.violations if one.code in _OF_ANOTHER_MOMENT and one.offset is not None]
    if order.status is Status.FAIL and named:
        return []
    sentence = f"An image that was copied while the guest wrote is judged {order.status.value}."
    return [Problem(Code.RAM_IMAGE_EXCUSED, sentence)]


def _verified(path: Path) -> int:
    return int(_order(path).facts["pages verified"])


def _order(path: Path, raw: bool = False) -> CheckResult:
    order = check_file(path, agent_ran=True, raw=raw).check("write-order")
    assert order is not None, "an image is judged by its write order"
    return order
