"""Has a TPM change its state while RAM is saved; the state is in another process, and QEMU asks that for it.

Its register of measurements is extended before T0, and further times after it. A restored guest with a TPM of
its own must read the value of T0. Stop-and-save is the control.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.linux.socket_folder import socket_folder
from harness.qemu.configuration import qemu_quoted
from harness.qemu.probe import has_device
from tests_functional.beside_ram.tpm import Tpm, extended
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.daemons import Daemon, served
from tests_functional.lib.driven import require_driven
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_NAME, _DEVICE = "tpm", "tpm-crb"
_FLOWS = (Flow.STOP_AND_SAVE, Flow.STOP_MIGRATE_CONT, Flow.LIVE)
_EXTENDING_SECONDS = 2.0
_SOURCE = "The TPM of the source guest has all measurements, those of before and of after T0."
_RESTORED = "The TPM of the restored guest has the measurements of T0, and takes another one."
_STALLS = "The sink is slow here, so that the save takes long; writers wait for protected pages meanwhile."

_SWTPM = Daemon(
    "swtpm",
    "swtpm",
    ("socket", "--tpm2", "--tpmstate=dir={folder}", "--ctrl=type=unixio,path={socket}"),
    private="swtpm",
)


@dataclass(frozen=True)
class _Place:
    """The folder of a TPM's state, and the socket at which it serves one QEMU."""

    folder: Path
    socket: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of QEMU for it."""
        return (
            *("-chardev", f"socket,id=tpm-process,path={qemu_quoted(self.socket)}"),
            *("-tpmdev", "emulator,id=tpm,chardev=tpm-process"),
            *("-device", f"{_DEVICE},tpmdev=tpm"),
        )


def external_tpm(run: Run) -> Outcome:
    """Save a guest whose TPM is another process, and judge the state of the TPM.

    Raises:
        NotApplicable: this QEMU has no such device, or as `require_driven`.
    """
    begun = time.monotonic()
    require_driven(run)
    if not has_device(run.stack.executable, _DEVICE):
        raise NotApplicable(f"This QEMU has no device '{_DEVICE}'.")
    cycles = []
    with _place(run) as place, writing_guest(run.with_arguments(place.arguments)) as source:
        measured = _Measured(Tpm(source.guest.machine))
        measured.tpm.start()
        for number, flow in enumerate(_FLOWS):
            cycles.append(_judge(run, source, measured, flow, f"{_NAME}/{number + 1:02d}-{flow.label}"))
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


class _Measured:
    """A TPM, and the value that its register must have."""

    def __init__(self, tpm: Tpm) -> None:
        self.tpm = tpm
        self.value = bytes(hashlib.sha256().digest_size)
        self._number = 0

    def extend(self) -> None:
        """Extend the register by another digest."""
        self._number += 1
        digest = hashlib.sha256(str(self._number).encode()).digest()
        self.tpm.extend(digest)
        self.value = extended(self.value, digest)


def _judge(run: Run, source: Source, measured: _Measured, flow: Flow, label: str) -> Cycle:
    """Extend the register, save the guest while it is extended further, and judge both TPMs."""
    machine = source.guest.machine
    folder = run.folder / label
    folder.mkdir(parents=True)
    run.say(f"{label}: saving ({flow.value}).")
    measured.extend()
    at_t0 = measured.value

    def extend_on() -> None:
        extending = Deadline(_EXTENDING_SECONDS)
        measured.extend()
        while not extending.expired:
            measured.extend()

    acts = Acts(saving=extend_on) if flow.background else Acts()
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
    snapshot = take(flow, source.guest, source.counters, folder, limit, acts)
    if not flow.background:
        measured.extend()
    checks = judge_source(source.guest, source.before)
    checks.append(judge_source_tpm(measured.tpm.read(), measured.value))
    with resting(run.stack, machine, checks), _place(run) as place:
        restoring = run.with_arguments(place.arguments)
        return judge_cycle(restoring, source, snapshot, label, checks, _looks_for(at_t0), _STALLS)


def _looks_for(at_t0: bytes) -> Callable[[Guest], list[CheckResult]]:
    """Return a function that judges the TPM of a restored guest, and extends it once more."""

    def look(guest: Guest) -> list[CheckResult]:
        tpm, digest = Tpm(guest.machine), bytes(hashlib.sha256().digest_size)
        found = tpm.read()
        tpm.extend(digest)
        return [judge_restored_tpm(found, at_t0, tpm.read(), extended(found, digest))]

    return look


def judge_source_tpm(found: bytes, expected: bytes) -> CheckResult:
    """Check the register of the source's TPM against all measurements."""
    problems = []
    if found != expected:
        sentence = f"The TPM of the source guest has {found.hex()} in its register, and not {expected.hex()}."
        problems.append(Problem(Code.BESIDE_RAM_SOURCE, sentence, {"state": _NAME}))
    return judged("source-tpm", _SOURCE, problems)


def judge_restored_tpm(found: bytes, at_t0: bytes, after: bytes, expected_after: bytes) -> CheckResult:
    """Check the register of a restored TPM.

    Args:
        found: what it has.
        at_t0: what the source had at T0.
        after: what it has after one more measurement.
        expected_after: what it must have then.
    """
    fields, problems = {"state": _NAME}, []
    if found != at_t0:
        # Each measurement hides the one before, so what it is of cannot be told.
        sentence = (
            f"The TPM of the restored guest has {found.hex()} in its register; at T0 it was {at_t0.hex()}."
        )
        problems.append(Problem(Code.BESIDE_RAM_LOST, sentence, fields))
    if after != expected_after:
        sentence = (
            f"The TPM of the restored guest has {after.hex()} after one more measurement, and not "
            f"{expected_after.hex()}."
        )
        problems.append(Problem(Code.BESIDE_RAM_STUCK, sentence, fields))
    return judged("restored-tpm", _RESTORED, problems)


@contextmanager
def _place(run: Run) -> Iterator[_Place]:
    """Run a TPM without state within the `with`."""
    with socket_folder() as folder:
        place = _Place(folder, folder / "tpm")
        values = {"folder": str(folder), "socket": str(place.socket)}
        with served(_SWTPM, values, run.folder / "swtpm.log", run.provisioning):
            yield place
