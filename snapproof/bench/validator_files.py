"""Makes the files of `snapproof bench validator` by saving bare guests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import SetupBroken
from harness.qemu import migration
from harness.qemu.machine import Machine
from snapproof.bench.validator_plan import BenchFile
from snapproof.runs.command_run import CommandRuns
from snapproof.runs.options import StackOptions
from snapproof.runs.stack import prepare_stack
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.profile_row import QUICK_GUEST
from tests_functional.lib.run import Run, free_mib
from tests_functional.lib.save import Flow, take

_SECONDS = 3600.0
_SEED = 1
# The file, its golden image, and what `extract` writes beside them.
_COPIES = 3


@dataclass(frozen=True)
class MadeFile:
    """A file that was made.

    Attributes:
        path: the file.
        golden: its golden image, None if it has none.
    """

    path: Path
    golden: Path | None


def make_file(kind: BenchFile, options: StackOptions, folder: Path, say: Callable[[str], None]) -> MadeFile:
    """Boot a bare guest in a folder, which the caller removes, and save it there.

    Raises:
        SetupBroken: the disk has not enough room.
    """
    needed = kind.ram_mib * _COPIES
    if free_mib(folder) < needed:
        raise SetupBroken(
            f"The disk that holds '{folder}' has {free_mib(folder)} MiB free, and the file '{kind.name}' "
            f"needs {needed} MiB; set TMPDIR to a folder on another disk, or choose other files by --make."
        )
    options = replace(options, guest=options.guest or QUICK_GUEST)
    stack, environment = prepare_stack(options, folder, say)
    runs = CommandRuns(options, environment, _SEED, folder, _SECONDS, keep=True)
    run = runs.run("bench", replace(stack, ram_mib=kind.ram_mib, coverage=kind.coverage).fitted(), folder)
    if kind.untouched_mib:
        run = run.with_arguments(_untouched(kind))
    into = folder / "made"
    into.mkdir()
    with writing_guest(run) as source:
        say(f"Saving the file '{kind.name}'.")
        if kind.untouched_mib:
            made = _save_sparse(source.guest.machine, into / "vmstate", run)
        else:
            flow = Flow.STOP_MIGRATE_CONT
            saved = take(flow, source.guest, source.counters, into, run.deadline)
            made = MadeFile(saved.path, saved.golden.folder if saved.golden else None)
        source.guest.machine.quit()
    return made


def _untouched(kind: BenchFile) -> tuple[str, ...]:
    """Return QEMU's arguments for memory that is plugged in, takes nothing of the host and stays so."""
    most = kind.ram_mib + 2 * kind.untouched_mib
    return (
        *("-m", f"slots=1,maxmem={most}M"),
        *("-object", f"memory-backend-ram,id=untouched,size={kind.untouched_mib}M,reserve=off"),
        *("-device", "pc-dimm,id=dimm,memdev=untouched"),
    )


def _save_sparse(machine: Machine, path: Path, run: Run) -> MadeFile:
    machine.qmp.execute("stop")
    with migration.capability_on(machine, migration.MAPPED_RAM):
        migration.complete_save(machine, migration.file_uri(path), run.deadline)
    return MadeFile(path, None)
