"""A side of the A/B gate that is a QEMU of this host. Both sides restore the same guest if they can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from harness.qemu.configuration import with_type
from snapproof.bench.sides import TwoSides, comparable
from tests_functional.lib.guest import Stack
from tests_functional.lib.measure.cases import Way, Writer
from tests_functional.lib.measure.sample import Sample, measure
from tests_functional.lib.measure.warm_guest import WarmGuest, remove, started, warm_guest
from validators.faults.slow.wrapper import Slowdown, slow_qemu
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

WAY = Way.BACKGROUND_EXEC
_WARM_SECONDS, _START_SECONDS = 300.0, 120.0
_OF_SAMPLE: Mapping[str, Callable[[Sample], float | None]] = {
    "total": lambda sample: sample.total_ms,
    "stun": lambda sample: sample.stun_ms,
    "downtime": lambda sample: sample.downtime_ms,
    "stall-p99": lambda sample: sample.stall_us["p99"],
    "size": lambda sample: sample.size_bytes,
}


@dataclass(frozen=True)
class QemuSide:
    """A QEMU of this host and the saved guest that it restores; see sides.Side.

    Attributes:
        warm: the saved guest, with the QEMU in its stack.
    """

    warm: WarmGuest

    def figure(self, metric: str, folder: Path) -> float:
        """Restore and save the guest once in a new process; `folder` is removed unless the save fails."""
        executable = self.warm.stack.executable
        sample = measure(self.warm, WAY, folder, around_seconds=0.0)
        if not sample.measured:
            raise SetupBroken(f"A save by '{executable}' failed, so nothing can be compared: {sample.error}")
        value = _OF_SAMPLE[metric](sample)
        if value is None:
            raise SetupBroken(f"'{executable}' gave no figure for --metric {metric}.")
        return comparable(float(value), metric)

    def slowed(self, slowdown: Slowdown, folder: Path) -> QemuSide:
        """Return the same guest, saved by a wrapper script that preloads the library."""
        return self.by(slow_qemu(self.warm.stack.executable, slowdown, folder))

    def by(self, executable: Path) -> QemuSide:
        """Return the same guest, restored by another QEMU."""
        warm = self.warm
        return QemuSide(replace(warm, stack=replace(warm.stack, executable=executable)))


@contextmanager
def two_sides(
    a: Stack, b: Stack, writer: Writer, folder: Path, log: Callable[[str], None], seed: int
) -> Iterator[TwoSides]:
    """Boot and save a guest that both QEMUs can restore, or else one guest for each.

    Args:
        a: stack of side A, with RAM and coverage from `sized`.
        b: stack of side B, likewise.
        writer: what writes in the guest.
        folder: a folder of its own for the files, which are removed on leaving.
        log: called with a sentence before each slow step.
        seed: seed of the write order.

    Raises:
        SetupBroken: the guest does not answer or has too little memory.
        SubjectFailed: a QEMU failed.
    """
    with ExitStack() as files:

        def saved(stack: Stack, name: str) -> QemuSide:
            log(f"Booting and saving a guest with {name} ({stack.ram_mib} MiB, {stack.accel}).")
            warm = files.enter_context(
                warm_guest(stack, writer, folder / name, Deadline(_WARM_SECONDS), seed)
            )
            with open_source(warm.snapshot.path) as file:
                machine = read_index(file).configuration.machine
            return QemuSide(replace(warm, stack=replace(stack, machine=with_type(stack.machine, machine))))

        of_a = saved(a, "A")
        if a.executable == b.executable:
            yield TwoSides(of_a, of_a, common=True)
            return
        if _restores(by_b := of_a.by(b.executable), folder / "start"):
            yield TwoSides(of_a, by_b, common=True)
            return
        log("B does not restore the guest that A has saved.")
        of_b = saved(b, "B")
        if _restores(by_a := of_b.by(a.executable), folder / "start"):
            yield TwoSides(by_a, of_b, common=True)
            return
        log("A does not restore the guest that B has saved either, so each has a guest of its own.")
        yield TwoSides(of_a, of_b, common=False)


def _restores(side: QemuSide, folder: Path) -> bool:
    """Tell whether a QEMU restores the guest of its side."""
    try:
        with started(side.warm, folder, WAY, Deadline(_START_SECONDS)):
            return True
    except SubjectFailed:
        return False
    finally:
        remove(folder)
