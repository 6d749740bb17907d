"""Plants every fault of the catalogue in a file, and finds which check catches it, and where."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import SnapproofError, UsageError
from harness.status import Status
from validators.faults.files.agent_meta import AGENT_META
from validators.faults.files.catalogue import Fault
from validators.faults.files.content import CONTENT
from validators.faults.files.cuts import CUTS
from validators.faults.files.layout import LAYOUT
from validators.faults.files.loader import LOADER
from validators.faults.files.mapped import MAPPED
from validators.faults.files.record import RECORDS
from validators.faults.files.subject import DamagePlace, Subject, open_subject
from validators.faults.files.workbench import Workbench, write_damaged
from validators.judge import check_file
from validators.verdict import Violation
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.stream.reader import read_index

CATALOGUE: tuple[Fault, ...] = (
    *CONTENT.faults,
    *AGENT_META.faults,
    *RECORDS.faults,
    *CUTS.faults,
    *LAYOUT.faults,
    *LOADER.faults,
    *MAPPED.faults,
)


@dataclass(frozen=True)
class Row:
    """The result of one planted fault.

    Attributes:
        fault: the fault's name.
        layout: "stream" or "mapped-ram".
        caught_by: names of the checks that failed; empty if none did.
        placed: whether a violation names the place of the damage.
        place: where the damage was, in words.
        blind: why no offline check can see it, "" if one can.
        outcome: "caught", "missed", "needs restore" (blind), "needs golden image", "not covered" (no oracle
            looks there, see docs/oracles.md), "not applicable", or "caught by restore" if a restore showed a
            blind one.
        seed: with it apply_fault() plants the same fault again.
        detail: sentence of the first violation.
    """

    fault: str
    layout: str
    caught_by: tuple[str, ...]
    placed: bool
    place: str
    blind: str
    outcome: str
    seed: int
    detail: str = ""


def run_selftest(
    file: Path, golden: Path | None = None, *, seed: int = 1, faults: Sequence[Fault] = CATALOGUE,
    folder: Path | None = None, progress: Callable[[Row], None] | None = None, offset: int = 0,
    snapshot: str = "",
) -> list[Row]:  # fmt: skip
    """Plant each fault in a copy of `file` and judge the copy.

    Args:
        file: an undamaged vmstate file.
        golden: golden image of it.
        seed: of the random choices; the same seed gives the same faults.
        faults: the faults to plant.
        folder: for the damaged copy, which takes the size of the file.
        progress: called with each row.
        offset: byte offset of the stream, or of its container, in the file.
        snapshot: internal snapshot of a qcow2 image, "" for the only one.

    Raises:
        UsageError: the undamaged file does not pass, so nothing can be shown with it.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name, open_stream(file, offset, snapshot) as opened:
        if opened.is_copy:
            # The faults are planted in the stream, and not in what it lies in.
            file, offset = Path(f"/proc/self/fd/{opened.source.descriptor}"), 0
        subject = Subject(opened.source, read_index(opened.source, opened.start, opened.ends_file), seed)
        _require_right(file, golden, offset)
        bench = Workbench(file, Path(name) / "damaged")
        rows = []
        for number, fault in enumerate(faults):
            subject.reseed(seed + number)
            row = _run(subject, golden, fault, seed + number, bench, offset)
            rows.append(row)
            if progress:
                progress(row)
    return rows


def _require_right(file: Path, golden: Path | None, offset: int) -> None:
    before = check_file(file, golden=golden, offset=offset)
    if before.status not in (Status.PASS, Status.SKIP):
        why = "".join(f" ({found.check}: {found.sentence})" for found in before.violations[:1])
        raise UsageError(
            f"The file '{file}' cannot be used for a self-test: undamaged it does not pass{why}."
        )


def _run(
    subject: Subject, golden: Path | None, fault: Fault, seed: int, bench: Workbench, offset: int
) -> Row:
    damage = fault.plant(subject)
    row = Row(fault.name, subject.index.layout, (), False, "", fault.blind, "not applicable", seed)
    if damage is None:
        return row
    with bench.damaged(damage) as path:
        try:
            verdict = check_file(path, golden=golden, offset=offset, agent_ran=True)
        except SnapproofError as error:
            return replace(
                row,
                caught_by=("unusable",),
                place=damage.place.words,
                outcome="caught",
                detail=error.sentence,
            )
    caught = tuple(check.name for check in verdict.checks if check.status is Status.FAIL)
    if caught:
        outcome = "caught"
    elif fault.blind:
        outcome = "needs restore"
    elif fault.needs_golden and golden is None:
        outcome = "needs golden image"
    elif fault.uncovered:
        outcome = "not covered"
    else:
        outcome = "missed"
    placed = any(names_place(violation, damage.place) for violation in verdict.violations)
    detail = next((violation.sentence for violation in verdict.violations), "")
    return replace(
        row, caught_by=caught, placed=placed, place=damage.place.words, outcome=outcome, detail=detail
    )


def names_place(violation: Violation, place: DamagePlace) -> bool:
    """Whether a violation names the place of the damage."""
    if place.offsets:
        if violation.block == place.block and violation.offset in place.offsets:
            return True
    elif place.block and (violation.block == place.block or f"'{place.block}'" in violation.sentence):
        return True
    return violation.file_offset is not None and place.start <= violation.file_offset <= place.end


def apply_fault(file: Path, fault: Fault, target: Path, seed: int = 1) -> DamagePlace | None:
    """Write a damaged copy of a file; return the place of the damage, None if it does not apply to it."""
    with open_subject(file, seed) as subject:
        damage = fault.plant(subject)
    if damage is not None:
        write_damaged(file, damage, target)
    return damage.place if damage else None
