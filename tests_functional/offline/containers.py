"""Puts one snapshot into each container that people have, by the programs that make them, and judges all."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness.codes import Code
from harness.errors import SnapproofError
from harness.qemu import migration
from harness.qemu.configuration import qemu_quoted
from harness.qemu.disk import make_empty_disk
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.vmstate.diff import diff_files

_NAME = "containers"
_EXPLANATION = "A stream is judged alike, and has the same pages, in each container."
_SECONDS = 120.0
_DISK_BYTES = 1 << 30
_SNAPSHOT = "of-t0"
_MIB = 1 << 20
_DOMAIN = b"<domain type='qemu'><name>snapproof-corpus</name></domain>\0"
# The programs that libvirt runs (src/qemu/qemu_saveimage.c) and lz4; the numbers are its formats.
_PROGRAMS = {"gzip": 1, "bzip2": 2, "xz": 3, "zstd": 5, "lz4": None}
_FASTEST = {"gzip": ("-1",), "bzip2": ("-1",), "xz": ("-0",)}


def every_container(run: Run) -> Outcome:
    """Save a stopped guest by `migrate` and by `savevm`; wrap, judge and compare the result."""
    begun = time.monotonic()
    folder = run.folder / "corpus"
    disk = make_empty_disk(run.folder / "savevm.qcow2", _DISK_BYTES)
    drive = f"if=none,id=vmstate,format=qcow2,file={qemu_quoted(disk.path)}"
    with writing_guest(run.with_arguments(("-drive", drive))) as source:
        folder.mkdir()
        run.say("Saving by 'migrate' and by 'savevm'.")
        machine = source.guest.machine
        deadline = run.deadline.at_most(_SECONDS)
        # The guest stays stopped between the two, so that both are of one moment.
        machine.qmp.execute("stop")
        complaint = machine.hmp(f"savevm {_SNAPSHOT}")
        plain = folder / "vmstate"
        with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
            migration.complete_save(machine, migration.exec_sink(plain), deadline)
        machine.quit()
    disk.path.rename(folder / "savevm.qcow2")
    problems = [Problem(Code.CONTAINERS_DIFFER, f"'savevm' failed: {complaint}")] if complaint.strip() else []
    made, missing = 0, []
    for name, make in _makers(plain, folder):
        run.say(f"Judging {name}.")
        path = make()
        if path is None:
            missing.append(name)
            continue
        made += 1
        problems += judge_container(name, path, plain)
    check = judged(
        _NAME, _EXPLANATION, problems, {"containers": made, "not made": ", ".join(missing) or "none"}
    )
    if check.status is Status.PASS:
        run.discard(folder)
    return outcome_of(run, [check], time.monotonic() - begun, _EXPLANATION, check.facts)


def judge_container(name: str, path: Path, plain: Path) -> list[Problem]:
    """Return what is wrong with the judgement on a container, or on its pages beside the plain file."""
    try:
        verdict = check_file(path, agent_ran=True)
        difference = diff_files(plain, path)
    except SnapproofError as error:
        return [Problem(Code.CONTAINERS_DIFFER, f"{name} cannot be read: {error.sentence}")]
    failed = [check for check in verdict.checks if check.status is Status.FAIL]
    problems = [
        Problem(Code.CONTAINERS_DIFFER, f"{name} fails '{check.name}': {check.violations[0].sentence}")
        for check in failed
    ]
    if difference.total_pages or difference.only_first or difference.only_second:
        pages = f"{difference.total_pages} pages of {name} differ from those of the plain file."
        problems.append(Problem(Code.CONTAINERS_DIFFER, pages))
    return problems


def _makers(plain: Path, folder: Path) -> Iterator[tuple[str, Callable[[], Path | None]]]:
    """Yield the name of each container, and what makes it; None where its program is missing."""
    yield "qcow2", lambda: folder / "savevm.qcow2"
    yield "padded", lambda: _padded(plain, folder / "padded.raw")
    yield "libvirt-raw", lambda: _save_image(plain, folder / "libvirt-raw.save", 0)
    for program, number in _PROGRAMS.items():
        packed = folder / f"vmstate.{program}"
        yield program, partial(_compressed, plain, packed, program)
        if number is not None:
            yield (
                f"libvirt-{program}",
                partial(_save_image, packed, folder / f"libvirt-{program}.save", number),
            )


def _padded(plain: Path, path: Path) -> Path:
    """Copy a stream into a volume, as Proxmox has it: whole MiB, with zeros behind the stream."""
    shutil.copyfile(plain, path)
    with path.open("r+b") as file:
        file.truncate((plain.stat().st_size // _MIB + 2) * _MIB)
    return path


def _compressed(plain: Path, path: Path, program: str) -> Path | None:
    if shutil.which(program) is None:
        return None
    with plain.open("rb") as stream, path.open("wb") as out:
        command = (program, "-c", *_FASTEST.get(program, ()))
        subprocess.run(command, stdin=stream, stdout=out, check=True, timeout=_SECONDS * 4)
    return path


def _save_image(stream: Path, path: Path, number: int) -> Path | None:
    """Write a save image by its documented layout, and not by libvirt itself."""
    if not stream.exists():
        return None
    with path.open("wb") as out, stream.open("rb") as content:
        out.write(b"LibvirtQemudSave" + struct.pack("<5I", 2, len(_DOMAIN), 1, number, 0) + bytes(56))
        out.write(_DOMAIN)
        shutil.copyfileobj(content, out)
    return path
